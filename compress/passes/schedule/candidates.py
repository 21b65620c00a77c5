"""Plans on the way: an order and what is loaded, from which everything else follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from compress.passes.schedule.presolve import Instance
from compress.passes.schedule.problem import Plan, Stay


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A plan without addresses, in units of its instance.

    Attributes:
        cost: units moved beyond the compulsory ones.
        order: operators by position.
        loads: (tensor, operator): loaded right before it. The first load of an external tensor
            may be left out.
        method: what found it.
    """

    cost: int
    order: tuple[int, ...]
    loads: tuple[tuple[int, int], ...]
    method: str


@dataclasses.dataclass(frozen=True)
class Solved:
    """What an exact method found.

    Attributes:
        candidate: the best plan; None if nothing was found.
        bound: proven lower bound of the cost, in units.
        status: "optimal", "feasible", "infeasible" or "unknown".
    """

    candidate: Candidate | None
    bound: int
    status: str

    @property
    def cost(self) -> int | None:
        return None if self.candidate is None else self.candidate.cost


def solved(candidate: Candidate | None, bound: int) -> Solved:
    """With the status that follows; the bound is at least zero."""
    bound = max(0, bound)
    if candidate is None:
        return Solved(None, bound, "unknown")
    bound = min(bound, candidate.cost)
    return Solved(candidate, bound, "optimal" if bound == candidate.cost else "feasible")


def cost_of(instance: Instance, order: Sequence[int], loads: Sequence[tuple[int, int]]) -> int:
    """Units moved beyond the compulsory ones."""
    position = {operator: place for place, operator in enumerate(order)}
    by_tensor: dict[int, set[int]] = {}
    for tensor, operator in loads:
        by_tensor.setdefault(tensor, set()).add(operator)
    total = 0
    for tensor, readers in by_tensor.items():
        if instance.producers[tensor] is None:
            first = min(instance.consumers[tensor], key=position.__getitem__)
            total += instance.sizes[tensor] * len(readers - {first})
        else:
            total += instance.sizes[tensor] * len(readers) + instance.store_costs[tensor]
    return total


def everything_leaves(instance: Instance, order: Sequence[int]) -> Candidate:
    """Nothing stays between two steps. It can always be placed, if every operator fits alone."""
    loads = tuple((t, r) for t, readers in enumerate(instance.consumers) for r in readers)
    return Candidate(cost_of(instance, order, loads), tuple(order), loads, "everything leaves")


def plan_of(instance: Instance, candidate: Candidate, bound: int) -> Plan:
    """In bytes, without addresses.

    Args:
        bound: in units.
    """
    bound = min(bound, candidate.cost)
    stays = instance.stays(candidate.order, candidate.loads)
    return Plan(
        candidate.order,
        stays,
        candidate.cost * instance.unit,
        bound * instance.unit,
        "optimal" if candidate.cost <= bound else "feasible",
        candidate.method,
        peak=_largest_sum(instance, candidate.order, stays),
    )


def _largest_sum(instance: Instance, order: Sequence[int], stays: Sequence[Stay]) -> int:
    """The largest sum of resident bytes over all steps, what is shared counted once."""
    graph = instance.graph
    sums = []
    done = 0
    for operator in order:
        done |= 1 << operator
        saved = instance.saved_by_shares(operator, instance.dying(operator, done))
        sums.append(graph.operators[operator].workspace - saved * instance.unit)
    for stay in stays:
        for step in range(stay.first, stay.last + 1):
            sums[step] += graph.tensors[stay.tensor].bytes
    return max(sums, default=0)
