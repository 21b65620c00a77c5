"""The least traffic of tiny graphs, by looking at every way to run them."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence

from compress.passes.schedule.problem import Graph

State = tuple[frozenset[int], frozenset[int], frozenset[int]]
"""(operators that ran, resident tensors, tensors with a copy off chip)"""


def least_traffic(graph: Graph, capacity: int, order: Sequence[int] | None = None) -> int | None:
    """Extra off-chip bytes of the best plan, addresses left out; None if there is no plan."""
    external = frozenset(i for i, t in enumerate(graph.tensors) if t.external)
    everything = frozenset(range(len(graph.operators)))
    best: dict[State, int] = {}
    heap: list[tuple[int, int, State]] = [(0, 0, (frozenset(), frozenset(), external))]
    for number in itertools.count(1):
        if not heap:
            return None
        cost, _, state = heapq.heappop(heap)
        if state[0] == everything:
            return cost
        if best.get(state, cost + 1) <= cost:
            continue
        best[state] = cost
        for extra, following in _steps(graph, capacity, state, order):
            heapq.heappush(heap, (cost + extra, number, following))
    return None


def _steps(
    graph: Graph, capacity: int, state: State, order: Sequence[int] | None
) -> Iterator[tuple[int, State]]:
    done, resident, copied = state
    for number, operator in enumerate(graph.operators):
        if number in done or not graph.predecessors[number] <= done:
            continue
        if order is not None and order[len(done)] != number:
            continue
        inputs = frozenset(operator.inputs)
        now = done | {number}
        dead = {t for t in (*inputs, *operator.outputs) if set(graph.consumers[t]) <= now}
        loads = 0
        for t in inputs - resident:
            used_before = any(c in done for c in graph.consumers[t])
            if not graph.tensors[t].external or used_before:
                loads += graph.tensors[t].bytes
        if not inputs - resident <= copied:
            continue
        others = resident - inputs
        need = sum(graph.tensors[t].bytes for t in (*inputs, *operator.outputs))
        need += operator.workspace - _shared(graph, number, dead)
        for count in range(len(others) + 1):
            for leaving in itertools.combinations(sorted(others), count):
                staying = others - set(leaving)
                if need + sum(graph.tensors[t].bytes for t in staying) > capacity:
                    continue
                stored = set(leaving) - copied
                cost = sum(graph.tensors[t].bytes for t in stored if not graph.tensors[t].kept)
                after = (staying | inputs | set(operator.outputs)) - dead
                yield loads + cost, (now, after, copied | stored)


def _shared(graph: Graph, number: int, dead: set[int]) -> int:
    """The most bytes that inputs used for the last time save by lying inside an output."""
    operator = graph.operators[number]
    most = 0
    for count in range(1, len(operator.shares) + 1):
        for chosen in itertools.combinations(operator.shares, count):
            taken: set[tuple[int, int]] = set()
            saved = 0
            for share in chosen:
                size = graph.tensors[share.input].bytes
                cells = {(share.output, share.offset + i) for i in range(size)}
                fits = share.offset + size <= graph.tensors[share.output].bytes
                if share.input not in dead or graph.tensors[share.input].kept or not fits:
                    break
                if cells & taken:
                    break
                taken |= cells
                saved += size
            else:
                if len({s.input for s in chosen}) == len(chosen):
                    most = max(most, saved)
    return most
