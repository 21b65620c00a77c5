"""Running an order on a scratchpad of limited size, evicting by what it costs to bring back.

The replacement of published baselines looks only at when a tensor is used next. Here what leaves
is what costs least for the time that its bytes are free: a tensor that was stored before costs one
transfer, another one two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from compress.passes.schedule.presolve import Instance, members

Score = Callable[[int, int, int], float]
"""(size, cost of leaving and coming back, steps until the next use): the lowest leaves first."""

State = tuple[int, int, int, int]
"""Between two steps: sets of the resident tensors, of those with a copy off chip and of the
operators that ran; units in use."""

EMPTY: State = (0, 0, 0, 0)


def cheapest(size: int, cost: int, ahead: int) -> float:
    """Cost per unit that is free, and step for which it is."""
    return cost / (size * ahead)


def furthest(size: int, cost: int, ahead: int) -> float:
    """Belady's rule: the one that is used last leaves first."""
    return -ahead


def largest(size: int, cost: int, ahead: int) -> float:
    """The greedy rule: as few as possible leave."""
    return -size


@dataclasses.dataclass(frozen=True)
class Run:
    """What happened.

    Attributes:
        cost: units moved beyond the compulsory ones, as far as operators fitted.
        excess: units by which operators exceeded the capacity even when alone; 0 if all fitted.
        loads: (tensor, operator): loaded right before it.
    """

    cost: int
    excess: int
    loads: tuple[tuple[int, int], ...]


class Machine:
    """Runs single steps. `position` says by operator where it stands; it is the caller's to keep
    up to date, as what is used next depends on it."""

    def __init__(self, instance: Instance, order: Sequence[int], score: Score = cheapest) -> None:
        self.instance = instance
        self.score = score
        self.position = [0] * len(order)
        for place, operator in enumerate(order):
            self.position[operator] = place
        self.external = [t.external for t in instance.graph.tensors]
        self.needed = [
            i | o for i, o in zip(instance.input_sets, instance.output_sets, strict=True)
        ]
        self.output_units = [
            sum(instance.sizes[t] for t in outputs) for outputs in instance.outputs
        ]
        self.room = [instance.capacity - w for w in instance.workspaces]
        self.loads: list[tuple[int, int]] = []

    def step(self, state: State, place: int, operator: int) -> tuple[State, int, int]:
        """(state after an operator, units moved for it, units by which it does not fit)."""
        instance = self.instance
        sizes, consumer_sets = instance.sizes, instance.consumer_sets
        resident, stored, done, used = state
        done |= 1 << operator
        cost = excess = 0
        missing = instance.input_sets[operator] & ~resident
        if missing:
            for tensor in members(missing):
                if stored >> tensor & 1 or not self.external[tensor]:
                    cost += sizes[tensor]
                    self.loads.append((tensor, operator))
                else:
                    stored |= 1 << tensor
                used += sizes[tensor]
        used += self.output_units[operator]
        dying = 0
        for tensor in instance.inputs[operator]:
            if not consumer_sets[tensor] & ~done:
                dying |= 1 << tensor
        resident |= self.needed[operator]
        spare = self.room[operator] - used
        if spare < 0 and dying and instance.shares[operator]:
            spare += instance.saved_by_shares(operator, dying)
        if spare < 0:
            for tensor in self._leaving(resident & ~self.needed[operator], stored, place, -spare):
                if not stored >> tensor & 1:
                    cost += instance.store_costs[tensor]
                    stored |= 1 << tensor
                resident ^= 1 << tensor
                used -= sizes[tensor]
                spare += sizes[tensor]
            excess = max(0, -spare)
        if dying:
            resident &= ~dying
            for tensor in members(dying):
                used -= sizes[tensor]
        for tensor in instance.outputs[operator]:
            if not consumer_sets[tensor]:
                resident ^= 1 << tensor
                used -= sizes[tensor]
        return (resident, stored, done, used), cost, excess

    def _leaving(self, others: int, stored: int, place: int, wanted: int) -> list[int]:
        """Those with the lowest scores that free what is wanted, less what proves unnecessary."""
        sizes, position, consumers = self.instance.sizes, self.position, self.instance.consumers
        store_costs, score = self.instance.store_costs, self.score
        candidates = []
        for tensor in members(others):
            readers = consumers[tensor]
            if len(readers) == 1:
                ahead = position[readers[0]] - place
            else:
                ahead = min(p for r in readers if (p := position[r]) > place) - place
            cost = size = sizes[tensor]
            if not stored >> tensor & 1:
                cost += store_costs[tensor]
            candidates.append((score(size, cost, ahead), cost, tensor))
        candidates.sort()
        chosen: list[tuple[int, int]] = []
        freed = 0
        for _, cost, tensor in candidates:
            if freed >= wanted:
                break
            chosen.append((cost, tensor))
            freed += sizes[tensor]
        if len(chosen) > 1:
            for pair in sorted(chosen, reverse=True):
                if freed - sizes[pair[1]] >= wanted:
                    freed -= sizes[pair[1]]
                    chosen.remove(pair)
        return [tensor for _, tensor in chosen]


def simulate(instance: Instance, order: Sequence[int], score: Score = cheapest) -> Run:
    """Runs an order that respects all inputs."""
    machine = Machine(instance, order, score)
    state, cost, excess = EMPTY, 0, 0
    for place, operator in enumerate(order):
        state, moved, over = machine.step(state, place, operator)
        cost += moved
        excess += over
    return Run(cost, excess, tuple(machine.loads))


def use_by_step(instance: Instance, order: Sequence[int]) -> list[int]:
    """Units in use at each step if nothing ever leaves before its last use."""
    resident = used = done = 0
    result = []
    for operator in order:
        during, resident, used = step_of_peak(instance, operator, done, resident, used)
        done |= 1 << operator
        result.append(during)
    return result


def step_of_peak(
    instance: Instance, operator: int, done: int, resident: int, used: int
) -> tuple[int, int, int]:
    """Of a step at which nothing leaves early.

    Returns:
        Units in use while the operator runs, the set of tensors that are resident after it, and
        the units of these.
    """
    sizes, consumer_sets = instance.sizes, instance.consumer_sets
    done |= 1 << operator
    dying = 0
    for tensor in instance.inputs[operator]:
        if not resident >> tensor & 1:
            used += sizes[tensor]
            resident |= 1 << tensor
        if not consumer_sets[tensor] & ~done:
            dying |= 1 << tensor
    for tensor in instance.outputs[operator]:
        used += sizes[tensor]
    during = used + instance.workspaces[operator]
    if dying:
        if instance.shares[operator]:
            during -= instance.saved_by_shares(operator, dying)
        resident &= ~dying
        for tensor in members(dying):
            used -= sizes[tensor]
    for tensor in instance.outputs[operator]:
        if consumer_sets[tensor]:
            resident |= 1 << tensor
        else:
            used -= sizes[tensor]
    return during, resident, used


def peak(instance: Instance, order: Sequence[int]) -> int:
    """The largest sum of units in use if nothing ever leaves before its last use."""
    return max(use_by_step(instance, order), default=0)
