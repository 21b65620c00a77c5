"""The scheduler of whole tensors: order, residency and addresses of least off-chip traffic.

The problem is COSMA's (arXiv 2311.18246), generalised to tensors that are off chip from the start
or have to be there in the end, operators with several outputs or a workspace, and inputs that lie
inside outputs. Its published program is in `compress.passes.schedule.joint`; here are the same
optima, sooner:

    presolve -> least peak (everything fits: done) -> annealed orders -> exact residency per order
    -> order and residency together, with proof -> addresses

Given:  relu(conv(x)) + x, 3 tensors of 4 KB, 8 KB of scratchpad
Result: an order, what is resident at which steps and where, what leaves and returns: 0 extra bytes
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from compress.errors import ModelError, UsageError
from compress.passes.schedule import orders, retention
from compress.passes.schedule.candidates import Candidate, everything_leaves, plan_of
from compress.passes.schedule.clock import Clock
from compress.passes.schedule.divide import LARGE, divide
from compress.passes.schedule.mend import METHOD as MENDED
from compress.passes.schedule.placed_residency import best_placed
from compress.passes.schedule.placing import place
from compress.passes.schedule.presolve import Instance, presolve
from compress.passes.schedule.problem import Graph, Plan
from compress.passes.schedule.repair import repair, thinned
from compress.passes.schedule.residency import best_residency

SEARCH_SHARE = 0.2
"""Of the time, for annealing where CP-SAT follows, at most."""

SEARCH_S = 0.03
"""Seconds of it per operator."""

ALONE_S = 0.15
"""The same where nothing follows."""

PLACING_SHARE = 0.2
"""Of the time, kept for addresses."""

EASY_SHARE, MENDING_SHARE = 0.1, 0.4
"""The same where the graph is large, by whether the best plan so far is placed at once: the more
steps, the likelier one of them cannot be packed."""

MENDED_S = 10.0
"""For the addresses of a plan that is known to have some, at most."""

PROBE_S = 2.0
"""For trying that, and for the first plan of a large graph."""

TIGHTER = (0.995, 0.99, 0.98, 0.97, 0.95, 0.93, 0.9, 0.85, 0.8, 0.7, 0.6)
"""Shares of the capacity that plans are made for where those for all of it cannot be placed."""

TOGETHER_SHARE = 0.5
"""Of the time left, for residency and addresses together where the best plan cannot be placed."""

ORDERS = 3
"""How many of the best orders those are made with."""

ALTERNATIVES = 4
"""How many other optimal plans are asked for where the first cannot be placed."""


@dataclasses.dataclass
class _Search:
    """What is asked for, and what is known so far, in units of the instance.

    Attributes:
        capacity: bytes of the scratchpad.
        exact: whether CP-SAT takes part, as far as graphs are not too large for it.
        fixed: whether the order is given.
    """

    instance: Instance
    capacity: int
    clock: Clock
    threads: int
    seed: int
    exact: bool
    fixed: bool
    pool: list[Candidate] = dataclasses.field(default_factory=list)
    bound: int = 0
    infeasible: bool = False

    @property
    def large(self) -> bool:
        return self.instance.operators > LARGE

    @property
    def best(self) -> Candidate | None:
        return min(self.pool, key=lambda c: c.cost, default=None)

    @property
    def proven(self) -> bool:
        return self.infeasible or (self.best is not None and self.best.cost <= self.bound)


def schedule(
    graph: Graph,
    capacity: int,
    *,
    seconds: float = 60.0,
    threads: int = 1,
    order: Sequence[int] | None = None,
    seed: int = 0,
    proof: bool = True,
) -> Plan:
    """The plan of least off-chip traffic that is found in time, with addresses.

    Args:
        capacity: bytes of the scratchpad.
        seconds: for everything; more of them make better plans.
        threads: that CP-SAT may use.
        order: operators by position. If given, it is kept; bound and status are those of it.
        proof: False leaves CP-SAT out; the bound is then 0 unless the plan needs no extra bytes.

    Returns:
        Always the best plan found and its bound; its status is "optimal" if both agree, "feasible"
        otherwise, "unknown" without any plan if time ran out before there was one.

    Raises:
        ModelError: an operator does not fit into the scratchpad even alone, or it is proven that
            there is no plan.
        UsageError: the order is not one of this graph.
    """
    clock = Clock(seconds)
    instance = presolve(graph, capacity)
    instance.check_capacity()
    if not graph.operators:
        return Plan((), (), 0, status="optimal", method="presolve")
    exact = proof and retention.cp_sat_available()
    fixed = order is not None
    search = _Search(instance, capacity, clock, threads, seed, exact, fixed)
    if order is not None:
        _keep_order(search, check_order(graph, order))
    else:
        _search_orders(search)
    if search.infeasible:
        which = "no order of the operators fits" if order is None else "the order does not fit"
        raise ModelError(f"{which} into {capacity} bytes; use tiling or a larger scratchpad")
    if search.best is None:
        return Plan((), (), 0, search.bound * instance.unit, "unknown", "", clock.spent)
    return _placed(search)


def check_order(graph: Graph, order: Sequence[int]) -> tuple[int, ...]:
    """
    Raises:
        UsageError: it is not an order of this graph.
    """
    if sorted(order) != list(range(len(graph.operators))):
        raise UsageError("the order has to hold every operator once")
    position = {operator: step for step, operator in enumerate(order)}
    for operator, waits in enumerate(graph.predecessors):
        for p in waits:
            if position[p] > position[operator]:
                names = graph.operators[operator].name, graph.operators[p].name
                raise UsageError(
                    f"the order has {names[0]} before {names[1]}, whose output it reads"
                )
    return tuple(order)


def _keep_order(search: _Search, order: tuple[int, ...]) -> None:
    seconds = search.clock.left * (1 - PLACING_SHARE)
    found = best_residency(search.instance, order, seconds=seconds)
    search.bound = found.bound
    search.infeasible = found.status == "infeasible"
    if found.candidate is not None:
        search.pool.append(found.candidate)
    elif not search.infeasible:
        search.pool.append(everything_leaves(search.instance, order))


def _search_orders(search: _Search) -> None:
    instance, clock, threads, seed = search.instance, search.clock, search.threads, search.seed
    lowest = orders.least_peak(instance, seconds=min(2.0, 0.05 * clock.left), seed=seed)
    if lowest.value <= instance.capacity:
        search.pool.append(Candidate(0, lowest.order, (), "least peak"))
        return
    if search.exact:
        searching = min(SEARCH_SHARE * clock.left, 0.3 + SEARCH_S * instance.operators)
    else:
        searching = min((1 - 2 * PLACING_SHARE) * clock.left, 1 + ALONE_S * instance.operators)
    search.pool += orders.search(instance, lowest.order, seconds=searching, seed=seed)
    if not search.exact or search.proven:
        return
    working = clock.left - _keeping(search) * clock.seconds
    if search.best is not None:
        divided = divide(instance, search.best, seconds=working, threads=threads, seed=seed)
        search.pool.append(divided.candidate)
        search.bound = max(search.bound, divided.bound)
        return
    found = retention.best_retention(instance, seconds=working, threads=threads, seed=seed)
    search.bound = max(search.bound, found.bound)
    search.infeasible = found.status == "infeasible"
    if found.candidate is not None:
        search.pool.append(found.candidate)


def _keeping(search: _Search) -> float:
    """Share of the time that is kept for addresses."""
    instance, best = search.instance, search.best
    if not search.large or best is None:
        return PLACING_SHARE
    plan = plan_of(instance, best, 0)
    capacity = instance.capacity * instance.unit
    easy = place(instance, plan, capacity, seconds=PROBE_S, seed=search.seed) is not None
    return EASY_SHARE if easy else MENDING_SHARE


def _placed(search: _Search) -> Plan:
    """The cheapest plan that addresses are found for."""
    instance, clock = search.instance, search.clock
    tried: set[tuple[tuple[int, ...], tuple[tuple[int, int], ...]]] = set()
    plan = together = None
    for candidate in _alternatives(search):
        if together is not None and candidate.cost * instance.unit >= together.extra_bytes:
            plan = together
            break
        key = (candidate.order, tuple(sorted(candidate.loads)))
        if key in tried and candidate.method != MENDED:
            continue
        tried.add(key)
        plan = plan_of(instance, candidate, search.bound)
        allowed = min(PROBE_S if search.large else 5.0, max(0.5, 0.3 * clock.left))
        if candidate.method == MENDED:  # it was packed before; that takes as long again
            allowed = MENDED_S
        placed = place(
            instance,
            plan,
            search.capacity,
            seconds=allowed,
            threads=search.threads,
            seed=search.seed,
        )
        if placed is not None:
            plan = placed
            break
        if len(tried) == 1 and search.exact and not search.large:
            together = _placed_together(search)
    if plan is None:
        raise ValueError("there was no plan to place")
    return dataclasses.replace(plan, seconds=clock.spent)


def _placed_together(search: _Search) -> Plan | None:
    """The cheapest plan that residency and addresses together give for the best orders."""
    instance = search.instance
    firsts: dict[tuple[int, ...], Candidate] = {}
    for candidate in sorted(search.pool, key=lambda c: c.cost):
        firsts.setdefault(candidate.order, candidate)
    found: Plan | None = None
    chosen = list(firsts.values())[:ORDERS]
    for number, candidate in enumerate(chosen):
        placed = best_placed(
            instance,
            candidate.order,
            seconds=TOGETHER_SHARE * search.clock.left / (len(chosen) - number),
            threads=search.threads,
            seed=search.seed,
            hint=plan_of(instance, candidate, 0),
        ).plan
        if placed is not None and (found is None or placed.extra_bytes < found.extra_bytes):
            found = placed
    if found is None:
        return None
    bound = search.bound * instance.unit
    status = "optimal" if found.extra_bytes <= bound else "feasible"
    return dataclasses.replace(found, bound=min(bound, found.extra_bytes), status=status)


def _alternatives(search: _Search) -> Iterator[Candidate]:
    """Plans to be placed, cheap ones first; the last one can always be placed."""
    instance, capacity, clock = search.instance, search.capacity, search.clock
    pool = sorted(search.pool, key=lambda c: c.cost)
    best = pool[0]
    yield from (c for c in pool if c.cost == best.cost)
    if not search.fixed and search.exact and not search.large:
        for number in range(ALTERNATIVES):
            other = retention.best_retention(
                instance,
                seconds=0.15 * clock.left,
                threads=search.threads,
                seed=search.seed + 1 + number,
                at_most=best.cost,
                bound=best.cost if search.proven else 0,
            )
            if other.candidate is not None:
                yield other.candidate
    others: list[Candidate] = [c for c in pool if c.cost > best.cost]
    if search.large:
        yield repair(instance, best, capacity, seconds=0.8 * clock.left)
        yield thinned(instance, best, capacity, seconds=0.5 * clock.left)
        yield everything_leaves(instance, best.order)
        return
    chosen = list(dict.fromkeys(c.order for c in pool))[:ORDERS]
    mended = [
        repair(instance, c, capacity, seconds=0.4 * clock.left / ORDERS) for c in pool[:ORDERS]
    ]
    least = min(c.cost for c in mended)
    for share in TIGHTER:
        tighter = presolve(instance.graph, max(1, int(share * instance.capacity * instance.unit)))
        if clock.left < 1 or any(
            tighter.least_need(o) > tighter.capacity for o in range(tighter.operators)
        ):
            break
        found = []
        for order in chosen:
            residency = best_residency(tighter, order, seconds=max(0.5, 0.1 * clock.left))
            if residency.candidate is not None and residency.candidate.cost < least:
                found.append(residency.candidate)
        found.sort(key=lambda c: c.cost)
        while others and found and others[0].cost <= found[0].cost:
            yield others.pop(0)
        yield from found
    yield from (c for c in others if c.cost < least)
    yield from sorted(mended, key=lambda c: c.cost)
    yield everything_leaves(instance, best.order)
