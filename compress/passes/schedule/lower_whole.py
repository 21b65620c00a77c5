"""From a plan over whole tensors to the program that carries it out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from compress.passes.schedule.alignment import round_up
from compress.passes.schedule.extract import Extracted
from compress.passes.schedule.kernels import looked_up_bytes, value_bytes
from compress.passes.schedule.problem import Plan, Stay
from compress.passes.schedule.program import Buffer, Program, Step


def lower_whole(extracted: Extracted, plan: Plan, capacity: int, *, align: int = 1) -> Program:
    """The program of a plan whose stays and workspaces have addresses.

    At each position of the order: tensors that come from off chip are loaded, then the operator's
    own weights, one behind the other in its workspace; it computes; what has to go off chip
    (network outputs, and what comes back later) is stored right after it was made, before
    anything can overwrite it.

    Args:
        extracted: the problem and its model.
        plan: with addresses.
        capacity: of the scratchpad, in bytes.
        align: bytes that the plan's addresses are multiples of; its workspaces have room for each
            weight at such an address.

    Raises:
        ValueError: the plan has no addresses.
    """
    return _Lowering(extracted, plan, capacity, align).program()


class _Lowering:
    def __init__(self, extracted: Extracted, plan: Plan, capacity: int, align: int) -> None:
        if not plan.packed:
            raise ValueError("the plan has no addresses")
        self.extracted, self.plan, self.capacity = extracted, plan, capacity
        self.align = align
        self.steps: list[Step] = []
        self.buffers: dict[str, Buffer] = {}
        self.loads: dict[int, list[Stay]] = {}
        self.made: dict[int, Stay] = {}
        for stay in plan.stays:
            if stay.loaded:
                self.loads.setdefault(stay.first, []).append(stay)
            else:
                self.made[stay.tensor] = stay
        tensors = extracted.graph.tensors
        returning = {s.tensor for s in plan.stays if s.loaded and not tensors[s.tensor].external}
        self.stored = returning | {i for i, t in enumerate(tensors) if t.kept and not t.external}
        self.seen: set[int] = set()
        self.present: dict[int, str] = {}
        """By tensor, the buffer of its present stay."""

    def program(self) -> Program:
        ends: dict[int, list[str]] = {}
        for position, operator in enumerate(self.plan.order):
            for stay in self.loads.get(position, ()):
                self._load(stay, ends)
            weights = self._stream(operator)
            self._compute(operator, weights, ends)
            computed = len(self.steps) - 1
            for name in weights:
                self._end(name, computed)
            for tensor in self.extracted.graph.operators[operator].outputs:
                self._store(tensor)
            for name in ends.pop(position, ()):
                self._end(name, max(computed, self.buffers[name].last))
        buffers = _with_shares(self.buffers, self._shared_pairs())
        return Program(self.capacity, tuple(buffers.values()), tuple(self.steps), self.align)

    def _begin(self, tensor: int, stay: Stay, ends: dict[int, list[str]]) -> str:
        own = self.extracted.graph.tensors[tensor]
        assert stay.address is not None
        name = self._buffer(own.name, stay.address, own.bytes)
        ends.setdefault(stay.last, []).append(name)
        self.present[tensor] = name
        return name

    def _buffer(self, tensor: str, address: int, size: int) -> str:
        """A new buffer from the next step on, named after its tensor."""
        name, number = tensor, 1
        while name in self.buffers:
            number += 1
            name = f"{tensor}@{number}"
        now = len(self.steps)
        self.buffers[name] = Buffer(name, tensor, address, size, now, now)
        return name

    def _end(self, name: str, step: int) -> None:
        self.buffers[name] = dataclasses.replace(self.buffers[name], last=step)

    def _load(self, stay: Stay, ends: dict[int, list[str]]) -> None:
        tensor = self.extracted.graph.tensors[stay.tensor]
        name = self._begin(stay.tensor, stay, ends)
        first = tensor.external and stay.tensor not in self.seen
        self.seen.add(stay.tensor)
        self.steps.append(Step("load", outputs=(name,), bytes=tensor.bytes, compulsory=first))

    def _stream(self, operator: int) -> list[str]:
        weights = self.extracted.streamed[operator]
        if not weights:
            return []
        address = self.plan.workspaces[operator] if self.plan.workspaces else None
        if address is None:
            raise ValueError("the plan has no address for a workspace")
        names = []
        for weight in weights:
            size = value_bytes(weight)
            name = f"{weight.name}"
            self.buffers[name] = Buffer(name, name, address, size, len(self.steps), len(self.steps))
            self.steps.append(Step("load", outputs=(name,), bytes=size, compulsory=True))
            names.append(name)
            address += round_up(size, self.align)
        return names

    def _compute(self, operator: int, weights: list[str], ends: dict[int, list[str]]) -> None:
        own = self.extracted.graph.operators[operator]
        inputs = tuple(self.present[tensor] for tensor in own.inputs)
        outputs = tuple(self._begin(tensor, self.made[tensor], ends) for tensor in own.outputs)
        looked_up = looked_up_bytes(self.extracted.kernels[operator])
        self.steps.append(
            Step(
                "compute",
                operator=own.name,
                inputs=(*inputs, *weights),
                outputs=outputs,
                bytes=looked_up,
                compulsory=looked_up > 0,
            )
        )

    def _store(self, tensor: int) -> None:
        if tensor not in self.stored:
            return
        own, name = self.extracted.graph.tensors[tensor], self.present[tensor]
        self._end(name, len(self.steps))
        self.steps.append(Step("store", inputs=(name,), bytes=own.bytes, compulsory=own.kept))

    def _shared_pairs(self) -> list[tuple[str, str]]:
        """Buffers of an operator's input and output that the operator lets be the same memory."""
        pairs = []
        names = {own.name: own for own in self.extracted.graph.operators}
        tensors = self.extracted.graph.tensors
        for number, step in enumerate(self.steps):
            if step.kind != "compute":
                continue
            own = names[step.operator]
            at: Mapping[str, Buffer] = {
                self.buffers[name].tensor: self.buffers[name]
                for name in (*step.inputs, *step.outputs)
            }
            for share in own.shares:
                read, written = at[tensors[share.input].name], at[tensors[share.output].name]
                last = read.last == number
                if last and read.address == written.address + share.offset:
                    pairs.append((read.name, written.name))
        return pairs


def _with_shares(buffers: dict[str, Buffer], pairs: list[tuple[str, str]]) -> dict[str, Buffer]:
    shares: dict[str, list[str]] = {}
    for one, other in pairs:
        shares.setdefault(one, []).append(other)
        shares.setdefault(other, []).append(one)
    return {
        name: dataclasses.replace(buffer, shares=tuple(shares.get(name, ())))
        for name, buffer in buffers.items()
    }
