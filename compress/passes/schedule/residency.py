"""What stays in the scratchpad, for a given order: an integer program over retentions.

Published formulations have a variable per tensor and step. Here there is one per tensor and gap
between two uses of it: kept over that gap, or not. In a fixed order that says the same, is an order
of magnitude smaller, and its relaxation is tight, as each variable takes space during consecutive
steps.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from compress.passes.schedule.bounded import solve_bounded
from compress.passes.schedule.candidates import Candidate, Solved, cost_of, solved
from compress.passes.schedule.presolve import Instance

METHOD = "fixed-order program"


@dataclasses.dataclass(frozen=True)
class Gap:
    """The time between two uses that follow one another.

    Attributes:
        tensor: by index.
        before: position of the use (or production) that it follows.
        after: position of the use that ends it.
    """

    tensor: int
    before: int
    after: int


def gaps_of(instance: Instance, order: Sequence[int]) -> list[Gap]:
    """All gaps, tensor after tensor."""
    position = {operator: place for place, operator in enumerate(order)}
    gaps = []
    for tensor, readers in enumerate(instance.consumers):
        producer = instance.producers[tensor]
        places = sorted(position[r] for r in readers)
        if producer is not None:
            places.insert(0, position[producer])
        gaps += [Gap(tensor, a, b) for a, b in itertools.pairwise(places)]
    return gaps


def free_units(instance: Instance, order: Sequence[int]) -> list[int]:
    """By position, what the capacity leaves beside the running operator."""
    free = []
    done = 0
    for operator in order:
        done |= 1 << operator
        dying = instance.dying(operator, done)
        need = instance.needs[operator] - instance.saved_by_shares(operator, dying)
        free.append(instance.capacity - need)
    return free


def best_residency(
    instance: Instance, order: Sequence[int], *, seconds: float, solver: str = "highs"
) -> Solved:
    """The least traffic that an order allows.

    Args:
        order: operators by position; it respects all inputs.
        seconds: time limit; the solver runs in a process of its own that is ended with it.
        solver: "highs", or "cbc"; the other one is tried where it fails.
    """
    import pulp

    free = free_units(instance, order)
    if min(free, default=0) < 0:
        return Solved(None, 0, "infeasible")
    gaps = gaps_of(instance, order)
    over: list[list[int]] = [[] for _ in order]
    for number, gap in enumerate(gaps):
        for place in range(gap.before + 1, gap.after):
            over[place].append(number)
    model = pulp.LpProblem("residency", pulp.LpMinimize)
    leaves: dict[int, Any] = {}
    stores: dict[int, Any] = {}
    terms = []
    sizes = instance.sizes
    tight = [
        place
        for place in range(len(order))
        if sum(sizes[gaps[g].tensor] for g in over[place]) > free[place]
    ]
    contested = {number for place in tight for number in over[place]}
    for number in sorted(contested):
        tensor = gaps[number].tensor
        leaves[number] = pulp.LpVariable(f"x{number}", cat="Binary")
        terms.append((sizes[tensor], leaves[number]))
        if instance.store_costs[tensor]:
            if tensor not in stores:
                stores[tensor] = pulp.LpVariable(f"s{tensor}", 0, 1)
                terms.append((instance.store_costs[tensor], stores[tensor]))
            model += stores[tensor] >= leaves[number]
    for place in tight:
        excess = sum(sizes[gaps[g].tensor] for g in over[place]) - free[place]
        model += pulp.lpSum(sizes[gaps[g].tensor] * leaves[g] for g in over[place]) >= excess
    model += pulp.lpSum(cost * variable for cost, variable in terms)
    if not contested:
        return solved(Candidate(0, tuple(order), (), METHOD), 0)
    outcome = solve_bounded(model, seconds=seconds, solver=solver)
    if outcome.values is None:
        return solved(None, outcome.whole_bound)
    gone = [n for n, x in leaves.items() if outcome.values.get(x.name, 0.0) > 0.5]
    loads = tuple((gaps[n].tensor, order[gaps[n].after]) for n in gone)
    candidate = Candidate(cost_of(instance, order, loads), tuple(order), loads, METHOD)
    return solved(candidate, candidate.cost if outcome.proven else outcome.whole_bound)
