"""Operators that leave little room: linear constraints that say what has to be off chip there.

A constraint program over positions knows what crosses an operator only once positions are fixed.
For operators that need most of the scratchpad themselves it is said beforehand: of every tensor
made before and read after, either it is resident or it is loaded later. In the relaxation these
constraints are minimum cuts between what runs before and after: where every way through the graph
is too wide for the room that is left, something has to leave, whatever the order. On graphs with
many interchangeable branches this makes the difference between a proof in seconds and none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compress.passes.schedule.presolve import Instance

CROWDED = 0.6
"""Share of the capacity from which an operator's own need makes it a bottleneck."""

MOST = 24
"""Bottlenecks that are described, those of greatest need first."""


def add_bottlenecks(
    model: Any,
    instance: Instance,
    positions: Sequence[Any],
    loads: Mapping[tuple[int, int], Any],
) -> None:
    """Adds them to a CP-SAT model.

    Args:
        positions: variables by operator.
        loads: variables by (tensor, operator): loaded right before it.
    """
    crowded = [
        (-instance.least_need(o), o, crossing)
        for o in range(instance.operators)
        if instance.least_need(o) >= CROWDED * instance.capacity
        and (crossing := _may_cross(instance, o))
    ]
    for negative_need, operator, crossing in sorted(crowded)[:MOST]:
        room = instance.capacity + negative_need
        after = _After(model, instance, positions, operator)
        terms = []
        for tensor in crossing:
            producer = instance.producers[tensor]
            if producer is None:
                continue
            later = [
                r for r in instance.consumers[tensor] if not instance.ancestors[operator] >> r & 1
            ]
            loaded = sum(loads[tensor, r] for r in later)
            resident = model.new_bool_var("")
            for reader in later:
                model.add(resident >= after(reader) - after(producer) - loaded)
            terms.append(instance.sizes[tensor] * resident)
        after.follow()
        model.add(sum(terms) <= room)


def _may_cross(instance: Instance, operator: int) -> list[int]:
    """Tensors that may be made before an operator and read after it, but not by it; none if all of
    them fit beside it."""
    touched = instance.input_sets[operator] | instance.output_sets[operator]
    before, behind = instance.ancestors[operator], instance.descendants[operator]
    crossing = []
    for tensor, readers in enumerate(instance.consumer_sets):
        producer = instance.producers[tensor]
        if producer is None or touched >> tensor & 1 or behind >> producer & 1:
            continue
        if readers & ~before:
            crossing.append(tensor)
    room = instance.capacity - instance.least_need(operator)
    return crossing if sum(instance.sizes[t] for t in crossing) > room else []


class _After:
    """Which operators run after a given one: 0, 1, or a variable tied to the positions."""

    def __init__(
        self, model: Any, instance: Instance, positions: Sequence[Any], operator: int
    ) -> None:
        self.model, self.instance, self.positions = model, instance, positions
        self.operator = operator
        self.variables: dict[int, Any] = {}

    def __call__(self, other: int) -> Any:
        if self.instance.ancestors[self.operator] >> other & 1:
            return 0
        if self.instance.descendants[self.operator] >> other & 1:
            return 1
        if other not in self.variables:
            flag = self.model.new_bool_var("")
            here, there = self.positions[self.operator], self.positions[other]
            self.model.add(there > here).only_enforce_if(flag)
            self.model.add(there < here).only_enforce_if(~flag)
            self.variables[other] = flag
        return self.variables[other]

    def follow(self) -> None:
        """What waits for an operator that runs after runs after, too."""
        for other, flag in self.variables.items():
            for p in self.instance.predecessors[other]:
                if p in self.variables:
                    self.model.add_implication(self.variables[p], flag)
