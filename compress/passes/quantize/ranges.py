"""From a tensor's histogram to the range its integers cover: four estimators."""

from __future__ import annotations

import enum
from collections.abc import Callable

import numpy as np

from compress.evidence.statistics import BINS, TensorStatistics


class RangeMethod(enum.StrEnum):
    """How the range of an activation is chosen."""

    MIN_MAX = "min-max"
    PERCENTILE = "percentile"
    MSE = "mse"
    ENTROPY = "entropy"


PERCENTILE = 99.99
"""Share of the elements that stay inside the range, in percent, half of the rest on each side."""

MSE_STEPS = 48
ENTROPY_STEPS = 48
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
    if method is RangeMethod.MSE:
        return _search(statistics, low, high, squared_error, MSE_STEPS)
    return _search(statistics, low, high, divergence, ENTROPY_STEPS)


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
    centers, counts = statistics.centers(), statistics.counts
    scale = (high - low) / 255.0
    outside = np.maximum(low - centers, 0.0) + np.maximum(centers - high, 0.0)
    inside = outside == 0.0
    clipped = float((counts * outside**2).sum())
    # exact zeros (after a Relu most of a tensor) are represented exactly
    rounded = float(counts[inside].sum() - _zeros(statistics)) * scale**2 / 12.0
    return (clipped + max(rounded, 0.0)) / max(1, int(counts.sum()))


def _zeros(statistics: TensorStatistics) -> float:
    """Elements that are exactly zero, estimated: the excess of the bin that starts at 0."""
    middle = BINS // 2
    if statistics.low < 0:
        return 0.0
    return float(max(0, int(statistics.counts[middle]) - int(statistics.counts[middle + 1])))


def divergence(statistics: TensorStatistics, low: float, high: float) -> float:
    """Kullback-Leibler divergence of the 256-level histogram from the clipped original."""
    centers, counts = statistics.centers(), statistics.counts.astype(np.float64)
    levels = np.clip(np.rint((centers - low) / (high - low) * 255.0), 0, 255).astype(np.int64)
    inside = (centers >= low) & (centers <= high)
    if not inside.any():
        return float("inf")
    reference = np.where(inside, counts, 0.0)
    # clipped mass piles up in the outermost bins that remain
    indices = np.flatnonzero(inside)
    reference[indices[0]] += counts[: indices[0]].sum()
    reference[indices[-1]] += counts[indices[-1] + 1 :].sum()
    occupied = inside & (counts > 0)
    mass = np.bincount(levels[inside], weights=counts[inside], minlength=256)
    bins = np.bincount(levels[occupied], minlength=256)
    expanded = np.where(occupied, mass[levels] / np.maximum(bins[levels], 1), 0.0)
    p, q = reference / reference.sum(), expanded / max(expanded.sum(), 1e-300)
    positive = p > 0
    return float((p[positive] * np.log(p[positive] / np.maximum(q[positive], 1e-12))).sum())


def _search(
    statistics: TensorStatistics,
    low: float,
    high: float,
    cost: Callable[[TensorStatistics, float, float], float],
    steps: int,
) -> tuple[float, float]:
    """Shrinks both ends together, then each alone; the cheapest range wins."""
    shares = np.linspace(SMALLEST_SHARE, 1.0, steps)
    best = (cost(statistics, low, high), low, high)
    for share in shares:
        candidate = (low * share, high * share)
        best = min(best, (cost(statistics, *candidate), *candidate))
    for _ in range(2):
        _, at_low, at_high = best
        for share in shares:
            for candidate in ((low * share, at_high), (at_low, high * share)):
                if candidate[1] > candidate[0]:
                    best = min(best, (cost(statistics, *candidate), *candidate))
    return float(best[1]), float(best[2])
