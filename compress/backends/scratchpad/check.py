"""The static check of a program: nothing here knows how programs are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import onnx_ir as ir

from compress.backends.scratchpad.operators import (
    ROW_AXIS,
    WINDOWED,
    output_channels,
    window,
)
from compress.errors import ModelError
from compress.graph.traversal import is_op, static_shape
from compress.passes.schedule.extract import Extracted
from compress.passes.schedule.kernels import Kernel, looked_up_bytes, value_bytes
from compress.passes.schedule.program import Buffer, Program, Step


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a program was found to do.

    Attributes:
        problems: rules that it breaks, a sentence each; empty if it is valid.
        off_chip_bytes: that it moves, counted from rows and shapes.
        extra_bytes: of them, those beyond the first load of each row of an input or a weight, and
            the first store of each row of an output.
        peak: the highest address in use plus one.
    """

    problems: tuple[str, ...]
    off_chip_bytes: int
    extra_bytes: int
    peak: int


def check(program: Program, extracted: Extracted) -> Verdict:
    """Whether a program carries out the network, step by step.

    1. Every buffer lies inside the scratchpad, at a multiple of the program's alignment, and has
       room for what it holds. Two that are occupied at the same step do not overlap unless they
       share.
    2. A step uses buffers only while they are occupied.
    3. What is read was written, and nothing has been written over it since: neither other rows
       of a rolling buffer nor another buffer at the same addresses. An operator reads all rows
       that its output's rows depend on, and all of its weights.
    4. An operator writes over its input only where it may: at the offset that the graph says.
    5. What is loaded is an input of the network, a weight, or was stored before.
    6. The bytes of each step are those of the rows that it moves.
    7. Every operator runs, and all outputs of the network are off chip in the end.
    """
    return _Checker(program, extracted).verdict()


class _Checker:
    def __init__(self, program: Program, extracted: Extracted) -> None:
        self.program, self.extracted = program, extracted
        self.problems: list[str] = []
        graph = extracted.graph
        self.values: dict[str, ir.Value] = {str(v.name): v for v in extracted.values}
        self.given = {tensor.name for tensor in graph.tensors if tensor.external}
        for weights in extracted.streamed:
            self.values.update((str(w.name), w) for w in weights)
            self.given.update(str(w.name) for w in weights)
        self.kernels = {kernel.name: kernel for kernel in extracted.kernels}
        self.shares = {
            (own.name, graph.tensors[s.input].name, graph.tensors[s.output].name): s.offset
            for own in graph.operators
            for s in own.shares
        }
        self.kept = {tensor.name for tensor in graph.tensors if tensor.kept and not tensor.external}
        self.valid: dict[str, set[int]] = {buffer.name: set() for buffer in program.buffers}
        """By buffer, the rows that can be read from it; what has no rows is row 0."""
        self.neighbours: dict[str, list[Buffer]] = {buffer.name: [] for buffer in program.buffers}
        self.off_chip: dict[str, set[int]] = {}
        self.moved = self.extra = 0
        self.once: set[tuple[bool, str, int]] = set()
        self.scratch = [b for b in program.buffers if b.layout == "scratch"]

    def verdict(self) -> Verdict:
        self._check_buffers()
        ran = set()
        for number, step in enumerate(self.program.steps):
            where = f"step {number}"
            for name in (*step.inputs, *step.outputs):
                buffer = self.program.by_name.get(name)
                if buffer is None:
                    self.problems.append(f"{where} uses {name}, which is no buffer")
                    break
                if not buffer.first <= number <= buffer.last:
                    self.problems.append(f"{where} uses {name} outside of its lifetime")
            else:
                if step.kind == "load":
                    self._load(where, step)
                elif step.kind == "store":
                    self._store(where, step)
                else:
                    ran.add(step.operator)
                    self._compute(where, number, step)
        for name in self.kernels.keys() - ran:
            self.problems.append(f"{name} never runs")
        for name in self.kept:
            if not self._all_rows(name) <= self.off_chip.get(name, set()):
                self.problems.append(f"{name} is not off chip in the end")
        peak = max((b.address + b.bytes for b in self.program.buffers), default=0)
        return Verdict(tuple(sorted(self.problems)), self.moved, self.extra, peak)

    def _check_buffers(self) -> None:
        for buffer in self.program.buffers:
            if buffer.address < 0 or buffer.address + buffer.bytes > self.program.capacity:
                self.problems.append(f"{buffer.name} does not lie inside the scratchpad")
            if buffer.address % self.program.align:
                self.problems.append(f"{buffer.name} lies at no multiple of {self.program.align}")
            if buffer.layout == "scratch":
                continue
            if buffer.tensor not in self.values:
                self.problems.append(f"{buffer.name} holds {buffer.tensor}, which is no tensor")
                continue
            size = value_bytes(self.values[buffer.tensor])
            if buffer.layout == "rows":
                size = buffer.rows * self._row_bytes(buffer.tensor)
                if buffer.rows < 1 or buffer.row_bytes != self._row_bytes(buffer.tensor):
                    self.problems.append(f"{buffer.name} has rows of another size than its tensor")
            if buffer.bytes < size:
                self.problems.append(f"{buffer.name} has {buffer.bytes} bytes and needs {size}")
        live: list[Buffer] = []
        for buffer in sorted(self.program.buffers, key=lambda b: (b.first, b.last, b.name)):
            live = [other for other in live if other.last >= buffer.first]
            for other in live:
                if not _overlap(buffer, other):
                    continue
                self.neighbours[buffer.name].append(other)
                self.neighbours[other.name].append(buffer)
                if other.name not in buffer.shares and buffer.name not in other.shares:
                    self.problems.append(f"{buffer.name} overlaps {other.name}")
            live.append(buffer)

    def _rows(self, tensor: str) -> int:
        """Rows of a tensor (1, C, H, W); 1 for any other."""
        shape = static_shape(self.values[tensor])
        by_rows = shape is not None and len(shape) == 4 and shape[0] == 1
        return shape[ROW_AXIS] if by_rows and shape is not None else 1

    def _row_bytes(self, tensor: str) -> int:
        return value_bytes(self.values[tensor]) // self._rows(tensor)

    def _all_rows(self, tensor: str) -> set[int]:
        return set(range(self._rows(tensor)))

    def _chosen(self, tensor: str, rows: tuple[int, int] | None) -> set[int]:
        return self._all_rows(tensor) if rows is None else set(range(*rows))

    def _move(self, tensor: str, rows: set[int], *, out: bool = False) -> int:
        """Count what crosses the border; the bytes."""
        size = len(rows) * self._row_bytes(tensor)
        self.moved += size
        needed = self.kept if out else self.given
        fresh = {(out, tensor, row) for row in rows if tensor in needed} - self.once
        self.once |= fresh
        self.extra += size - len(fresh) * self._row_bytes(tensor)
        return size

    def _expect(self, where: str, step: Step, size: int) -> None:
        if step.bytes != size:
            self.problems.append(f"{where} says {step.bytes} bytes and moves {size}")

    def _load(self, where: str, step: Step) -> None:
        buffer = self.program.by_name[step.outputs[0]]
        tensor = buffer.tensor
        if tensor not in self.values:
            return
        rows = self._chosen(tensor, step.rows)
        self._expect(where, step, self._move(tensor, rows))
        if tensor not in self.given and not rows <= self.off_chip.get(tensor, set()):
            self.problems.append(f"{where} loads {tensor}, which is not off chip")
        self._write(where, buffer, rows)

    def _store(self, where: str, step: Step) -> None:
        buffer = self.program.by_name[step.inputs[0]]
        if buffer.tensor not in self.values:
            return
        rows = self._chosen(buffer.tensor, step.rows)
        self._expect(where, step, self._move(buffer.tensor, rows, out=True))
        self._read(where, buffer, rows)
        self.off_chip.setdefault(buffer.tensor, set()).update(rows)

    def _compute(self, where: str, number: int, step: Step) -> None:
        kernel = self.kernels.get(step.operator)
        if kernel is None:
            self.problems.append(f"{where} runs {step.operator}, which is no operator")
            return
        inputs = [self.program.by_name[name] for name in step.inputs]
        outputs = [self.program.by_name[name] for name in step.outputs]
        at = {buffer.tensor: buffer for buffer in inputs}
        streamed = [str(w.name) for w in kernel.weights if str(w.name) not in at]
        if streamed:
            self._pass_through(where, number, kernel, streamed)
        passed = sum(self._move(w, self._all_rows(w)) for w in streamed)
        looked_up = looked_up_bytes(kernel)
        self.moved += looked_up
        self._expect(where, step, passed + looked_up)
        for weight in kernel.weights:
            if str(weight.name) in at:
                self._read(where, at[str(weight.name)], self._all_rows(str(weight.name)))
        for value in kernel.inputs:
            name = str(value.name)
            if name not in at:
                self.problems.append(f"{where} ({kernel.name}) does not read {name}")
                continue
            try:
                self._read(where, at[name], self._needed(kernel, value, step.rows))
            except ModelError as error:
                self.problems.append(f"{where}: {error}")
        made = {buffer.tensor for buffer in outputs}
        for value in kernel.outputs:
            if str(value.name) not in made:
                self.problems.append(f"{where} ({kernel.name}) does not write {value.name}")
        for written in outputs:
            for read in inputs:
                self._check_share(where, kernel.name, read, written)
            self._write(where, written, self._chosen(written.tensor, step.rows))

    def _needed(self, kernel: Kernel, value: ir.Value, rows: tuple[int, int] | None) -> set[int]:
        """Rows of an input that rows of the output depend on."""
        everything = self._all_rows(str(value.name))
        if rows is None:
            # a stride may leave out the last rows, which then need not be there
            if not is_op(kernel.root, *WINDOWED) or len(everything) == 1:
                return everything
            rows = 0, self._rows(str(kernel.outputs[0].name))
        reach = window(kernel, value)
        return everything if reach is None else everything & set(range(*reach.rows(rows)))

    def _pass_through(self, where: str, step: int, kernel: Kernel, weights: list[str]) -> None:
        """Weights that are loaded during the step, one block of output channels at a time."""
        size = sum(value_bytes(self.values[name]) for name in weights)
        channels = output_channels(kernel)
        places = [b for b in self.scratch if b.first <= step <= b.last]
        if not any(place.bytes * channels >= size for place in places):
            self.problems.append(f"{where} ({kernel.name}) has no room for its weights")
        for place in places:
            for other in self.neighbours[place.name]:
                self.valid[other.name].clear()

    def _check_share(self, where: str, operator: str, read: Buffer, written: Buffer) -> None:
        if not _overlap(read, written):
            return
        offset = self.shares.get((operator, read.tensor, written.tensor))
        same = (read.layout, read.rows) == (written.layout, written.rows)
        if offset is None or read.address != written.address + offset or not same:
            self.problems.append(f"{where} ({operator}) may not write over {read.name} there")

    def _read(self, where: str, buffer: Buffer, rows: set[int]) -> None:
        missing = rows - self.valid[buffer.name]
        if missing:
            which = "" if self._rows(buffer.tensor) == 1 else f" row {min(missing)} of"
            self.problems.append(f"{where} reads{which} {buffer.name}, which is not there")

    def _write(self, where: str, buffer: Buffer, rows: set[int]) -> None:
        valid = self.valid[buffer.name]
        if buffer.layout == "rows":
            slots = {row % buffer.rows for row in rows}
            if len(slots) < len(rows):
                self.problems.append(f"{where} writes more rows than {buffer.name} has")
            valid -= {row for row in valid if row % buffer.rows in slots}
        for other in self.neighbours[buffer.name]:
            self.valid[other.name] -= _overwritten(buffer, rows, other, self.valid[other.name])
        valid |= rows


def _overlap(one: Buffer, other: Buffer) -> bool:
    return (
        one.address < other.address + other.bytes
        and other.address < one.address + one.bytes
        and one.bytes > 0
        and other.bytes > 0
    )


def _overwritten(buffer: Buffer, rows: Iterable[int], other: Buffer, present: set[int]) -> set[int]:
    """Rows of `other` that are gone once `rows` of `buffer` are written."""
    alike = (buffer.address, buffer.bytes, buffer.layout, buffer.rows, buffer.row_bytes) == (
        other.address,
        other.bytes,
        other.layout,
        other.rows,
        other.row_bytes,
    )
    if not alike:
        return set(present)
    if buffer.layout == "rows":
        slots = {row % buffer.rows for row in rows}
        return {row for row in present if row % buffer.rows in slots}
    return present & set(rows)
