"""Interval covers: the whole latency-distortion frontier of merging runs of layers, in one run.

Layers 0..L-1 in a row; an entry realises the layers [start, end) as one. A cover is a set of
entries that has every layer exactly once. LayerMerge (ICML 2024) finds one with a table over
latencies that are multiplied by a precision and floored: the floors add up, so that what it finds
may be slower than the budget, and a finer table costs seconds. Here the table is replaced by
Pareto labels (latency, distortion) for each position between layers: nothing is rounded, and the
labels of the last position are the frontier itself, in which every budget is a lookup.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from compress.passes.pareto import ROUNDING, Floats, Integers, undominated

MOST_LABELS = 200_000
"""Per position. Measured networks of 50 layers have some thousands."""

MULTIPLIERS = 40
"""Prices of latency that are tried for a bound. Each costs one pass over the entries."""


@dataclasses.dataclass(frozen=True)
class Intervals:
    """What a row of layers may be covered with. Entries are known by their place in the arrays.

    Attributes:
        length: number of layers, L.
        starts, ends: (n,) int64, 0 <= start < end <= L: the entry covers the layers [start, end).
        latencies: (n,) float64, in any unit.
        distortions: (n,) float64; to be small in sum. (For importances, their negatives.)

    Raises:
        ValueError: figures that are not finite, lengths that differ, entries out of range.
    """

    length: int
    starts: Integers
    ends: Integers
    latencies: Floats
    distortions: Floats

    @classmethod
    def of(cls, length: int, entries: Sequence[tuple[int, int, float, float]]) -> Intervals:
        """From (start, end, latency, distortion)."""
        rows = np.array(entries, dtype=np.float64).reshape(len(entries), 4)
        starts, ends = rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64)
        return cls(length, starts, ends, rows[:, 2], rows[:, 3])

    def __post_init__(self) -> None:
        if len({len(a) for a in (self.starts, self.ends, self.latencies, self.distortions)}) > 1:
            raise ValueError("starts, ends, latencies and distortions differ in length")
        if not (np.isfinite(self.latencies).all() and np.isfinite(self.distortions).all()):
            raise ValueError("latencies and distortions have to be finite")
        wrong = (self.starts < 0) | (self.ends <= self.starts) | (self.ends > self.length)
        if wrong.any():
            index = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"entry {index} covers [{self.starts[index]}, {self.ends[index]}), which is not "
                f"a run of the layers 0..{self.length - 1}"
            )


@dataclasses.dataclass(frozen=True)
class Cover:
    """One cover.

    Attributes:
        entries: indices, by rising start.
        latency, distortion: the entries' sums, added in this order.
        status: "optimal", "feasible" (labels were thinned out: see `CoverFrontier.slack`) or
            "infeasible" (no cover is within the budget; then there are no entries).
    """

    entries: tuple[int, ...]
    latency: float
    distortion: float
    status: str


INFEASIBLE = Cover((), math.inf, math.inf, "infeasible")


@dataclasses.dataclass(frozen=True)
class CoverFrontier:
    """Every cover that no other one beats in both latency and distortion.

    Attributes:
        latencies: (n,) float64, rising.
        distortions: (n,) float64, falling.
        slack: 0 if the frontier is exact. Otherwise the best cover for a budget T is within T, and
            no worse than any cover within T - slack.
    """

    latencies: Floats
    distortions: Floats
    slack: float
    _labels: tuple[_Labels, ...]
    _starts: Integers

    @property
    def status(self) -> str:
        if not len(self.latencies):
            return "infeasible"
        return "feasible" if self.slack else "optimal"

    def __len__(self) -> int:
        return len(self.latencies)

    def cover(self, index: int) -> Cover:
        """The cover behind one point."""
        entries = []
        position, label = len(self._labels) - 1, index
        while position:
            entry = int(self._labels[position].entries[label])
            entries.append(entry)
            label = int(self._labels[position].previous[label])
            position = int(self._starts[entry])
        latency, distortion = float(self.latencies[index]), float(self.distortions[index])
        return Cover(tuple(reversed(entries)), latency, distortion, self.status)

    def best(self, max_latency: float = math.inf) -> Cover:
        """The least distorted cover whose latency is at most `max_latency`."""
        count = int(np.searchsorted(self.latencies, max_latency, side="right"))
        return self.cover(count - 1) if count else INFEASIBLE

    def fastest(self, max_distortion: float = math.inf) -> Cover:
        """The fastest cover whose distortion is at most `max_distortion`."""
        index = int(np.searchsorted(-self.distortions, -max_distortion, side="left"))
        return self.cover(index) if index < len(self) else INFEASIBLE


@dataclasses.dataclass(frozen=True)
class _Labels:
    """The frontier of the ways to cover the layers before one position: (n,) each.

    `entries` holds the last entry of each way, `previous` the label it continues.
    """

    latencies: Floats
    distortions: Floats
    entries: Integers
    previous: Integers

    def take(self, indices: Integers) -> _Labels:
        return _Labels(
            self.latencies[indices],
            self.distortions[indices],
            self.entries[indices],
            self.previous[indices],
        )


def cover_frontier(
    intervals: Intervals, *, max_latency: float = math.inf, max_labels: int = MOST_LABELS
) -> CoverFrontier:
    """The frontier of all covers whose latency is at most `max_latency`.

    Args:
        max_latency: labels that cannot be completed within it, even along the fastest remaining
            entries, are left out early.
        max_labels: per position, at least 2. Where there are more, the range of their latencies is
            cut into equal buckets, and of each bucket only its least distorted (and slowest) label
            goes on, beside the fastest of all. All labels remain latencies of real covers, so the
            result is feasible, and the widths of the buckets add up to `CoverFrontier.slack`.
    """
    limits = _limits(intervals, max_latency)
    return _labels(intervals, limits, max_latency, max_labels)


def best_cover(intervals: Intervals, max_latency: float, *, max_labels: int = MOST_LABELS) -> Cover:
    """The least distorted cover whose latency is at most `max_latency`: one budget, fewer labels.

    A price per unit of latency turns the budget into a shortest path, whose value bounds what every
    label can still become (Lagrangian relaxation); labels that cannot become better than the best
    cover met while the price was searched for are left out.
    """
    path = _shortest(intervals, intervals.latencies)
    if path is None or not _cover(intervals, path).latency <= max_latency:
        return INFEASIBLE
    incumbent = _cover(intervals, path)
    price, low, high = 0.0, 0.0, math.inf
    for _ in range(MULTIPLIERS):
        path = _shortest(intervals, intervals.distortions + price * intervals.latencies)
        cover = _cover(intervals, path or incumbent.entries)
        if cover.latency <= max_latency:
            incumbent = min(incumbent, cover, key=lambda c: c.distortion)
            high = price
        else:
            low = price
        if high - low <= 1e-6 * high < math.inf:
            break
        if high == math.inf:
            price = 2 * price if price else _first_price(intervals)
        else:
            price = (low + high) / 2
    priced = _least_remaining(intervals, intervals.distortions + price * intervals.latencies)
    allowed = incumbent.distortion + price * max_latency - priced
    limits = _limits(intervals, max_latency)
    frontier = _labels(intervals, limits, max_latency, max_labels, price, allowed)
    found = frontier.best(max_latency)
    if found.distortion <= incumbent.distortion:
        return found
    return dataclasses.replace(incumbent, status="feasible" if frontier.slack else "optimal")


def _labels(
    intervals: Intervals,
    limits: Floats,
    max_latency: float,
    max_labels: int,
    price: float = 0.0,
    allowed: Floats | None = None,
) -> CoverFrontier:
    """Labels of every position whose latency is at most its limit, and whose distortion plus price
    times latency is at most what is allowed there; up to rounding, except for the last position."""
    length = intervals.length
    longest = length * float(np.abs(intervals.latencies).max(initial=0.0))
    largest = length * float(np.abs(intervals.distortions).max(initial=0.0))
    into: list[list[int]] = [[] for _ in range(length + 1)]
    for index, (start, end) in enumerate(
        zip(intervals.starts.tolist(), intervals.ends.tolist(), strict=True)
    ):
        if limits[start] > -math.inf and limits[end] > -math.inf:
            into[end].append(index)
    none = np.zeros(0, dtype=np.int64)
    empty = _Labels(none.astype(np.float64), none.astype(np.float64), none, none)
    begin = _Labels(np.zeros(1), np.zeros(1), none, none)
    table = [begin]
    slack = 0.0
    for position in range(1, length + 1):
        entries = [i for i in into[position] if len(table[intervals.starts[i]].latencies)]
        if not entries:
            table.append(empty)
            continue
        before = [table[intervals.starts[i]] for i in entries]
        counts = [len(labels.latencies) for labels in before]
        labels = _Labels(
            np.concatenate(
                [b.latencies + intervals.latencies[i] for b, i in zip(before, entries, strict=True)]
            ),
            np.concatenate(
                [
                    b.distortions + intervals.distortions[i]
                    for b, i in zip(before, entries, strict=True)
                ]
            ),
            np.repeat(np.array(entries, dtype=np.int64), counts),
            np.concatenate([np.arange(count, dtype=np.int64) for count in counts]),
        )
        if position == length:
            fitting = labels.latencies <= max_latency
        else:
            fitting = labels.latencies <= limits[position] + ROUNDING * longest
        if allowed is not None:
            value = labels.distortions + price * labels.latencies
            fitting &= value <= allowed[position] + 10 * ROUNDING * (largest + price * longest)
        labels = labels.take(np.flatnonzero(fitting))
        labels = labels.take(undominated(labels.latencies, labels.distortions, ROUNDING))
        if len(labels.latencies) > max_labels:
            thinned, width = _thin(labels.latencies, max_labels)
            labels = labels.take(thinned)
            slack += width
        table.append(labels)
    last = table[-1]
    return CoverFrontier(last.latencies, last.distortions, slack, tuple(table), intervals.starts)


def _thin(latencies: Floats, most: int) -> tuple[Integers, float]:
    """Indices of the first label and of the last one in each of `most` - 1 buckets, and the
    buckets' width; latencies rise."""
    buckets = max(most - 1, 1)
    width = float(latencies[-1] - latencies[0]) / buckets
    edges = latencies[0] + width * np.arange(1, buckets + 1)
    edges[-1] = latencies[-1]
    last = np.searchsorted(latencies, edges, side="right") - 1
    return np.unique(np.append(last, 0)), width


def _least_remaining(intervals: Intervals, weights: Floats) -> Floats:
    """(L + 1,): the least sum of weights that covers the layers from each position on; inf if
    nothing does."""
    least = [math.inf] * intervals.length + [0.0]
    starts, ends = intervals.starts.tolist(), intervals.ends.tolist()
    weight = weights.tolist()
    for index in np.argsort(-intervals.starts, kind="stable").tolist():
        through = weight[index] + least[ends[index]]
        if through < least[starts[index]]:
            least[starts[index]] = through
    return np.array(least)


def _limits(intervals: Intervals, max_latency: float) -> Floats:
    """(L + 1,): the latency at each position from which the end can be reached in time; -inf if it
    cannot be reached at all."""
    remaining = _least_remaining(intervals, intervals.latencies)
    limits = np.full(len(remaining), -math.inf)
    reaching = remaining < math.inf
    limits[reaching] = max_latency - remaining[reaching]
    return limits


def _shortest(intervals: Intervals, weights: Floats) -> tuple[int, ...] | None:
    """The entries of the cover of least weight, None if there is no cover."""
    least = [0.0] + [math.inf] * intervals.length
    last = [-1] * (intervals.length + 1)
    starts, ends = intervals.starts.tolist(), intervals.ends.tolist()
    weight = weights.tolist()
    for index in np.argsort(intervals.starts, kind="stable").tolist():
        through = least[starts[index]] + weight[index]
        if through < least[ends[index]]:
            least[ends[index]], last[ends[index]] = through, index
    if least[-1] == math.inf:
        return None
    path, position = [], intervals.length
    while position:
        path.append(last[position])
        position = starts[last[position]]
    return tuple(reversed(path))


def _cover(intervals: Intervals, entries: tuple[int, ...]) -> Cover:
    """With its figures added in the order of the entries, as labels are."""
    latency = distortion = 0.0
    for index in entries:
        latency += float(intervals.latencies[index])
        distortion += float(intervals.distortions[index])
    return Cover(entries, latency, distortion, "feasible")


def _first_price(intervals: Intervals) -> float:
    """A price of latency from which to double: distortions over latencies, by size."""
    latency = float(np.abs(intervals.latencies).mean())
    distortion = float(np.abs(intervals.distortions).mean())
    return distortion / latency * 1e-3 if latency and distortion else 1.0
