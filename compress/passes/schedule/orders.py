"""Orders of operators: of least peak, and of least traffic as far as replacement rules can tell.

Annealing (`compress.passes.schedule.anneal`) proposes orders; the exact fixed-order program then
has the last word on the best of them.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence

from compress.passes.schedule.anneal import Found, Peak, Traffic, anneal
from compress.passes.schedule.candidates import Candidate
from compress.passes.schedule.presolve import Instance, members
from compress.passes.schedule.residency import best_residency
from compress.passes.schedule.simulate import peak, step_of_peak


def least_peak(
    instance: Instance, *, seconds: float, seed: int = 0, enough: int | None = None
) -> Found:
    """The order of least peak that is found in time, in units: exactly where few sets of operators
    can have run at a time, by annealing elsewhere.

    Args:
        enough: a peak that ends the search; by default the capacity.
    """
    if enough is None:
        enough = instance.capacity
    starts = [tuple(range(instance.operators)), greedy_peak(instance)]
    begun = min((Found(peak(instance, o), o) for o in starts), key=lambda f: f.value)
    if begun.value <= enough:
        return begun
    exact = exact_peak(instance)
    if exact is not None:
        return exact
    objective = Peak(instance, begun.order)
    return anneal(instance, objective, seconds=seconds, seed=seed, enough=enough, keep=1)[0]


def greedy_peak(instance: Instance) -> tuple[int, ...]:
    """Always the operator that leaves the least behind, among those that can run."""
    waiting = [len(p) for p in instance.predecessors]
    successors = successors_of(instance)
    ready = {o for o, count in enumerate(waiting) if not count}
    order: list[int] = []
    done = resident = 0
    while ready:
        chosen = min(ready, key=lambda o: (_left_behind(instance, o, done, resident), o))
        ready.remove(chosen)
        order.append(chosen)
        done |= 1 << chosen
        resident = _resident_after(instance, chosen, done, resident)
        for s in successors[chosen]:
            waiting[s] -= 1
            if not waiting[s]:
                ready.add(s)
    return tuple(order)


def _left_behind(instance: Instance, operator: int, done: int, resident: int) -> int:
    after = _resident_after(instance, operator, done | 1 << operator, resident)
    gained, lost = after & ~resident, resident & ~after
    return sum(instance.sizes[t] for t in members(gained)) - sum(
        instance.sizes[t] for t in members(lost)
    )


def _resident_after(instance: Instance, operator: int, done: int, resident: int) -> int:
    for tensor in (*instance.inputs[operator], *instance.outputs[operator]):
        if instance.consumer_sets[tensor] & ~done:
            resident |= 1 << tensor
        else:
            resident &= ~(1 << tensor)
    return resident


def exact_peak(instance: Instance, most_states: int = 20_000) -> Found | None:
    """An order of least peak, by a search over the sets of operators that have run.

    Sets are visited by the least peak that reaches them, so that the first complete one is best.

    Returns:
        None if more than `most_states` sets would have to be looked at.
    """
    complete = (1 << instance.operators) - 1
    reached: dict[int, tuple[int, int]] = {0: (0, -1)}
    heap: list[tuple[int, int, int, int, int]] = [(0, 0, 0, 0, 0)]
    closed: set[int] = set()
    while heap:
        highest, _, done, resident, used = heapq.heappop(heap)
        if done in closed:
            continue
        if done == complete:
            return Found(highest, _trace(reached, done))
        closed.add(done)
        if len(closed) > most_states:
            return None
        for operator in range(instance.operators):
            if done >> operator & 1 or instance.ancestors[operator] & ~done:
                continue
            during, now, after = step_of_peak(instance, operator, done, resident, used)
            value, state = max(highest, during), done | 1 << operator
            if state not in reached or value < reached[state][0]:
                reached[state] = (value, operator)
                left = instance.operators - state.bit_count()
                heapq.heappush(heap, (value, left, state, now, after))
    return None


def _trace(reached: dict[int, tuple[int, int]], done: int) -> tuple[int, ...]:
    order = []
    while done:
        operator = reached[done][1]
        order.append(operator)
        done ^= 1 << operator
    return tuple(reversed(order))


def successors_of(instance: Instance) -> list[list[int]]:
    """By operator, those that wait for it."""
    successors: list[list[int]] = [[] for _ in range(instance.operators)]
    for operator, waits in enumerate(instance.predecessors):
        for p in waits:
            successors[p].append(operator)
    return successors


def search(
    instance: Instance, start: Sequence[int], *, seconds: float, seed: int = 0
) -> list[Candidate]:
    """Plans of little traffic, cheapest first: orders by annealing, each with its best residency.

    Args:
        start: an order to begin with, beside the graph's own.
    """
    starts = [tuple(range(instance.operators)), tuple(start)]
    found: list[Found] = []
    for number, begin in enumerate(starts):
        objective = Traffic(instance, begin)
        share = 0.8 * seconds / len(starts)
        found += anneal(instance, objective, seconds=share, seed=seed + number)
    found.sort(key=lambda f: f.value)
    candidates = []
    clock = time.monotonic()
    for each in found:
        residency = best_residency(instance, each.order, seconds=max(1.0, 0.1 * seconds))
        if residency.candidate is not None:
            candidates.append(residency.candidate)
        if time.monotonic() - clock > 0.2 * seconds:
            break
    return sorted(candidates, key=lambda c: c.cost)
