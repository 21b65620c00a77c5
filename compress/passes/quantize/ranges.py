"""From a tensor's histogram to the range its integers cover: four estimators."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.evidence.statistics import BINS, TensorStatistics

Array = npt.NDArray[Any]
Costs = Callable[[Array, Array], Array]
"""From lower and upper ends of ranges, (n,) each, to what each range costs."""


class RangeMethod(enum.StrEnum):
    """How the range of an activation is chosen."""

    MIN_MAX = "min-max"
    PERCENTILE = "percentile"
    MSE = "mse"
    ENTROPY = "entropy"


PERCENTILE = 99.99
"""Share of the elements that stay inside the range, in percent, half of the rest on each side."""

MSE_STEPS = 48
ENTROPY_STEPS = 32
SMALLEST_SHARE_OF_MASS = 1e-12
"""What a bin holds at least, for logarithms."""

FEWEST_ELEMENTS = BINS
"""A histogram with fewer elements than bins is no distribution: entropy gives way to MSE."""

SMALLEST_SHARE = 0.15
"""The narrowest range that is tried, as a share of min-max."""


def choose_range(statistics: TensorStatistics, method: RangeMethod) -> tuple[float, float]:
    """(low, high), containing 0, within what was observed.

    Percentile and entropy follow the usual definitions on a histogram; MSE minimises the expected
    squared rounding and clipping error of uint8. Zero is always inside: padding needs it.
    """
    low, high = min(0.0, statistics.low), max(0.0, statistics.high)
    if not low < high or not np.isfinite(high - low):
        return 0.0, 0.0
    if method is RangeMethod.MIN_MAX or statistics.counts.sum() == 0:
        return low, high
    if method is RangeMethod.PERCENTILE:
        return _percentile(statistics, low, high)
    if method is RangeMethod.MSE or statistics.counts.sum() < FEWEST_ELEMENTS:
        return _search(low, high, _squared_errors(statistics), MSE_STEPS, rounds=2)
    return _search(low, high, _divergences(statistics), ENTROPY_STEPS, rounds=1)


def _percentile(statistics: TensorStatistics, low: float, high: float) -> tuple[float, float]:
    share = np.cumsum(statistics.counts) / statistics.counts.sum()
    tail = (100.0 - PERCENTILE) / 200.0
    centers = statistics.centers()
    half_bin = statistics.half_width / BINS
    lower = centers[int(np.searchsorted(share, tail))] - half_bin
    upper = centers[min(int(np.searchsorted(share, 1.0 - tail)), BINS - 1)] + half_bin
    return max(low, min(0.0, float(lower))), min(high, max(0.0, float(upper)))


def squared_error(statistics: TensorStatistics, low: float, high: float) -> float:
    """Expected squared error of uint8 over [low, high], per element.

    Inside the range the rounding error is taken to be uniform, scale^2 / 12: right as long as most
    values are further from zero than one step.
    """
    return float(_squared_errors(statistics)(np.array([low]), np.array([high]))[0])


def _squared_errors(statistics: TensorStatistics) -> Costs:
    """`squared_error` of many ranges: sums over the bins outside come from running sums."""
    centers, counts = statistics.centers(), statistics.counts.astype(np.float64)
    total = max(1.0, counts.sum())
    # exact zeros (after a Relu most of a tensor) are represented exactly
    zeros = _zeros(statistics)
    moments = [np.concatenate([[0.0], np.cumsum(counts * centers**power)]) for power in (0, 1, 2)]

    def outside(edges: Array, below: Array, zeroth: Array, first: Array, second: Array) -> Array:
        """Sum of (edge - center)^2 over the bins whose moments these are."""
        return np.asarray(np.where(below, edges**2 * zeroth - 2 * edges * first + second, 0.0))

    def costs(lows: Array, highs: Array) -> Array:
        under = np.searchsorted(centers, lows, side="left")
        upper = np.searchsorted(centers, highs, side="right")
        head = [m[under] for m in moments]
        tail = [m[-1] - m[upper] for m in moments]
        clipped = outside(lows, under > 0, *head) + outside(highs, upper < len(centers), *tail)
        inside = moments[0][upper] - moments[0][under] - zeros
        rounded = np.maximum(inside, 0.0) * ((highs - lows) / 255.0) ** 2 / 12.0
        return np.asarray((np.maximum(clipped, 0.0) + rounded) / total)

    return costs


def _zeros(statistics: TensorStatistics) -> float:
    """Elements that are exactly zero, estimated: the excess of the bin that starts at 0."""
    middle = BINS // 2
    if statistics.low < 0:
        return 0.0
    return float(max(0, int(statistics.counts[middle]) - int(statistics.counts[middle + 1])))


def divergence(statistics: TensorStatistics, low: float, high: float) -> float:
    """Kullback-Leibler divergence of the 256-level histogram from the clipped original.

    What is clipped counts as the outermost bin that is not; where that is empty, as if it were
    lost.
    """
    return float(_divergences(statistics)(np.array([low]), np.array([high]))[0])


def _divergences(statistics: TensorStatistics) -> Costs:
    """`divergence` of many ranges, over the bins that hold anything."""
    every = statistics.centers()
    occupied = np.flatnonzero(statistics.counts)
    centers, counts = every[occupied], statistics.counts[occupied].astype(np.float64)
    total = counts.sum()

    def cost(low: float, high: float) -> float:
        first = int(np.searchsorted(centers, low, side="left"))
        last = int(np.searchsorted(centers, high, side="right"))
        if first >= last:
            return float("inf")
        inside = counts[first:last]
        levels = np.rint((centers[first:last] - low) / (high - low) * 255.0).astype(np.intp)
        mass = np.bincount(levels, weights=inside, minlength=256)
        bins = np.bincount(levels, minlength=256)
        spread = mass[levels] / bins[levels]
        kept, lost = inside.copy(), 0.0
        ends = (
            (0, first, np.searchsorted(every, low, side="left"), counts[:first].sum()),
            (-1, last - 1, np.searchsorted(every, high, side="right") - 1, counts[last:].sum()),
        )
        for place, outermost, edge, clipped in ends:
            if occupied[outermost] == edge:
                kept[place] += clipped
            elif clipped > 0:
                lost += clipped / total * np.log(clipped / total / SMALLEST_SHARE_OF_MASS)
        p, q = kept / total, np.maximum(spread / inside.sum(), SMALLEST_SHARE_OF_MASS)
        return float((p * np.log(p / q)).sum() + lost)

    def costs(lows: Array, highs: Array) -> Array:
        return np.array([cost(*pair) for pair in zip(lows, highs, strict=True)])

    return costs


def _search(low: float, high: float, costs: Costs, steps: int, rounds: int) -> tuple[float, float]:
    """Shrinks both ends together, then each alone; the cheapest range wins."""
    shares = np.linspace(SMALLEST_SHARE, 1.0, steps)[::-1]
    at_low, at_high = _cheapest(low * shares, high * shares, costs)
    for _ in range(rounds):
        for lows, highs in (
            (np.append(at_low, low * shares), np.full(steps + 1, at_high)),
            (np.full(steps + 1, at_low), np.append(at_high, high * shares)),
        ):
            wide = highs > lows
            at_low, at_high = _cheapest(lows[wide], highs[wide], costs)
    return at_low, at_high


def _cheapest(lows: Array, highs: Array, costs: Costs) -> tuple[float, float]:
    """The first of the cheapest ranges: the present one before others, wide ones before narrow."""
    best = int(np.argmin(costs(lows, highs)))
    return float(lows[best]), float(highs[best])
