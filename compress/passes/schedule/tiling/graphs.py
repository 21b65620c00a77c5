"""Tiling of whole networks: which order, which plan, and addresses for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from compress.errors import ModelError, UsageError
from compress.passes.schedule.program import Program
from compress.passes.schedule.tiling.chains import DEFAULTS, plan_order
from compress.passes.schedule.tiling.groups import TilingOptions
from compress.passes.schedule.tiling.lower import lower
from compress.passes.schedule.tiling.operators import StripedGraph
from compress.passes.schedule.tiling.plans import TiledPlan

SHRINKS = 12
"""How often a plan without addresses is made again for less memory."""

SHRINK = 0.98
"""By how much at a time."""


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
) -> Tiling:
    """The best plan over some orders of the operators, carried out within the capacity.

    Tried are the order that the graph has, one that keeps little alive, and `orders`, as a
    scheduler of whole tensors proposes them. Where nothing fits with two buffers for what arrives
    and leaves, one has to do.

    Args:
        capacity: of the scratchpad, in bytes.
        orders: valid orders, as positions in the graph.

    Raises:
        UsageError: the capacity is not positive.
        ModelError: no plan fits; it names the operator that needs the most.
    """
    if capacity < 1:
        raise UsageError(f"a scratchpad of {capacity} bytes: give a positive size")
    given = tuple(range(len(graph.operators)))
    candidates = list(dict.fromkeys((given, least_live_order(graph), *orders)))
    try:
        return _best(graph, capacity, options, candidates)
    except ModelError:
        if not options.double_buffer:
            raise
        single = dataclasses.replace(options, double_buffer=False)
        return _best(graph, capacity, single, candidates)


def _best(
    graph: StripedGraph, capacity: int, options: TilingOptions, orders: list[tuple[int, ...]]
) -> Tiling:
    quick = dataclasses.replace(options, thorough=False)
    found: list[tuple[TiledPlan, tuple[int, ...]]] = []
    failures: list[ModelError] = []
    for order in orders:
        try:
            found.append((plan_order(graph.reordered(order), capacity, quick), order))
        except ModelError as error:
            failures.append(error)
            continue
        if not found[-1][0].extra_bytes:
            break
    if not found:
        raise failures[0]
    plan, order = min(found, key=lambda pair: pair[0].off_chip_bytes)
    if options.thorough and not plan.exact:
        plan = plan_order(plan.graph, capacity, options)
    program = lower(plan)
    less = capacity
    for _ in range(SHRINKS):
        if program is not None:
            break
        less = int(less * SHRINK)
        smaller = plan_order(plan.graph, less, quick)
        plan = dataclasses.replace(smaller, capacity=capacity, exact=False)
        program = lower(plan)
    if program is None:
        raise ModelError(f"no addresses were found within a scratchpad of {capacity} bytes")
    return Tiling(plan, program, order, options.double_buffer)


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
