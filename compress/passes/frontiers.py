"""The trade-offs of a problem, by the exact solver that suits it best."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from compress.passes.labels import frontier_by_labels, hull_by_labels
from compress.passes.select import FRONTIER_POINTS, Problem, Selection, frontier

KNOWN_MORE = 3
"""So many times as many points are kept where all are known: more only make a report longer."""


def trade_offs(
    problem: Problem,
    *,
    points: int = FRONTIER_POINTS,
    max_bytes: float = math.inf,
    objective: str = "latency",
) -> list[Selection]:
    """Optimal selections, fastest first, spread evenly over what there is.

    By the integer program `points` at most, by labels `KNOWN_MORE` times as many.

    Labels give the whole frontier at once where few decisions are open at a time; on large graphs
    its convex hull, which will do where it has points enough. The integer program is left for the
    rest, and for the objective "size".
    """
    found = None
    if objective == "latency":
        found = frontier_by_labels(problem, max_bytes=max_bytes)
        if found is None and max_bytes == math.inf:
            found = hull_by_labels(problem)
            found = found if found is not None and len(found) >= points else None
    if found is None:
        return frontier(problem, points=points, max_bytes=max_bytes, objective=objective)
    return thinned(found, KNOWN_MORE * points)


def thinned(selections: Sequence[Selection], points: int) -> list[Selection]:
    """`points` of a frontier, evenly spaced in latency and distortion together; both ends stay."""
    if len(selections) <= points:
        return list(selections)
    latency = np.array([s.latency_us for s in selections])
    distortion = np.log(np.maximum([s.distortion for s in selections], 1e-12))
    steps = np.abs(np.diff(latency)) / max(float(np.ptp(latency)), 1e-12)
    steps += np.abs(np.diff(distortion)) / max(float(np.ptp(distortion)), 1e-12)
    place = np.concatenate([[0.0], np.cumsum(steps)])
    wanted = np.linspace(0.0, place[-1], points)
    chosen = {int(np.argmin(np.abs(place - w))) for w in wanted} | {0, len(selections) - 1}
    return [selections[i] for i in sorted(chosen)]


def undominated(problem: Problem) -> Problem:
    """The problem without options that another one for the same layers beats in every respect.

    What they have to share: values that they read and write as uint8 or float, and widths.
    """
    kept: list[int] = []
    groups: dict[object, list[int]] = {}
    for index, option in enumerate(problem.options):
        key = (
            option.layers,
            option.reads_uint8,
            option.reads_float,
            option.writes_uint8,
            tuple(sorted(option.widths.items())),
        )
        groups.setdefault(key, []).append(index)
    for indices in groups.values():
        best: list[int] = []

        def figures(index: int) -> tuple[float, float, int]:
            option = problem.options[index]
            return option.latency_us, option.distortion, option.bytes

        for index in sorted(indices, key=figures):
            own = figures(index)
            beaten = any(all(a <= b for a, b in zip(figures(i), own, strict=True)) for i in best)
            # what stays as it is stays to be compared with
            if not beaten or problem.options[index].form == "float":
                best.append(index)
        kept += best
    return dataclasses.replace(problem, options=tuple(problem.options[i] for i in sorted(kept)))
