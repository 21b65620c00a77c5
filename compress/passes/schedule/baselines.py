"""The baselines that COSMA (arXiv 2311.18246) compares with: two orders, two replacement rules.

Orders: the graph's own, and the one of least peak. Rules, where something has to leave: Belady's
(what is used last) and the greedy one (what is largest). The paper does not print its greedy rule;
the largest first, so that as few as possible leave, is our reading.
"""

from __future__ import annotations

from compress.passes.schedule.candidates import Candidate, plan_of
from compress.passes.schedule.orders import least_peak
from compress.passes.schedule.presolve import presolve
from compress.passes.schedule.problem import Graph, Plan
from compress.passes.schedule.simulate import furthest, largest, simulate

RULES = {"Belady": furthest, "greedy": largest}


def baselines(
    graph: Graph, capacity: int, *, seconds: float = 5.0, seed: int = 0
) -> dict[str, Plan | None]:
    """All four, by name, such as "least peak, Belady". They have no addresses: what a baseline
    moves is counted as if everything could be placed, to its advantage.

    Args:
        seconds: for the order of least peak.

    Returns:
        None for a baseline in whose order an operator does not fit.

    Raises:
        ModelError: an operator does not fit into the scratchpad even alone.
    """
    instance = presolve(graph, capacity)
    instance.check_capacity()
    orders = {
        "default order": tuple(range(instance.operators)),
        "least peak": least_peak(instance, seconds=seconds, seed=seed, enough=0).order,
    }
    plans: dict[str, Plan | None] = {}
    for order_name, order in orders.items():
        for rule, score in RULES.items():
            name = f"{order_name}, {rule}"
            run = simulate(instance, order, score)
            candidate = Candidate(run.cost, order, run.loads, name)
            plans[name] = None if run.excess else plan_of(instance, candidate, 0)
    return plans


def peaks(graph: Graph, *, seconds: float = 5.0, seed: int = 0) -> tuple[int, int]:
    """(M_R, M_P) in bytes: what the largest operator needs with all that it can share, and the
    lowest peak of any order that is found in time."""
    instance = presolve(graph, 2**62)
    need = max((instance.least_need(o) for o in range(instance.operators)), default=0)
    lowest = least_peak(instance, seconds=seconds, seed=seed, enough=need)
    return need * instance.unit, int(lowest.value) * instance.unit
