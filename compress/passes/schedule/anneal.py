"""Simulated annealing over topological orders.

Moves are local and always valid: an operator goes before (or after) all but its ancestors (or
descendants) in some stretch of the order, and takes those along. What an order is worth is
recomputed from where it changes until the scratchpad holds again what it held before the change.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
import random
import time
from collections.abc import Sequence
from typing import Protocol

from compress.passes.schedule.presolve import Instance
from compress.passes.schedule.simulate import EMPTY, Machine, State, step_of_peak, use_by_step

MISFIT = 1000.0
"""Units that one unit counts for by which an operator does not fit."""

COLD = 0.01
"""The last temperature, as a share of the first."""

REFRESH = 2000
"""Moves after which the whole order is run again: what left early was chosen for a former one."""


@dataclasses.dataclass(frozen=True)
class Found:
    """An order and its value."""

    value: float
    order: tuple[int, ...]


class Objective(Protocol):
    """Keeps the value of an order under changes of stretches of it."""

    order: list[int]
    value: float

    def propose(self, start: int, stretch: Sequence[int]) -> float:
        """The value with `stretch` from position `start` on."""

    def accept(self) -> None:
        """Makes the proposal the order."""

    def refuse(self) -> None:
        """Forgets it."""

    def refresh(self) -> None:
        """Computes everything anew."""


class Traffic:
    """What running an order moves; operators that do not fit count a thousandfold."""

    def __init__(self, instance: Instance, order: Sequence[int]) -> None:
        self.machine = Machine(instance, order)
        self.order = list(order)
        self.refresh()

    def refresh(self) -> None:
        self.states: list[State] = [EMPTY]
        self.costs: list[float] = []
        for place, operator in enumerate(self.order):
            state, cost, excess = self.machine.step(self.states[-1], place, operator)
            self.states.append(state)
            self.costs.append(cost + MISFIT * excess)
        self.machine.loads.clear()
        self.value = sum(self.costs)

    def propose(self, start: int, stretch: Sequence[int]) -> float:
        machine, order, states = self.machine, self.order, self.states
        end = start + len(stretch)
        for place, operator in enumerate(stretch, start):
            machine.position[operator] = place
        state = states[start]
        new_states: list[State] = []
        new_costs: list[float] = []
        for place in range(start, len(order)):
            if place >= end:
                if state == states[place]:
                    break
                operator = order[place]
            else:
                operator = stretch[place - start]
            state, cost, excess = machine.step(state, place, operator)
            new_states.append(state)
            new_costs.append(cost + MISFIT * excess)
        machine.loads.clear()
        self._proposed = (start, stretch, new_states, new_costs)
        stop = start + len(new_costs)
        return self.value - sum(self.costs[start:stop]) + sum(new_costs)

    def accept(self) -> None:
        start, stretch, new_states, new_costs = self._proposed
        stop = start + len(new_costs)
        self.value += sum(new_costs) - sum(self.costs[start:stop])
        self.order[start : start + len(stretch)] = stretch
        self.costs[start:stop] = new_costs
        self.states[start + 1 : stop + 1] = new_states

    def refuse(self) -> None:
        start, stretch, _, _ = self._proposed
        for place in range(start, start + len(stretch)):
            self.machine.position[self.order[place]] = place


class Peak:
    """The largest sum of units in use if nothing leaves before its last use."""

    def __init__(self, instance: Instance, order: Sequence[int]) -> None:
        self.instance = instance
        self.order = list(order)
        self.refresh()

    def refresh(self) -> None:
        self.during = use_by_step(self.instance, self.order)
        self.before = [(0, 0, 0)]
        done = resident = used = 0
        for operator in self.order:
            _, resident, used = step_of_peak(self.instance, operator, done, resident, used)
            done |= 1 << operator
            self.before.append((done, resident, used))
        self.value = float(max(self.during, default=0))

    def propose(self, start: int, stretch: Sequence[int]) -> float:
        done, resident, used = self.before[start]
        before, during = [], []
        for operator in stretch:
            now, resident, used = step_of_peak(self.instance, operator, done, resident, used)
            done |= 1 << operator
            before.append((done, resident, used))
            during.append(now)
        self._proposed = (start, stretch, before, during)
        end = start + len(stretch)
        return float(
            max(*during, max(self.during[:start], default=0), max(self.during[end:], default=0))
        )

    def accept(self) -> None:
        start, stretch, before, during = self._proposed
        end = start + len(stretch)
        self.order[start:end] = stretch
        self.before[start + 1 : end + 1] = before
        self.during[start:end] = during
        self.value = float(max(self.during))

    def refuse(self) -> None:
        """What is kept has not changed."""


def anneal(
    instance: Instance,
    objective: Objective,
    *,
    seconds: float,
    seed: int = 0,
    enough: float = 0.0,
    keep: int = 8,
    hot: float | None = None,
) -> list[Found]:
    """The best different orders seen, best first.

    Args:
        objective: with the order to begin with.
        seconds: for how long; as many moves as fit.
        enough: a value that cannot be beaten, which ends the search.
        keep: how many orders.
        hot: the first temperature, in units; by default from the tensors' mean size.
    """
    rng = random.Random(seed)
    count = instance.operators
    order = objective.order
    if hot is None:
        hot = max(1.0, sum(instance.sizes) / len(instance.sizes)) / 2
    kept: list[tuple[float, tuple[int, ...]]] = [(-objective.value, tuple(order))]
    seen = {tuple(order)}
    begun = time.monotonic()
    temperature = hot
    attempt = 0
    while count > 1:
        if attempt % 32 == 0:
            share = (time.monotonic() - begun) / max(seconds, 1e-3)
            if share >= 1 or -max(kept)[0] <= enough:
                break
            temperature = hot * COLD**share
        if attempt % REFRESH == REFRESH - 1:
            objective.refresh()
        attempt += 1
        move = _move(instance, order, rng)
        if move is None:
            continue
        proposed = objective.propose(*move)
        change = proposed - objective.value
        if change > 0 and rng.random() >= math.exp(-change / temperature):
            objective.refuse()
            continue
        objective.accept()
        if -proposed > kept[0][0] or len(kept) < keep:
            key = tuple(order)
            if key not in seen:
                seen.add(key)
                heapq.heappush(kept, (-proposed, key))
                if len(kept) > keep:
                    heapq.heappop(kept)
    return [Found(-value, found) for value, found in sorted(kept, reverse=True)]


def _move(
    instance: Instance, order: Sequence[int], rng: random.Random
) -> tuple[int, list[int]] | None:
    """(position, the stretch of the order from there on) after the move; None if nothing moves."""
    count = len(order)
    span = min(count - 1, 1 + int(rng.expovariate(0.12)))
    start = rng.randrange(count - span)
    stretch = order[start : start + span + 1]
    if rng.random() < 0.5:
        relatives = instance.ancestors[stretch[-1]]
        head = [o for o in stretch[:-1] if relatives >> o & 1]
        if len(head) == span:
            return None
        return start, [*head, stretch[-1], *(o for o in stretch[:-1] if not relatives >> o & 1)]
    relatives = instance.descendants[stretch[0]]
    tail = [o for o in stretch[1:] if relatives >> o & 1]
    if len(tail) == span:
        return None
    return start, [*(o for o in stretch[1:] if not relatives >> o & 1), stretch[0], *tail]
