"""Fused groups that run in stripes: how much room each of their buffers takes.

The operators of a group run one after the other on a stripe of rows, then on the next one. Each
row is computed once. What lies between two of them is a rolling buffer that holds the rows which
somebody still needs: those above the next window, and all that a later operator of the group (the
addition of a residual) has not come to yet.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

from compress.passes.schedule.alignment import round_up
from compress.passes.schedule.tiling.operators import StripedGraph, StripedOperator
from compress.passes.schedule.tiling.rows import (
    even_ends,
    first_row,
    last_row,
    stripe_counts,
)


@dataclasses.dataclass(frozen=True)
class TilingOptions:
    """How stripes are planned.

    Attributes:
        most_operators: in a group.
        double_buffer: rows from off chip arrive one stripe ahead, and leave one stripe later, so
            that copies and computation overlap; streamed weights have a second block likewise.
        weight_blocks: output channels whose weights arrive together where weights are streamed, at
            most.
        weight_bytes: of such a block, unless one channel has more.
        thorough: what a quick search found is searched again with more states, where it may not be
            the optimum. It takes a few times as long.
        align: bytes that addresses are multiples of.
    """

    most_operators: int = 16
    double_buffer: bool = True
    weight_blocks: int = 16
    weight_bytes: int = 8192
    thorough: bool = True
    align: int = 1

    def room(self, size: int) -> int:
        """What a buffer of `size` bytes takes."""
        return round_up(size, self.align)

    def pinned_bytes(self, operator: StripedOperator) -> int:
        """Room for an operator's weights where they stay."""
        return sum(self.room(size) for _, size in operator.weights)

    def stream_bytes(self, operator: StripedOperator) -> int:
        """Room for weights that pass through instead of staying."""
        channel = max(1, -(-operator.weight_bytes // operator.blocks))
        block = channel * max(1, min(self.weight_blocks, self.weight_bytes // channel))
        return self.room(min(operator.weight_bytes, block * (2 if self.double_buffer else 1)))


@dataclasses.dataclass(frozen=True)
class Stripes:
    """Operators start..stop-1 run in `count` stripes.

    Attributes:
        ends: plane -> number of its rows that are there after 0, 1, ..., `count` stripes.
        inside: plane -> rows of its buffer, of what lives and dies in the group.
        arriving: likewise of each input, where it is streamed in.
        leaving: likewise of each plane that is needed later, where it is streamed out.
        runs: by operator, the number of stripes in which it has something to do.
        inside_bytes: room for all buffers inside.
    """

    start: int
    stop: int
    count: int
    ends: dict[str, list[int]]
    inside: dict[str, int]
    arriving: dict[str, int]
    leaving: dict[str, int]
    runs: tuple[int, ...]
    inside_bytes: int


def stripes_ending_at(
    graph: StripedGraph, stop: int, room: int | None, options: TilingOptions
) -> Iterator[Stripes]:
    """All groups whose last operator is number `stop` - 1 and whose buffers inside fit into `room`
    bytes, by number of stripes, then by length.

    Left out is what can as well be two groups: one stripe for several operators, and operators of
    which the first ones have nothing to do with the last ones.
    """
    for count in _counts(graph, stop):
        for stripes in _Backwards(graph, stop, count, options).groups():
            if room is not None and stripes.inside_bytes > room:
                break
            if len(stripes.runs) == 1 or (count > 1 and not _separable(graph, stripes)):
                yield stripes


def _separable(graph: StripedGraph, stripes: Stripes) -> bool:
    """Whether there is a cut that no plane of the group crosses."""
    last: dict[str, int] = {}
    for position in range(stripes.start, stripes.stop):
        operator = graph.operators[position]
        last.update((name, position) for name in (*operator.inputs, *operator.outputs))
    first: dict[str, int] = {}
    reach = stripes.start
    for position in range(stripes.start, stripes.stop):
        if position > reach:
            return True
        operator = graph.operators[position]
        for name in (*operator.inputs, *operator.outputs):
            if first.setdefault(name, position) == position:
                reach = max(reach, last[name])
    return False


def _counts(graph: StripedGraph, stop: int) -> list[int]:
    """Numbers of stripes for groups that end there; behind operators that need everything, of
    what they read."""
    position = stop - 1
    while position > 0 and graph.operators[position].kind == "whole":
        position -= 1
    heights = [graph.wanted[name] for name in graph.operators[position].outputs]
    return stripe_counts(max(heights))


class _Backwards:
    """A group that grows at its start, for one number of stripes."""

    def __init__(self, graph: StripedGraph, stop: int, count: int, options: TilingOptions) -> None:
        self.graph, self.stop, self.count, self.options = graph, stop, count, options
        self.needed: dict[str, list[int]] = {}
        """By plane, rows that its readers inside need after each stripe."""
        self.lowest: dict[str, list[int]] = {}
        """By plane and stripe, the first row that readers inside have not finished with."""
        self.waited: dict[str, bool] = {}
        """By plane, whether only operators that need everything read it inside."""
        self.ends: dict[str, list[int]] = {}
        self.inside: dict[str, int] = {}
        self.leaving: dict[str, int] = {}
        self.runs: list[int] = []

    def groups(self) -> Iterator[Stripes]:
        first = max(0, self.stop - self.options.most_operators)
        for start in range(self.stop - 1, first - 1, -1):
            operator = self.graph.operators[start]
            self._add(operator)
            arriving = {v: list(n) for v, n in self.needed.items() if v not in self.ends}
            ends = self.ends | arriving
            planes = self.graph.planes
            yield Stripes(
                start,
                self.stop,
                self.count,
                ends,
                dict(self.inside),
                {
                    v: self._rows(v, n, early=self.options.double_buffer)
                    for v, n in arriving.items()
                },
                dict(self.leaving),
                tuple(reversed(self.runs)),
                sum(
                    self.options.room(rows * planes[v].row_bytes) for v, rows in self.inside.items()
                ),
            )

    def _add(self, operator: StripedOperator) -> None:
        graph = self.graph
        done = self._done(operator)
        runs = 0
        for name, ends in done.items():
            self.ends[name] = ends
            runs = max(runs, sum(a < b for a, b in itertools.pairwise(ends)))
            if self._leaves(name):
                self.leaving[name] = self._rows(name, ends, late=self.options.double_buffer)
            else:
                self.inside[name] = self._rows(name, ends)
        self.runs.append(runs)
        longest = max(done.values(), key=lambda ends: ends[-1])
        for name in operator.inputs:
            height = graph.planes[name].height
            needed = self.needed.setdefault(name, [0] * (self.count + 1))
            lowest = self.lowest.setdefault(name, [height] * (self.count + 1))
            self.waited[name] = self.waited.get(name, True) and operator.kind == "whole"
            for s in range(1, self.count + 1):
                last = last_row(operator.kind, operator.window, longest[s], height)
                needed[s] = max(needed[s], last)
                if longest[s - 1] < longest[-1]:
                    low = first_row(operator.kind, operator.window, longest[s - 1], height)
                    lowest[s] = min(lowest[s], low)

    def _leaves(self, name: str) -> bool:
        graph = self.graph
        later = any(reader >= self.stop for reader in graph.consumers[name])
        return later or graph.planes[name].kept

    def _done(self, operator: StripedOperator) -> dict[str, list[int]]:
        """By output, how many rows there are after each stripe."""
        wanted = {name: self.graph.wanted[name] for name in operator.outputs}
        if operator.kind == "whole":
            reads = [self.needed[v] for v in operator.outputs if v in self.needed]
            begun = (s for s in range(self.count + 1) if any(needed[s] for needed in reads))
            at = next(begun, self.count)
            return {
                v: [rows if s >= at else 0 for s in range(self.count + 1)]
                for v, rows in wanted.items()
            }
        name = operator.outputs[0]
        needed = self.needed.get(name)
        if needed is None:
            return {name: even_ends(wanted[name], self.count)}
        ends = list(needed)
        if self.waited[name]:
            ends = [
                max(pair) for pair in zip(ends, even_ends(wanted[name], self.count), strict=True)
            ]
        if self._leaves(name):
            ends[-1] = wanted[name]
        return {name: ends}

    def _rows(self, name: str, ends: list[int], *, early: bool = False, late: bool = False) -> int:
        """Rows of a rolling buffer: from the lowest that is still needed in a stripe to the last
        one that is made in it; or, where they arrive `early`, in the next one. Those that leave
        `late` stay for another stripe."""
        lowest = self.lowest.get(name)
        ahead = 1 if early else 0
        rows = ends[ahead]
        for s in range(1, self.count + 1):
            there = ends[min(s + ahead, self.count)]
            # what a step writes has room in any case
            low = ends[max(s - 2, 0) if late else min(s - 1 + ahead, self.count)]
            if lowest is not None:
                low = min(low, lowest[s])
            rows = max(rows, there - low)
        return rows
