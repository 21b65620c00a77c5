"""The published way to choose a cover, to compare with: LayerMerge's floored recurrence.

D[t, j] = max over entries (i, j) of D[t - floor(precision * latency), i] + importance
(ICML 2024). Written from the formula, over all t at once.
"""

from __future__ import annotations

import math

import numpy as np

from compress.passes.covers import Intervals


def floored_cover(intervals: Intervals, budget: float, precision: float) -> tuple[int, ...]:
    """Indices of the entries that the recurrence chooses, by rising start; empty if none fit.

    Their latencies may add up to more than the budget: each floor forgives up to 1 / precision.

    Args:
        intervals: distortions are importances' negatives.
        precision: columns of the table per unit of latency.
    """
    columns = math.floor(precision * budget) + 1
    if columns <= 0:
        return ()
    best = np.full((intervals.length + 1, columns), -math.inf)
    best[0] = 0.0
    last = np.full((intervals.length + 1, columns), -1)
    steps = np.floor(precision * intervals.latencies).astype(np.int64)
    for index in np.argsort(intervals.ends, kind="stable").tolist():
        start, end = int(intervals.starts[index]), int(intervals.ends[index])
        step = int(steps[index])
        if step >= columns:
            continue
        through = best[start, : columns - step] - intervals.distortions[index]
        better = through > best[end, step:]
        best[end, step:][better] = through[better]
        last[end, step:][better] = index
    if best[-1, -1] == -math.inf:
        return ()
    chosen: list[int] = []
    position, column = intervals.length, columns - 1
    while position:
        chosen.append(int(last[position, column]))
        column -= int(steps[chosen[-1]])
        position = int(intervals.starts[chosen[-1]])
    return tuple(reversed(chosen))
