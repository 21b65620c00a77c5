"""Prices of distortion, and what they prove: the first phase of finding a whole frontier.

At a price p the best choice, of least latency + p x distortion, is a shortest path, and a point of
the frontier's lower convex hull (a supported point). Between two neighbours on the hull, with p
from the slope of the line through both, nothing is below the line, and only what is faster than
one and less distorted than the other can be on the frontier. So a label on the way is of use only
if, completed along a shortest path at some such p, it ends in one of these triangles (the two-phase
method for problems with two objectives, Ulungu and Teghem 1995).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from compress.passes.pareto import Floats, Integers
from compress.passes.states import Arcs

MOST_POINTS = 128
ROUNDING = 1e-11
"""Sums of hundreds of figures in another order differ by less."""

Weights = tuple[float, float]
"""Of latency and of distortion."""


class Point(NamedTuple):
    """A choice of least weighted sum."""

    latency: float
    distortion: float
    weights: Weights


@dataclasses.dataclass(frozen=True)
class Triangles:
    """Where points of the frontier can be: (prices,) each.

    Attributes:
        prices: us per unit of distortion.
        corners: the largest latency + price x distortion that a point in the triangle can have.
        remaining: after each layer, (states, prices): the least latency + price x distortion of
            what is not decided yet.
    """

    prices: Floats
    corners: Floats
    remaining: tuple[Floats, ...]

    def of_use(
        self, after: int, state: int, latencies: Floats, distortions: Floats
    ) -> npt.NDArray[np.bool_]:
        """(n,): whether labels of a state after a layer can still reach any triangle."""
        useful = np.zeros(len(latencies), dtype=bool)
        room = self.corners - self.remaining[after][state]
        for price, most in zip(self.prices.tolist(), room.tolist(), strict=True):
            useful |= latencies + price * distortions <= most
        return useful


def find_supported(graph: Sequence[Arcs], most: int = MOST_POINTS) -> list[Point]:
    """The points of the hull, fastest first, or some `most` of them where there are more: between
    every two that are known, at the price at which they are equal, until nothing is between."""
    points = _ends(graph)
    straight: set[Point] = set()
    while len(points) <= most:
        gaps = [k for k in range(len(points) - 1) if points[k] not in straight]
        if not gaps:
            break
        found = _shortest(graph, [_weights(points[k], points[k + 1]) for k in gaps]).points
        for k, new in reversed(list(zip(gaps, found, strict=True))):
            fast, slow = points[k], points[k + 1]
            between = fast.latency < new.latency < slow.latency
            between = between and slow.distortion < new.distortion < fast.distortion
            if between and _sum(new, new.weights) < _sum(fast, new.weights) * (1 - ROUNDING):
                points.insert(k + 1, new)
            else:
                straight.add(fast)
    return points


def find_triangles(graph: Sequence[Arcs], points: Sequence[Point]) -> Triangles:
    """Between neighbours."""
    pairs = list(itertools.pairwise(points)) or [(points[0], points[0])]
    weights = [_weights(*pair) for pair in pairs]
    corners = np.array(
        [
            slow.latency + price * fast.distortion
            for (fast, slow), (_, price) in zip(pairs, weights, strict=True)
        ]
    )
    remaining = _shortest(graph, weights).remaining
    prices = np.array([price for _, price in weights])
    return Triangles(prices, corners + ROUNDING * np.abs(corners), tuple(remaining))


def choices_of(graph: Sequence[Arcs], points: Sequence[Point]) -> npt.NDArray[np.int64]:
    """(points, layers): the options behind points of the hull, NOTHING for layers that another
    layer's option covers."""
    column = np.arange(len(points))
    state = np.zeros(len(points), dtype=np.int64)
    options = []
    for arcs, taken in zip(graph, _shortest(graph, [p.weights for p in points]).taken, strict=True):
        arc = taken[state, column]
        options.append(arcs.options[arc])
        state = arcs.targets[arc]
    return np.array(options).T


def _ends(graph: Sequence[Arcs]) -> list[Point]:
    """The fastest choice and the least distorted one; one point if it is both."""
    fastest, faithful = _shortest(graph, [(1.0, 0.0), (0.0, 1.0)]).points
    # of equally fast ones the least distorted, and the reverse: by a weight too small to matter
    spread = max(fastest.distortion - faithful.distortion, 1e-300)
    length = max(faithful.latency - fastest.latency, 1e-300)
    small = ROUNDING * fastest.latency / spread, ROUNDING * faithful.distortion / length
    tied = _shortest(graph, [(1.0, small[0]), (small[1] or ROUNDING * spread / length, 1.0)]).points
    if tied[0].latency <= fastest.latency:
        fastest = tied[0]
    if tied[1].distortion <= faithful.distortion:
        faithful = tied[1]
    if fastest.distortion <= faithful.distortion:
        return [fastest]
    return [faithful] if faithful.latency <= fastest.latency else [fastest, faithful]


def _weights(fast: Point, slow: Point) -> Weights:
    """Those for which both are equal."""
    if fast is slow:
        return 1.0, 1.0
    return 1.0, (slow.latency - fast.latency) / (fast.distortion - slow.distortion)


def _sum(point: Point, weights: Weights) -> float:
    return weights[0] * point.latency + weights[1] * point.distortion


@dataclasses.dataclass(frozen=True)
class _Paths:
    """Shortest paths for some weights.

    Attributes:
        points: of the paths, by weights.
        remaining: after each layer, (states, weights): the least weighted sums of what remains.
        taken: for each layer, (states, weights): the first arc of a shortest path from there.
    """

    points: list[Point]
    remaining: list[Floats]
    taken: list[Integers]


def _shortest(graph: Sequence[Arcs], weights: Sequence[Weights]) -> _Paths:
    per_latency, per_distortion = np.array(weights).T
    count = len(weights)
    column = np.arange(count)
    remaining = [np.zeros((1, count))]
    taken: list[Integers] = []
    latency, distortion = np.zeros((1, count)), np.zeros((1, count))
    for arcs in reversed(graph):
        own = np.outer(arcs.latencies, per_latency) + np.outer(arcs.distortions, per_distortion)
        through = own + remaining[-1][arcs.targets]
        least = np.minimum.reduceat(through, arcs.first, axis=0)
        number = np.arange(len(arcs.sources))[:, None]
        shortest = np.where(through == least[arcs.sources], number, len(arcs.sources))
        first = np.minimum.reduceat(shortest, arcs.first, axis=0)
        targets = arcs.targets[first]
        latency = arcs.latencies[first] + latency[targets, column]
        distortion = arcs.distortions[first] + distortion[targets, column]
        remaining.append(least)
        taken.append(first)
    figures = zip(latency[0].tolist(), distortion[0].tolist(), weights, strict=True)
    return _Paths([Point(*each) for each in figures], remaining[-2::-1], taken[::-1])
