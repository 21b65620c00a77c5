"""Plans that cannot be placed, mended where they cannot be.

Whether stays find addresses is mostly a matter of few steps: two large tensors that overlap in time
leave holes too small for a third. Short stretches of the order are packed on their own, then longer
ones. In one that cannot be packed, the tensor leaves that costs least among those whose leaving
helps. The addresses of all stretches together are not looked for here.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

from compress.passes.schedule.candidates import Candidate, cost_of, plan_of
from compress.passes.schedule.clock import Clock
from compress.passes.schedule.offsets import Block, Part, pack
from compress.passes.schedule.placing import blocks_of
from compress.passes.schedule.presolve import Instance

METHOD = "mended"

SHORTEST = 12
"""Steps of the first stretches."""

GROWTH = 4
"""Times as long they become each time all of them are packed."""

PACKING_S = 0.1
"""For one stretch of the first length; in proportion for longer ones."""

TRIES = 24
"""Tensors whose leaving is tried in one stretch."""


@dataclasses.dataclass(frozen=True)
class _Cut:
    """A load that ends a time without use, what it costs, and the steps it is about."""

    cost: int
    load: tuple[int, int]
    before: int
    after: int


def mend(
    instance: Instance, known: Candidate, capacity: int, *, seconds: float
) -> tuple[Candidate, bool]:
    """A plan whose stretches can be packed, as far as time allows, and whether all of it can.

    Args:
        capacity: bytes.
    """
    clock = Clock(seconds)
    state = _State(instance, known, capacity, clock)
    count, length = len(known.order), min(SHORTEST, len(known.order))
    while True:
        step = max(1, length // 2)
        for start in range(0, max(1, count - step), step):
            while not state.packs(start, start + length):
                if not clock.left or not state.cut(start, start + length):
                    return state.candidate, False
        if length == count:
            return dataclasses.replace(state.candidate, method=METHOD), True
        length = min(GROWTH * length, count)


class _State:
    """A plan, and the blocks that it consists of."""

    def __init__(self, instance: Instance, known: Candidate, capacity: int, clock: Clock) -> None:
        self.instance, self.capacity, self.clock = instance, capacity, clock
        self.position = {operator: place for place, operator in enumerate(known.order)}
        self.candidate = known
        self._update(known)

    def _update(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.blocks, _ = blocks_of(self.instance, plan_of(self.instance, candidate, 0))

    def packs(self, first: int, end: int) -> bool:
        """Whether addresses are found for some steps, all others left out."""
        clipped = [c for block in self.blocks if (c := _clipped(block, first, end)) is not None]
        seconds = min(PACKING_S * (end - first) / SHORTEST, max(PACKING_S, self.clock.left))
        return pack(clipped, self.capacity, seconds=seconds).offsets is not None

    def cut(self, first: int, end: int) -> bool:
        """Takes the cheapest cut after which the steps can be packed, of few; the cheapest of all
        if there is none. False if there is nothing to cut."""
        while end - first > SHORTEST and self.clock.left:
            # the shorter the stretch, the fewer cuts are of no use
            step = max(1, (end - first) // 8)
            if not self.packs(first + step, end):
                first += step
            elif not self.packs(first, end - step):
                end -= step
            else:
                break
        known = self.candidate
        cuts = sorted(self._cuts(first, end), key=lambda c: (c.cost, c.before - c.after, c.load))
        if not cuts:
            return False
        for cut in cuts[:TRIES]:
            if not self.clock.left:
                break
            self._update(self._with(known, cut))
            if self.packs(first, end):
                return True
        self._update(self._with(known, cuts[0]))
        return True

    def _with(self, known: Candidate, cut: _Cut) -> Candidate:
        loads = (*known.loads, cut.load)
        return Candidate(cost_of(self.instance, known.order, loads), known.order, loads, METHOD)

    def _cuts(self, first: int, end: int) -> Iterator[_Cut]:
        instance, position = self.instance, self.position
        loaded = set(self.candidate.loads)
        away = {tensor for tensor, _ in loaded}
        for tensor, readers in enumerate(instance.consumers):
            producer = instance.producers[tensor]
            uses = sorted((position[r], r) for r in readers)
            if producer is not None:
                uses.insert(0, (position[producer], producer))
            cost = instance.sizes[tensor] + (0 if tensor in away else instance.store_costs[tensor])
            for (before, _), (after, reader) in itertools.pairwise(uses):
                if before < end and after >= first and (tensor, reader) not in loaded:
                    yield _Cut(cost, (tensor, reader), before, after)


def _clipped(block: Block, first: int, end: int) -> Block | None:
    """What is left of a block during some steps."""
    parts = [
        Part(max(p.lower, first), min(p.upper, end), p.size, p.offset)
        for p in block.parts
        if p.lower < end and p.upper > first
    ]
    if not parts:
        return None
    lowest = min(p.offset for p in parts)
    return Block(tuple(Part(p.lower, p.upper, p.size, p.offset - lowest) for p in parts))
