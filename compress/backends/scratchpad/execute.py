"""Proof by execution: a program runs on real data inside one byte buffer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.backends.scratchpad.operators import ROW_AXIS, submodel, window
from compress.errors import ModelError
from compress.execute.runtime import Array, Feeds, Session, session_options
from compress.graph.order import shown
from compress.graph.traversal import constant, static_shape
from compress.passes.schedule.extract import Extracted
from compress.passes.schedule.kernels import Kernel, value_bytes
from compress.passes.schedule.program import Buffer, Program, Step

Bytes = npt.NDArray[np.uint8]

Watch = Callable[[str, "tuple[int, int] | None", Array], None]
"""Is told (tensor, rows, what was computed) by every step that computes; None: all rows."""

UNWRITTEN = 0xA5
"""What the scratchpad holds before anything is written to it, as far as it is used."""


def execute(
    program: Program, extracted: Extracted, feeds: Feeds, watch: Watch | None = None
) -> dict[str, Array]:
    """The network's outputs, computed step by step.

    The scratchpad is one array of `program.capacity` bytes. Every tensor is read from and written
    to the addresses of its buffers; what is off chip is filled by the network's inputs, its
    weights and the store steps alone. An operator runs in onnxruntime, on a model of it alone, on
    what was read.

    Args:
        program: what to run; its layouts are documented there.
        extracted: the model that it was made from.
        feeds: the network's inputs by name.
        watch: sees what operators write, and changes nothing.

    Raises:
        ModelError: a step asks for what cannot be done: an operator that cannot run row by row,
            a tensor that is not off chip.
        DeviceError: onnxruntime refuses an operator.
    """
    return _Machine(program, extracted, feeds, watch).run()


class _Machine:
    def __init__(
        self, program: Program, extracted: Extracted, feeds: Feeds, watch: Watch | None
    ) -> None:
        self.program, self.extracted, self.watch = program, extracted, watch
        self.memory: Bytes = np.empty(program.capacity, np.uint8)
        self.memory[: program.peak] = UNWRITTEN
        self.kernels = {kernel.name: kernel for kernel in extracted.kernels}
        self.values: dict[str, ir.Value] = {str(v.name): v for v in extracted.values}
        self.scratch = [b for b in program.buffers if b.layout == "scratch"]
        self.off_chip: dict[str, Bytes] = {}
        for name, array in feeds.items():
            self.off_chip[name] = _as_bytes(np.asarray(array))
        for kernel in extracted.kernels:
            for weight in kernel.weights:
                self.values[str(weight.name)] = weight
                assert weight.const_value is not None
                content = weight.const_value.tobytes()
                self.off_chip[str(weight.name)] = np.frombuffer(content, np.uint8)
        self.sessions: dict[tuple[object, ...], Session] = {}

    def run(self) -> dict[str, Array]:
        for number, step in enumerate(self.program.steps):
            if step.kind == "load":
                self._load(step)
            elif step.kind == "store":
                self._store(step)
            else:
                self._compute(number, step)
        return {str(v.name): self._result(v) for v in self.extracted.model.graph.outputs}

    def _result(self, output: ir.Value) -> Array:
        name, shape = str(output.name), static_shape(output) or ()
        if name in self.extracted.constants:
            array = constant(self.extracted.constants[name])
            assert array is not None
            return array.reshape(shape)
        value = self.extracted.values[self.extracted.results[name]]
        assert value.dtype is not None
        return self._off_chip(str(value.name)).copy().view(value.dtype.numpy()).reshape(shape)

    def _off_chip(self, tensor: str) -> Bytes:
        if tensor not in self.off_chip:
            raise ModelError(f"{shown(tensor)} is not off chip when it is read there")
        return self.off_chip[tensor]

    def _load(self, step: Step) -> None:
        buffer = self.program.by_name[step.outputs[0]]
        content = self._off_chip(buffer.tensor)
        rows = self._rows_of(buffer, step.rows)
        if rows is None:
            self._bytes(buffer)[:] = content
        else:
            grid = content.reshape(self._grid(buffer.tensor))
            self._write_rows(buffer, rows, grid[:, rows[0] : rows[1]])

    def _store(self, step: Step) -> None:
        buffer = self.program.by_name[step.inputs[0]]
        size = value_bytes(self.values[buffer.tensor])
        place = self.off_chip.setdefault(buffer.tensor, np.zeros(size, np.uint8))
        rows = self._rows_of(buffer, step.rows)
        if rows is None:
            place[:] = self._bytes(buffer)
        else:
            grid = place.reshape(self._grid(buffer.tensor))
            grid[:, rows[0] : rows[1]] = self._read_rows(buffer, rows)

    def _rows_of(self, buffer: Buffer, rows: tuple[int, int] | None) -> tuple[int, int] | None:
        """The rows that a step moves; None: the whole of a buffer that is laid out as a whole."""
        if rows is None and buffer.layout == "rows":
            return 0, self._grid(buffer.tensor)[1]
        return rows

    def _grid(self, tensor: str) -> tuple[int, int, int]:
        """(C, H, bytes of W) of a tensor (1, C, H, W)."""
        value = self.values[tensor]
        shape = static_shape(value)
        if shape is None or len(shape) != 4 or shape[0] != 1:
            raise ModelError(f"{shown(tensor)} has no rows: it is not (1, C, H, W)")
        return shape[1], shape[ROW_AXIS], value_bytes(value) // (shape[1] * shape[ROW_AXIS])

    def _read_rows(self, buffer: Buffer, rows: tuple[int, int]) -> Bytes:
        """Rows of a buffer as (C, rows, bytes of W)."""
        channels, height, width = self._grid(buffer.tensor)
        if buffer.layout == "whole":
            whole = self._bytes(buffer)
            return whole.reshape(channels, height, width)[:, rows[0] : rows[1]].copy()
        result = np.empty((channels, rows[1] - rows[0], width), np.uint8)
        for number, row in enumerate(range(*rows)):
            result[:, number] = self._slot(buffer, row, channels, width)
        return result

    def _write_rows(self, buffer: Buffer, rows: tuple[int, int], content: Bytes) -> None:
        channels, height, width = self._grid(buffer.tensor)
        if buffer.layout == "whole":
            whole = self._bytes(buffer)
            whole.reshape(channels, height, width)[:, rows[0] : rows[1]] = content
            return
        for number, row in enumerate(range(*rows)):
            self._slot(buffer, row, channels, width)[:] = content[:, number]

    def _slot(self, buffer: Buffer, row: int, channels: int, width: int) -> Bytes:
        """A view of the place of one row, (C, bytes of W)."""
        start = buffer.address + (row % buffer.rows) * buffer.row_bytes
        return self.memory[start : start + buffer.row_bytes].reshape(channels, width)

    def _compute(self, number: int, step: Step) -> None:
        kernel = self.kernels[step.operator]
        inputs = [self.program.by_name[name] for name in step.inputs]
        outputs = [self.program.by_name[name] for name in step.outputs]
        at = {buffer.tensor: buffer for buffer in inputs}
        rows = step.rows
        if rows is None and any(buffer.layout == "rows" for buffer in (*inputs, *outputs)):
            rows = 0, self._grid(outputs[0].tensor)[1]
        weights = {
            str(weight.name): self._weight(number, str(weight.name), at)
            for weight in kernel.weights
        }
        border: tuple[int, int] | None = None
        feeds: dict[str, Array] = {}
        for value in kernel.inputs:
            name = str(value.name)
            needed = None
            if rows is not None and (reach := window(kernel, value)) is not None:
                first, stop = reach.rows(rows)
                needed = max(0, first), min(self._grid(name)[1], stop)
                border = max(border or (0, 0), (needed[0] - first, stop - needed[1]))
            feeds[name] = self._read(at[name], needed)
        if rows is not None:
            border = border or (0, 0)
        made = self._session(kernel, weights, border)(feeds)
        for buffer in outputs:
            self._write(buffer, made[buffer.tensor], rows)
            if self.watch is not None:
                self.watch(buffer.tensor, rows, made[buffer.tensor])

    def _weight(self, step: int, name: str, at: Mapping[str, Buffer]) -> bytes:
        """The content of a weight, as it is read from the scratchpad.

        One that has no buffer of its own passes through the scratch buffer of its step: each block
        is loaded there, over the one before, and read from there.
        """
        if name in at:
            return self._bytes(at[name]).tobytes()
        place = next((b for b in self.scratch if b.first <= step <= b.last), None)
        if place is None:
            raise ModelError(f"weight {shown(name)} has no place to pass through")
        content, window = self._off_chip(name), self._bytes(place)
        blocks = []
        for start in range(0, len(content), place.bytes):
            block = content[start : start + place.bytes]
            window[: len(block)] = block
            blocks.append(window[: len(block)].tobytes())
        return b"".join(blocks)

    def _bytes(self, buffer: Buffer) -> Bytes:
        """A view of a buffer."""
        return self.memory[buffer.address : buffer.address + buffer.bytes]

    def _read(self, buffer: Buffer, rows: tuple[int, int] | None) -> Array:
        value = self.values[buffer.tensor]
        shape = list(static_shape(value) or ())
        assert value.dtype is not None
        rows = self._rows_of(buffer, rows)
        if rows is None:
            content = self._bytes(buffer).copy()
        else:
            content = self._read_rows(buffer, rows).reshape(-1)
            shape[ROW_AXIS] = rows[1] - rows[0]
        return content.view(value.dtype.numpy()).reshape(shape)

    def _write(self, buffer: Buffer, array: Array, rows: tuple[int, int] | None) -> None:
        content = _as_bytes(array)
        rows = self._rows_of(buffer, rows)
        if rows is None:
            self._bytes(buffer)[:] = content
            return
        channels, _, width = self._grid(buffer.tensor)
        self._write_rows(buffer, rows, content.reshape(channels, rows[1] - rows[0], width))

    def _session(
        self, kernel: Kernel, weights: dict[str, bytes], border: tuple[int, int] | None
    ) -> Session:
        digest = hashlib.blake2b(b"".join(weights[name] for name in sorted(weights))).digest()
        key = (kernel.name, border, digest)
        if key not in self.sessions:
            model = submodel(kernel, self.extracted.model, weights, border)
            self.sessions[key] = Session(model, session_options())
        return self.sessions[key]


def _as_bytes(array: Array) -> Bytes:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
