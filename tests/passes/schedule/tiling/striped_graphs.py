"""Random graphs of operators with rows, and what stripes are by definition."""

from __future__ import annotations

import dataclasses
import functools
import itertools

from hypothesis import strategies as st

from compress.passes.schedule.tiling.groups import TilingOptions
from compress.passes.schedule.tiling.operators import Plane, StripedGraph, StripedOperator
from compress.passes.schedule.tiling.rows import Window, stripe_counts


@st.composite
def graphs(draw: st.DrawFn, most: int = 6, tallest: int = 9) -> StripedGraph:
    """Chains with residuals, reductions to one row and gates."""
    height = draw(st.integers(1, tallest))
    planes = {"x": Plane("x", draw(st.integers(1, 3)), height, 2, external=True)}
    operators: list[StripedOperator] = []
    last = "x"
    for number in range(draw(st.integers(1, most))):
        name, source = f"v{number}", planes[last]
        kind = draw(st.sampled_from(["window", "window", "pointwise", "whole"]))
        inputs, rows, window = (last,), source.height, Window()
        if kind == "window":
            window = draw(windows(source.height))
            rows = outgoing(window, source.height)
        elif kind == "whole":
            rows = draw(st.sampled_from([1, source.height]))
        else:
            fitting = [v for v, p in planes.items() if v != last and p.height in (1, rows)]
            if fitting and draw(st.booleans()):
                inputs = (last, draw(st.sampled_from(fitting)))
        planes[name] = Plane(name, draw(st.integers(1, 3)), rows, 2)
        size = draw(st.sampled_from([0, 2, 7, 30]))
        weights = ((f"{name}.w", size),) if size else ()
        blocks = draw(st.sampled_from([1, 2]))
        operators.append(StripedOperator(name, kind, inputs, (name,), window, weights, blocks))
        last = name
    read = {name for operator in operators for name in operator.inputs}
    for name, plane in planes.items():
        if name not in read or (name != "x" and draw(st.integers(0, 5)) == 0):
            planes[name] = dataclasses.replace(plane, kept=True)
    return StripedGraph(tuple(operators), planes)


@st.composite
def windows(draw: st.DrawFn, height: int) -> Window:
    kernel, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    padding = draw(st.integers(0, (kernel - 1) * dilation))
    window = Window(kernel, draw(st.integers(1, 3)), dilation, padding)
    return window if outgoing(window, height) > 0 else Window()


def outgoing(window: Window, height: int) -> int:
    """Output rows with the same padding below as above."""
    reach = (window.kernel - 1) * window.dilation + 1
    return (height + 2 * window.padding - reach) // window.stride + 1


def dependencies(operator: StripedOperator, row: int, height: int) -> set[int]:
    """Rows of an input with `height` rows that one output row depends on, padding included."""
    if operator.kind == "whole":
        return set(range(height))
    if operator.kind == "pointwise":
        return {0} if height == 1 else {row}
    window = operator.window
    start = row * window.stride - window.padding
    return {start + tap * window.dilation for tap in range(window.kernel)}


def read(operator: StripedOperator, rows: range, height: int) -> set[int]:
    """Rows that computing some rows reads: from the first to the last that they depend on."""
    found = set().union(*(dependencies(operator, row, height) for row in rows))
    return {r for r in range(min(found), max(found) + 1) if 0 <= r < height} if found else set()


@dataclasses.dataclass(frozen=True)
class ByDefinition:
    """Rows of each buffer, rows that arrive in all, and how often each operator runs."""

    rows: dict[str, int]
    arrived: dict[str, int]
    runs: tuple[int, ...]


def stripes_by_definition(
    graph: StripedGraph, start: int, stop: int, count: int, options: TilingOptions
) -> ByDefinition:
    """Operators start..stop-1 in `count` stripes, played through step by step.

    A rolling buffer of n rows writes row r + n over row r: it is large enough if r is never read
    after that, and if it holds what one step writes.
    """
    operators = graph.operators[start:stop]
    done = _progress(graph, start, stop, count)
    written: dict[str, dict[int, int]] = {v: {} for v in done}
    touched: dict[str, dict[int, int]] = {v: {} for v in done}
    most: dict[str, int] = dict.fromkeys(done, 0)
    clock = itertools.count()
    own = {v for operator in operators for v in operator.outputs}
    ahead = 1 if options.double_buffer else 0
    runs = [0] * len(operators)

    def write(name: str, stripe: int) -> None:
        rows = range(done[name][stripe - 1], done[name][stripe])
        most[name] = max(most[name], len(rows))
        now = next(clock)
        written[name].update(dict.fromkeys(rows, now))

    def touch(name: str, rows: set[int] | range) -> None:
        now = next(clock)
        touched[name].update(dict.fromkeys(rows, now))

    arriving = [name for name in done if name not in own]
    for stripe in range(1 - ahead, count + ahead + 1):
        for name in arriving:
            if 1 <= stripe + ahead <= count:
                write(name, stripe + ahead)
        for number, operator in enumerate(operators if 1 <= stripe <= count else ()):
            out = operator.outputs[0]
            rows = range(done[out][stripe - 1], done[out][stripe])
            for name in operator.inputs if rows else ():
                touch(name, read(operator, rows, graph.planes[name].height))
            if rows:
                runs[number] += 1
                write(out, stripe)
        for name in own:
            later = any(reader >= stop for reader in graph.consumers[name])
            if 1 <= stripe - ahead <= count and (later or graph.planes[name].kept):
                touch(name, range(done[name][stripe - ahead - 1], done[name][stripe - ahead]))
    rows = {
        name: next(
            n
            for n in range(most[name], 1000)
            if all(
                touched[name].get(row, -1) < written[name].get(row + n, 10**9)
                for row in written[name]
            )
        )
        for name in done
    }
    return ByDefinition(rows, {v: done[v][-1] for v in arriving}, tuple(runs))


def _progress(graph: StripedGraph, start: int, stop: int, count: int) -> dict[str, list[int]]:
    """By plane, rows that are there after each stripe: as few as the last planes need, in stripes
    of the same height."""
    done: dict[str, list[int]] = {}
    for position in range(stop - 1, start - 1, -1):
        operator = graph.operators[position]
        (name,) = operator.outputs
        wanted = graph.wanted[name]
        inside = [r for r in graph.consumers[name] if r < stop]
        leaves = len(inside) < len(graph.consumers[name]) or graph.planes[name].kept
        even = [-(-wanted * s // count) for s in range(count + 1)]
        ends = done.get(name, [0] * (count + 1))
        if operator.kind == "whole":
            at = next((s for s in range(count + 1) if ends[s]), count)
            ends = [wanted if s >= at else 0 for s in range(count + 1)]
        else:
            if all(graph.operators[r].kind == "whole" for r in inside):
                ends = [max(pair) for pair in zip(ends, even, strict=True)]
            if leaves:
                ends = [*ends[:-1], wanted]
        done[name] = ends
        for source in operator.inputs:
            height = graph.planes[source].height
            needed = [max(read(operator, range(rows), height), default=-1) + 1 for rows in ends]
            known = done.get(source, [0] * (count + 1))
            done[source] = [max(pair) for pair in zip(known, needed, strict=True)]
    return done


def cheapest(graph: StripedGraph, capacity: int, options: TilingOptions) -> int | None:
    """The fewest off-chip bytes of any plan in the graph's order, all of them tried."""
    planes, operators = graph.planes, graph.operators
    wanted = {name: graph.wanted[name] * plane.row_bytes for name, plane in planes.items()}

    @functools.cache
    def group(start: int, stop: int, count: int) -> ByDefinition:
        return stripes_by_definition(graph, start, stop, count, options)

    @functools.cache
    def after(cut: int, state: frozenset) -> int | None:
        if cut == len(operators):
            return 0 if not state else None
        found = [
            cost + sum(wanted[v] for v, copied in state - set(kept) if not copied)
            for kept in _subsets(state)
            for stop in range(cut + 1, len(operators) + 1)
            for cost in runs(cut, stop, frozenset(kept))
        ]
        return min(found, default=None)

    def runs(start: int, stop: int, state: frozenset) -> list[int]:
        inside = operators[start:stop]
        made = {v for operator in inside for v in operator.outputs}
        used = {v for operator in inside for v in operator.inputs} - made
        needed_later = {v for v in planes if any(r >= stop for r in graph.consumers[v])}
        leaving = {v for v in made if v in needed_later or planes[v].kept}
        absent = used - {v for v, _ in state}
        costs: list[int] = []
        last = next((o for o in reversed(operators[:stop]) if o.kind != "whole"), operators[0])
        for count in stripe_counts(graph.wanted[last.outputs[0]]):
            played = group(start, stop, count)
            for loads in _subsets(absent & needed_later):
                for stays in _subsets(leaving & needed_later):
                    room = sum(wanted[v] for v in {v for v, _ in state} | {*loads, *stays})
                    rolling = (made | absent) - {*loads, *stays}
                    room += sum(played.rows[v] * planes[v].row_bytes for v in rolling)
                    moved = sum(wanted[v] for v in loads)
                    moved += sum(
                        played.arrived[v] * planes[v].row_bytes for v in absent - set(loads)
                    )
                    stored = {v for v in leaving if v not in stays or planes[v].kept}
                    moved += sum(wanted[v] for v in stored)
                    there = {pair for pair in state if pair[0] in needed_later}
                    there |= {(v, True) for v in loads} | {(v, planes[v].kept) for v in stays}
                    weights = _weights(inside, played.runs, capacity - room, options)
                    rest = None if weights is None else after(stop, frozenset(there))
                    if weights is not None and rest is not None:
                        costs.append(moved + weights + rest)
        return costs

    return after(0, frozenset())


def _weights(
    operators: tuple[StripedOperator, ...],
    runs: tuple[int, ...],
    room: int,
    options: TilingOptions,
) -> int | None:
    costs = []
    for pinned in itertools.product((False, True), repeat=len(operators)):
        triples = list(zip(operators, runs, pinned, strict=True))
        bytes_ = sum(o.weight_bytes for o, _, stays in triples if stays)
        bytes_ += max((options.stream_bytes(o) for o, _, stays in triples if not stays), default=0)
        if bytes_ <= room:
            costs.append(sum(o.weight_bytes * (1 if stays else n) for o, n, stays in triples))
    return min(costs, default=None)


def _subsets(items):
    ordered = sorted(items)
    return [
        chosen
        for size in range(len(ordered) + 1)
        for chosen in itertools.combinations(ordered, size)
    ]
