"""A plan as memory_plan.json records it."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from compress.backends.scratchpad.check import Verdict
from compress.graph.traversal import static_shape
from compress.hardware.device import Device
from compress.passes.schedule.extract import Extracted
from compress.passes.schedule.kernels import value_bytes
from compress.passes.schedule.program import Buffer, Program, Step
from compress.report import memory_plan as schema
from compress.stages.record import version


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A plan as it was found.

    Attributes:
        program: what it comes down to.
        optimal: no plan of its kind has fewer extra bytes.
        method: that found it.
        extra_bytes, bound: as the method counts them.
        tiled: whether layers run in stripes.
    """

    program: Program
    optimal: bool
    method: str
    extra_bytes: int
    bound: int = 0
    tiled: bool = False


def make_record(
    name: str,
    extracted: Extracted,
    chosen: Chosen,
    verdict: Verdict,
    bounds: schema.Bounds,
    proof: schema.Proof,
    *,
    device: Device | None,
    advisory: bool,
    seconds: float,
) -> schema.MemoryPlan:
    """The content of memory_plan.json; traffic is what the check counted."""
    program, extra = chosen.program, verdict.extra_bytes
    bound = min(chosen.bound, extra)
    order = dict.fromkeys(step.operator for step in program.steps if step.kind == "compute")
    bandwidth = None if device is None else device.memory_bandwidth_bytes_per_s
    return schema.MemoryPlan(
        compress_version=version("compress"),
        model=name,
        target=None if device is None else device.name,
        advisory=advisory,
        scratchpad_bytes=program.capacity,
        align_bytes=program.align,
        tiled=chosen.tiled,
        status="optimal" if chosen.optimal else "feasible",
        method=chosen.method,
        search_seconds=round(seconds, 3),
        traffic=schema.Traffic(
            total_bytes=verdict.off_chip_bytes,
            extra_bytes=extra,
            bound_bytes=bound,
            gap=0.0 if extra <= bound else round(1 - bound / extra, 6),
            dma_ms=None if bandwidth is None else verdict.off_chip_bytes / bandwidth * 1e3,
        ),
        bounds=bounds,
        proof=proof,
        order=list(order),
        tensors=_tensors(extracted, program),
        buffers=[_buffer(buffer) for buffer in program.buffers],
        steps=[_step(step) for step in program.steps],
    )


def _tensors(extracted: Extracted, program: Program) -> list[schema.TensorRecord]:
    graph = extracted.graph
    weights = {str(w.name) for kernel in extracted.kernels for w in kernel.weights}
    found: dict[str, ir.Value] = {str(v.name): v for v in extracted.values}
    for kernel in extracted.kernels:
        found.update((str(w.name), w) for w in kernel.weights)
    kept = {tensor.name for tensor in graph.tensors if tensor.kept}
    external = {tensor.name for tensor in graph.tensors if tensor.external}
    return [
        schema.TensorRecord(
            name=name,
            role="weight"
            if name in weights
            else "output"
            if name in kept
            else "input"
            if name in external
            else "activation",
            dtype="" if value.dtype is None else value.dtype.name,
            shape=list(static_shape(value) or ()),
            bytes=value_bytes(value),
        )
        for name, value in found.items()
    ]


def _buffer(buffer: Buffer) -> schema.BufferRecord:
    return schema.BufferRecord(
        name=buffer.name,
        tensor=buffer.tensor,
        address=buffer.address,
        bytes=buffer.bytes,
        first_step=buffer.first,
        last_step=buffer.last,
        layout=buffer.layout,
        rows=buffer.rows,
        row_bytes=buffer.row_bytes,
        shares=list(buffer.shares),
    )


def _step(step: Step) -> schema.StepRecord:
    return schema.StepRecord(
        kind=step.kind,
        operator=step.operator,
        inputs=list(step.inputs),
        outputs=list(step.outputs),
        rows=None if step.rows is None else list(step.rows),
        bytes=step.bytes,
        compulsory=step.compulsory,
        group=step.group,
    )
