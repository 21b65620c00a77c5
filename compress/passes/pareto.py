"""Pareto-optimal labels: the ones that no other one beats in every figure."""

from __future__ import annotations

import bisect

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

ROUNDING = 1e-13
"""Distortions that differ by less than this share are equal: sums of the same figures in another
order differ by as much, and would multiply the labels for nothing."""


def undominated(costs: Floats | Integers, distortions: Floats, rounding: float = 0.0) -> Integers:
    """Indices of the labels that are on the frontier, by rising cost and falling distortion.

    Args:
        costs: (n,) latencies or sizes.
        distortions: (n,) float64.
        rounding: by which share a dearer label has to be less distorted to be kept.

    Among equal labels, the first one stays.
    """
    # stable sorting of concatenated frontiers merges sorted runs
    order = np.argsort(costs, kind="stable")
    cost, distortion = costs[order], distortions[order]
    least = np.minimum.accumulate(distortion)
    better = np.empty(len(order), dtype=bool)
    better[:1] = True
    better[1:] = distortion[1:] < least[:-1] - rounding * np.abs(least[:-1])
    order, cost = order[better], cost[better]
    if len(order) > 1:
        # of equally dear ones the last is the least distorted
        last = np.append(cost[1:] != cost[:-1], True)
        order = order[last]
    return order


def undominated_within(
    costs: Floats, distortions: Floats, sizes: Floats, rounding: float = 0.0
) -> Integers:
    """As `undominated`, for labels with a third figure that is to be small as well: (n,) each."""
    order = np.lexsort((sizes, distortions, costs))
    kept: list[int] = []
    # the staircase of (distortion, size) of what is kept: distortions rise, sizes fall
    stair_distortions: list[float] = []
    stair_sizes: list[float] = []
    for index in order.tolist():
        distortion, size = float(distortions[index]), float(sizes[index])
        below = bisect.bisect_right(stair_distortions, distortion + rounding * abs(distortion))
        if below and stair_sizes[below - 1] <= size:
            continue
        kept.append(index)
        place = bisect.bisect_left(stair_distortions, distortion)
        end = place
        while end < len(stair_sizes) and stair_sizes[end] >= size:
            end += 1
        stair_distortions[place:end] = [distortion]
        stair_sizes[place:end] = [size]
    return np.array(kept, dtype=np.int64)
