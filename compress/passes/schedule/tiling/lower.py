"""From a tiled plan to the program that carries it out."""

from __future__ import annotations

import dataclasses
from typing import Literal

from compress.passes.schedule.alignment import round_up
from compress.passes.schedule.offsets import Block, Part, pack
from compress.passes.schedule.program import Buffer, Program, Step
from compress.passes.schedule.tiling.operators import StripedOperator
from compress.passes.schedule.tiling.plans import TiledGroup, TiledPlan

Layout = Literal["whole", "rows", "scratch"]

PACKING_SECONDS = 5.0
"""For addresses of one plan; nearly all take milliseconds."""


def lower(plan: TiledPlan, *, seconds: float = PACKING_SECONDS) -> Program | None:
    """The program of a tiled plan; None if no addresses were found within its capacity in time.

    A group begins with the inputs that stay as a whole and the weights that stay. Before each
    stripe is computed, the rows of the next one arrive, where the plan has two buffers for them;
    rows that leave do so behind the next stripe. Weights that pass through cross the border during
    the operator's own step, block by block, in the group's scratch buffer: their bytes are that
    step's.
    """
    lowering = _Lowering(plan)
    for number, group in enumerate(plan.groups):
        lowering.add(number, group)
    return lowering.program(seconds)


class _Lowering:
    def __init__(self, plan: TiledPlan) -> None:
        self.plan, self.graph = plan, plan.graph
        self.steps: list[Step] = []
        self.buffers: dict[str, Buffer] = {}
        self.present: dict[str, str] = {}
        """By plane, the buffer that holds it in the present group; all of it where it is whole."""
        self.arrived: dict[str, int] = {}
        """By external plane, rows from the first one on that were loaded at some time."""
        self.loaded: set[str] = set()
        """Weights that were loaded at some time."""
        self.group = 0

    def add(self, number: int, group: TiledGroup) -> None:
        self.group = number
        stripes, graph = group.stripes, self.graph
        for name in group.loaded:
            self._open(name, graph.wanted[name])
            self._load(name, 0, graph.wanted[name])
        operators = graph.operators[stripes.start : stripes.stop]
        weights = {operator.name: self._weights(operator, group) for operator in operators}
        stream = ""
        if group.stream_bytes:
            stream = self._new(f"weights of group {number}", "", group.stream_bytes, "scratch")
        streamed_in = [v for v in stripes.arriving if v not in (*group.resident, *group.loaded)]
        for plane in streamed_in:
            self._open(plane, stripes.arriving[plane])
        for plane, rows in (stripes.inside | stripes.leaving).items():
            self._open(plane, graph.wanted[plane] if plane in group.staying else rows)
        leaving = [v for v in group.streamed if v not in group.staying]
        ahead = 1 if self.plan.options.double_buffer else 0
        if ahead:
            self._move_in(streamed_in, group, 1)
        for stripe in range(1, stripes.count + 1):
            self._move_in(streamed_in, group, stripe + ahead)
            for operator in operators:
                self._compute(operator, group, stripe, weights[operator.name])
                if stream and operator.weights and operator.name not in group.pinned:
                    self._use(stream, len(self.steps) - 1)
            self._move_out(leaving, group, stripe - ahead)
        if ahead:
            self._move_out(leaving, group, stripes.count)
        for plane in group.streamed:
            if plane in group.staying:
                self._store(plane, 0, graph.wanted[plane])
        for plane in group.spilled:
            self._store(plane, 0, graph.wanted[plane])

    def _new(self, wanted: str, tensor: str, size: int, layout: Layout) -> str:
        """A buffer without an address that no step uses yet."""
        name, number = wanted, 1
        while name in self.buffers:
            number += 1
            name = f"{wanted}@{number}"
        self.buffers[name] = Buffer(name, tensor, 0, size, -1, -1, layout)
        return name

    def _open(self, name: str, rows: int) -> None:
        plane = self.graph.planes[name]
        if rows >= plane.height:
            self.present[name] = self._new(name, name, plane.bytes, "whole")
            return
        made = self._new(name, name, rows * plane.row_bytes, "rows")
        rolling = dataclasses.replace(self.buffers[made], rows=rows, row_bytes=plane.row_bytes)
        self.buffers[made] = rolling
        self.present[name] = made

    def _use(self, name: str, step: int) -> None:
        buffer = self.buffers[name]
        first = step if buffer.first < 0 else buffer.first
        self.buffers[name] = dataclasses.replace(buffer, first=first, last=step)

    def _step(self, step: Step) -> None:
        for name in (*step.inputs, *step.outputs):
            self._use(name, len(self.steps))
        self.steps.append(dataclasses.replace(step, group=self.group))

    def _range(self, name: str, first: int, stop: int) -> tuple[int, int] | None:
        """Rows as a step names them: None for all."""
        return None if (first, stop) == (0, self.graph.planes[name].height) else (first, stop)

    def _load(self, name: str, first: int, stop: int) -> None:
        """Copies rows; those of an external plane that never were loaded are compulsory."""
        plane = self.graph.planes[name]
        known = min(max(self.arrived.get(name, 0), first), stop) if plane.external else stop
        for a, b in ((first, known), (known, stop)):
            if a < b:
                self._step(
                    Step(
                        "load",
                        outputs=(self.present[name],),
                        rows=self._range(name, a, b),
                        bytes=(b - a) * plane.row_bytes,
                        compulsory=a == known and plane.external,
                    )
                )
        self.arrived[name] = max(self.arrived.get(name, 0), stop)

    def _store(self, name: str, first: int, stop: int) -> None:
        plane = self.graph.planes[name]
        if first < stop:
            self._step(
                Step(
                    "store",
                    inputs=(self.present[name],),
                    rows=self._range(name, first, stop),
                    bytes=(stop - first) * plane.row_bytes,
                    compulsory=plane.kept,
                )
            )

    def _move_in(self, names: list[str], group: TiledGroup, stripe: int) -> None:
        if stripe <= group.stripes.count:
            for name in names:
                ends = group.stripes.ends[name]
                self._load(name, ends[stripe - 1], ends[stripe])

    def _move_out(self, names: list[str], group: TiledGroup, stripe: int) -> None:
        if stripe >= 1:
            for name in names:
                ends = group.stripes.ends[name]
                self._store(name, ends[stripe - 1], ends[stripe])

    def _weights(self, operator: StripedOperator, group: TiledGroup) -> tuple[str, ...]:
        """Loads weights that stay; their buffers."""
        if operator.name not in group.pinned:
            return ()
        names = []
        for weight, size in operator.weights:
            name = self._new(weight, weight, size, "whole")
            first = weight not in self.loaded
            self._step(Step("load", outputs=(name,), bytes=size, compulsory=first))
            self.loaded.add(weight)
            names.append(name)
        return tuple(names)

    def _compute(
        self, operator: StripedOperator, group: TiledGroup, stripe: int, weights: tuple[str, ...]
    ) -> None:
        done = {v: group.stripes.ends[v] for v in operator.outputs}
        if all(ends[stripe - 1] == ends[stripe] for ends in done.values()):
            return
        rows = None
        if operator.kind != "whole":
            ends = done[operator.outputs[0]]
            part = ends[stripe - 1], ends[stripe]
            # where inputs have rows that nobody needs, they are not there
            lacking = any(
                self.graph.wanted[v] < self.graph.planes[v].height for v in operator.inputs
            )
            rows = part if lacking else self._range(operator.outputs[0], *part)
        streamed = operator.name not in group.pinned
        fresh = all(weight not in self.loaded for weight, _ in operator.weights)
        self._step(
            Step(
                "compute",
                operator=operator.name,
                inputs=(*(self.present[v] for v in operator.inputs), *weights),
                outputs=tuple(self.present[v] for v in operator.outputs),
                rows=rows,
                bytes=operator.weight_bytes if streamed else 0,
                compulsory=streamed and fresh and bool(operator.weights),
            )
        )
        self.loaded.update(weight for weight, _ in operator.weights)

    def program(self, seconds: float) -> Program | None:
        align = self.plan.options.align
        names = list(self.buffers)
        blocks = [
            Block((Part(buffer.first, buffer.last + 1, round_up(buffer.bytes, align)),))
            for buffer in self.buffers.values()
        ]
        packing = pack(blocks, self.plan.capacity, seconds=seconds)
        if packing.offsets is None:
            return None
        buffers = tuple(
            dataclasses.replace(self.buffers[name], address=offset)
            for name, offset in zip(names, packing.offsets, strict=True)
        )
        return Program(self.plan.capacity, buffers, tuple(self.steps), align)
