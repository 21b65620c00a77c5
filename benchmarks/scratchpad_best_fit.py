"""Baselines that can be executed: a replacement rule and an allocator, step by step.

The published rules say what leaves and not where things lie. Here each tensor takes the smallest
hole that holds it, and tensors leave by the rule until there are holes for all that an operator
needs. Addresses never change while a tensor stays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from compress.passes.schedule.problem import Graph, Plan, Stay, extra_bytes
from compress.passes.schedule.simulate import Score


@dataclasses.dataclass
class _Memory:
    """What lies where, in bytes; `since` holds by tensor the step from which it has been there."""

    graph: Graph
    capacity: int
    addresses: dict[int, int] = dataclasses.field(default_factory=dict)
    since: dict[int, int] = dataclasses.field(default_factory=dict)

    def places(self, tensors: Iterable[int], gone: Iterable[int] = ()) -> dict[int, int] | None:
        """Addresses for tensors, largest first and each in the smallest hole, if others are gone;
        None if one does not find any."""
        left = self.addresses.keys() - set(gone)
        taken = {tensor: self.addresses[tensor] for tensor in left}
        found: dict[int, int] = {}
        for tensor in sorted(tensors, key=lambda t: (-self.graph.tensors[t].bytes, t)):
            size = self.graph.tensors[tensor].bytes
            fitting = [hole for hole in self._holes(taken) if hole[0] >= size]
            if not fitting:
                return None
            taken[tensor] = found[tensor] = min(fitting)[1]
        return found

    def _holes(self, taken: dict[int, int]) -> list[tuple[int, int]]:
        """(bytes, address)."""
        holes, end = [], 0
        for address, tensor in sorted((a, t) for t, a in taken.items()):
            holes.append((address - end, end))
            end = address + self.graph.tensors[tensor].bytes
        return [*holes, (self.capacity - end, end)]


def best_fit(graph: Graph, capacity: int, order: Sequence[int], score: Score) -> Plan:
    """Runs an order with addresses.

    Args:
        capacity: bytes, enough for every operator alone; operators have no workspace.
        score: of tensors that may leave, as in `compress.passes.schedule.simulate`.
    """
    uses = _uses(graph, order)
    memory = _Memory(graph, capacity)
    stored: set[int] = {i for i, tensor in enumerate(graph.tensors) if tensor.external}
    stays: list[Stay] = []

    def end(tensor: int, last: int) -> None:
        first = memory.since.pop(tensor)
        loaded = graph.producers[tensor] is None or order[first] != graph.producers[tensor]
        stays.append(Stay(tensor, first, last, loaded, memory.addresses.pop(tensor)))

    for step, number in enumerate(order):
        operator = graph.operators[number]
        needed = {*operator.inputs, *operator.outputs}
        missing = needed - memory.addresses.keys()
        ranked = _ranked(graph, memory.addresses.keys() - needed, stored, uses, step, score)
        gone, found = _make_room(memory, missing, ranked)
        if found is None:
            # What is needed lies in the way of the rest: all of it is placed anew.
            gone, missing = list(memory.addresses), needed
            found = memory.places(needed, gone)
        if found is None:
            raise ValueError(f"operator {operator.name} does not fit into {capacity} bytes")
        for tensor in gone:
            stored.add(tensor)
            end(tensor, step - 1)
        memory.addresses |= found
        memory.since |= dict.fromkeys(missing, step)
        for tensor in needed:
            if not uses[tensor] or uses[tensor][-1] <= step:
                end(tensor, step)
    stays.sort(key=lambda stay: (stay.tensor, stay.first))
    peak = max((s.address or 0) + graph.tensors[s.tensor].bytes for s in stays)
    return Plan(tuple(order), tuple(stays), extra_bytes(graph, stays), method="best fit", peak=peak)


def _uses(graph: Graph, order: Sequence[int]) -> list[list[int]]:
    """By tensor, the steps that read it."""
    position = {operator: step for step, operator in enumerate(order)}
    return [sorted(position[r] for r in readers) for readers in graph.consumers]


def _ranked(
    graph: Graph,
    tensors: Iterable[int],
    stored: set[int],
    uses: Sequence[Sequence[int]],
    step: int,
    score: Score,
) -> list[tuple[int, int]]:
    """(cost of leaving and coming back, tensor), what the rule lets go first in front."""
    ranked = []
    for tensor in tensors:
        size = graph.tensors[tensor].bytes
        written = 0 if tensor in stored or graph.tensors[tensor].kept else size
        ahead = next(use for use in uses[tensor] if use > step) - step
        ranked.append((score(size, size + written, ahead), size + written, tensor))
    return [entry[1:] for entry in sorted(ranked)]


def _make_room(
    memory: _Memory, missing: Iterable[int], ranked: Sequence[tuple[int, int]]
) -> tuple[list[int], dict[int, int] | None]:
    """(what leaves, addresses of what is missing): as few of the ranked as make it fit, less what
    proves unnecessary."""
    missing = list(missing)
    for count in range(len(ranked) + 1):
        gone = list(ranked[:count])
        found = memory.places(missing, [tensor for _, tensor in gone])
        if found is None:
            continue
        for entry in sorted(gone, reverse=True):
            others = [each for each in gone if each != entry]
            again = memory.places(missing, [tensor for _, tensor in others])
            if again is not None:
                gone, found = others, again
        return [tensor for _, tensor in gone], found
    return [], None
