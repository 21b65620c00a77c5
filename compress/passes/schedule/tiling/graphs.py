"""Tiling of whole networks: which order, which plan, and addresses for it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable

from compress.errors import UsageError
from compress.passes.schedule.program import Program
from compress.passes.schedule.tiling.chains import DEFAULTS, improve, quick_plan, too_small
from compress.passes.schedule.tiling.groups import TilingOptions
from compress.passes.schedule.tiling.lower import PACKING_SECONDS, lower
from compress.passes.schedule.tiling.operators import StripedGraph
from compress.passes.schedule.tiling.plans import TiledPlan

SHRINKS = 12
"""How often a plan without addresses is made again for less memory."""

SHRINK = 0.98
"""By how much at a time."""

SHORT_PACKING_SECONDS = 0.5
"""For addresses of a plan where time is out."""


@dataclasses.dataclass(frozen=True)
class Tiling:
    """A plan with its program.

    Attributes:
        order: of the operators, as positions in the graph it was made for.
        double_buffer: whether copies and computation overlap (see `TilingOptions`).
    """

    plan: TiledPlan
    program: Program
    order: tuple[int, ...]
    double_buffer: bool


def tile(
    graph: StripedGraph,
    capacity: int,
    options: TilingOptions = DEFAULTS,
    orders: Iterable[tuple[int, ...]] = (),
    *,
    deadline: float = math.inf,
    finish: bool = True,
) -> Tiling:
    """The best plan over some orders of the operators, carried out within the capacity.

    Tried are `orders`, as a scheduler of whole tensors proposes them, the order that the graph has,
    and one that keeps little alive. Where nothing fits with two buffers for what arrives
    and leaves, or one moves less, one has to do: copies then wait.

    Args:
        capacity: of the scratchpad, in bytes.
        orders: valid orders, as positions in the graph.
        deadline: of `time.monotonic()`. Beyond it only what a first plan takes goes on.
        finish: whether that goes on; there always is a plan then, if there are any.

    Raises:
        UsageError: the capacity is not positive.
        ModelError: no plan fits; it names the operator that needs the most.
        TimeoutError: there is no plan yet, and nothing was to go on.
    """
    if capacity < 1:
        raise UsageError(f"a scratchpad of {capacity} bytes: give a positive size")
    given = tuple(range(len(graph.operators)))
    candidates = list(dict.fromkeys((*orders, given, least_live_order(graph))))
    single = dataclasses.replace(options, double_buffer=False)
    found = _best(graph, capacity, options, candidates, deadline, finish)
    if options.double_buffer and (found is None or found.plan.extra_bytes):
        try:
            other = _best(graph, capacity, single, candidates, deadline, finish and found is None)
        except TimeoutError:
            other = None
        if found is None or (
            other is not None and other.plan.off_chip_bytes < found.plan.off_chip_bytes
        ):
            found = other
    if found is None:
        raise too_small(graph, capacity, single)
    return found


def _best(
    graph: StripedGraph,
    capacity: int,
    options: TilingOptions,
    orders: list[tuple[int, ...]],
    deadline: float,
    finish: bool,
) -> Tiling | None:
    """None if no plan fits, or no addresses were found."""
    found: list[tuple[TiledPlan, tuple[int, ...]]] = []
    for order in orders:
        try:
            until = math.inf if finish and not found else deadline
            plan = quick_plan(graph.reordered(order), capacity, options, deadline=until)
        except TimeoutError:
            if not found:
                raise
            break
        if plan is not None:
            found.append((plan, order))
            if not plan.extra_bytes:
                break
    if not found:
        return None
    plan, order = min(found, key=lambda pair: pair[0].off_chip_bytes)
    if options.thorough:
        plan = improve(plan, deadline=deadline)
    lowered = _lowered(plan, deadline)
    return None if lowered is None else Tiling(*lowered, order, options.double_buffer)


def _lowered(plan: TiledPlan, deadline: float) -> tuple[TiledPlan, Program] | None:
    """A plan with addresses: itself, or a similar one that is made for less memory."""
    capacity = plan.capacity
    program = lower(plan, seconds=_packing_seconds(deadline))
    less = capacity
    for _ in range(SHRINKS):
        if program is not None:
            return plan, program
        less = int(less * SHRINK)
        smaller = quick_plan(plan.graph, less, plan.options)
        if smaller is None:
            return None
        plan = dataclasses.replace(smaller, capacity=capacity, exact=False)
        program = lower(plan, seconds=_packing_seconds(deadline))
    return None if program is None else (plan, program)


def _packing_seconds(deadline: float) -> float:
    return min(PACKING_SECONDS, max(SHORT_PACKING_SECONDS, deadline - time.monotonic()))


def least_live_order(graph: StripedGraph) -> tuple[int, ...]:
    """A valid order that keeps little alive, by a greedy rule.

    The next operator is the one that adds the fewest live bytes; among equals, the one that reads
    what was made last, so that chains stay together and can be fused.
    """
    waiting = {
        position: {graph.producers[v] for v in operator.inputs if v in graph.producers}
        for position, operator in enumerate(graph.operators)
    }
    unread = {name: len(readers) for name, readers in graph.consumers.items()}
    made = dict.fromkeys(graph.planes, -1)
    order: list[int] = []
    while waiting:
        ready = [position for position, before in waiting.items() if not before]

        def growth(position: int) -> tuple[int, int, int]:
            operator = graph.operators[position]
            new = sum(graph.planes[v].bytes for v in operator.outputs if unread[v])
            freed = sum(graph.planes[v].bytes for v in operator.inputs if unread[v] == 1)
            return new - freed, -max((made[v] for v in operator.inputs), default=-1), position

        chosen = min(ready, key=growth)
        del waiting[chosen]
        for before in waiting.values():
            before.discard(chosen)
        for name in graph.operators[chosen].inputs:
            unread[name] -= 1
        for name in graph.operators[chosen].outputs:
            made[name] = len(order)
        order.append(chosen)
    return tuple(order)
