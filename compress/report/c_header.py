"""memory_plan.h: a memory plan as constants that firmware includes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from compress.report.memory_plan import BufferRecord, MemoryPlan, StepRecord

_KINDS = {"load": "COMPRESS_LOAD", "store": "COMPRESS_STORE", "compute": "COMPRESS_COMPUTE"}

_TYPES = """\
enum compress_kind { COMPRESS_LOAD, COMPRESS_STORE, COMPRESS_COMPUTE };

/* A place in the scratchpad. Where rows is not 0, row h of a tensor (1, C, H, W), all its channels,
   lies at address + (h % rows) * row_bytes. tensor is -1 for memory that weights pass through. */
struct compress_buffer {
    uint32_t address, bytes, rows, row_bytes;
    int32_t tensor;
};

/* One copy or computation. buffers are compress_operands[first_operand ...], inputs first.
   row_end 0 means all rows. id is an operator of a computation, a tensor of a copy. */
struct compress_step {
    uint8_t kind;
    uint16_t inputs, outputs;
    uint32_t id, first_operand, row_begin, row_end, bytes;
};
"""


def c_header(plan: MemoryPlan) -> str:
    """The plan as C99: offsets of all buffers, the order of all steps, tables over both.

    Names of the model become identifiers of ASCII letters, digits and underscores; two that would
    be the same are numbered. The text depends on the plan's buffers and steps alone.
    """
    return "".join(f"{line}\n" for line in _lines(plan)).replace("\n\n\n", "\n\n")


def _lines(plan: MemoryPlan) -> Iterator[str]:
    tensors = [tensor.name for tensor in plan.tensors]
    operators = list(plan.order)
    yield "/* Written by `compress plan`. Sizes and addresses are bytes. */"
    yield "#ifndef COMPRESS_MEMORY_PLAN_H"
    yield "#define COMPRESS_MEMORY_PLAN_H"
    yield ""
    yield "#include <stdint.h>"
    yield ""
    if plan.advisory:
        yield "/* Advisory: the memory is a cache, so the addresses mean nothing on this device. */"
    yield f"#define COMPRESS_SCRATCHPAD_BYTES {plan.scratchpad_bytes}u"
    yield f"#define COMPRESS_ALIGN_BYTES {plan.align_bytes}u"
    yield f"#define COMPRESS_PEAK_BYTES {plan.bounds.peak_bytes}u"
    yield f"#define COMPRESS_OFF_CHIP_BYTES {plan.traffic.total_bytes}u"
    yield f"#define COMPRESS_BUFFERS {len(plan.buffers)}u"
    yield f"#define COMPRESS_STEPS {len(plan.steps)}u"
    yield f"#define COMPRESS_TENSORS {len(tensors)}u"
    yield f"#define COMPRESS_OPERATORS {len(operators)}u"
    yield ""
    yield from _enum("compress_tensor", "COMPRESS_TENSOR", tensors)
    yield ""
    yield "/* In the order they first run in. */"
    yield from _enum("compress_operator", "COMPRESS_OPERATOR", operators)
    yield ""
    yield "/* Offsets by buffer. */"
    names = identifiers(buffer.name for buffer in plan.buffers)
    for name, buffer in zip(names, plan.buffers, strict=True):
        yield f"#define COMPRESS_OFFSET_{name} {buffer.address}u"
    yield ""
    yield from _TYPES.splitlines()
    yield ""
    yield from _tables(plan, tensors, operators)
    yield ""
    yield "#endif"


def _enum(kind: str, prefix: str, names: list[str]) -> Iterator[str]:
    if not names:
        return
    yield f"enum {kind} {{"
    for number, name in enumerate(identifiers(names)):
        yield f"    {prefix}_{name} = {number},"
    yield "};"


def _tables(plan: MemoryPlan, tensors: list[str], operators: list[str]) -> Iterator[str]:
    tensor_ids = {name: number for number, name in enumerate(tensors)}
    operator_ids = {name: number for number, name in enumerate(operators)}
    buffer_ids = {buffer.name: number for number, buffer in enumerate(plan.buffers)}
    by_name = {buffer.name: buffer for buffer in plan.buffers}
    if plan.buffers:
        yield "static const struct compress_buffer compress_buffers[] = {"
        for buffer in plan.buffers:
            yield f"    {_buffer(buffer, tensor_ids)},"
        yield "};"
        yield ""
    operands: list[int] = []
    rows: list[str] = []
    for step in plan.steps:
        place = by_name[(step.outputs or step.inputs)[0]].tensor
        number = operator_ids[step.operator] if step.kind == "compute" else tensor_ids[place]
        rows.append(f"    {_step(step, number, len(operands))},")
        operands += [buffer_ids[name] for name in (*step.inputs, *step.outputs)]
    if not rows:
        return
    yield "static const uint32_t compress_operands[] = {"
    for start in range(0, len(operands), 16):
        yield "    " + " ".join(f"{number}," for number in operands[start : start + 16])
    yield "};"
    yield ""
    yield "static const struct compress_step compress_steps[] = {"
    yield from rows
    yield "};"


def _buffer(buffer: BufferRecord, tensors: dict[str, int]) -> str:
    tensor = tensors.get(buffer.tensor, -1)
    sizes = (buffer.address, buffer.bytes, buffer.rows, buffer.row_bytes)
    return "{" + ", ".join(f"{size}u" for size in sizes) + f", {tensor}}}"


def _step(step: StepRecord, number: int, first_operand: int) -> str:
    begin, end = step.rows or (0, 0)
    figures = (number, first_operand, begin, end, step.bytes)
    counts = f"{len(step.inputs)}u, {len(step.outputs)}u"
    return f"{{{_KINDS[step.kind]}, {counts}, " + ", ".join(f"{f}u" for f in figures) + "}"


def identifiers(names: Iterable[str]) -> list[str]:
    """One C identifier for each name, all different, in the names' order."""
    taken: set[str] = set()
    result = []
    for name in names:
        base = re.sub(r"[^A-Za-z0-9_]", "_", name)[:60] or "unnamed"
        chosen, number = base, 1
        while chosen in taken:
            number += 1
            chosen = f"{base}_{number}"
        taken.add(chosen)
        result.append(chosen)
    return result
