"""Multiple-choice knapsack: one choice per layer within a budget, at the least distortion.

For sparsities and bit widths of layers that do not depend on each other. Layer-adaptive pruning by
rate-distortion (ICCV 2023) fills a table with one column per weight that may be kept; this takes
minutes on large layers, and fails when one layer alone exceeds the budget. Here the linear
relaxation does most of the work (Zemel 1984, Pisinger 1995): over the lower convex hulls of the
layers' choices it is solved by sorting, it differs from the optimum by less than one step of one
layer, and it bounds what every partial choice can still become. What remains after that bound is a
core of few labels, (cost, distortion), which is searched exactly.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Sequence

import numpy as np

from compress.passes.pareto import ROUNDING, Floats, Integers, undominated

BEAMS = (256, 4096, 32_768)
"""Labels per layer that are kept in each run, until one run drops none. The choices that a narrow
run finds make the wide ones small."""

GAP = 1e-6
"""Far below what distortions are known to. Where thousands of choices are that close to each other,
telling them apart would take most of the time."""


@dataclasses.dataclass(frozen=True)
class KnapsackChoice:
    """One choice per layer.

    Attributes:
        choices: by layer, indices into its costs.
        cost: their sum.
        distortion: their sum, added in the layers' order.
        lower_bound: proven: no choice within the budget has less distortion.
        status: "optimal" (the bound is reached, up to rounding), "feasible" or "infeasible".
        seconds: spent, wall clock.
    """

    choices: tuple[int, ...]
    cost: int
    distortion: float
    lower_bound: float
    status: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class _Layer:
    """The undominated choices of a layer, (n,) each: costs rise, distortions fall."""

    indices: Integers
    costs: Integers
    distortions: Floats

    def take(self, kept: Integers) -> _Layer:
        return _Layer(self.indices[kept], self.costs[kept], self.distortions[kept])


@dataclasses.dataclass(frozen=True)
class _Bound:
    """The linear relaxation of some layers, as a function of what they may cost together.

    Attributes:
        costs: (n,) float64, rising: where the slope changes. Below the first nothing fits.
        distortions: (n,) float64, falling and convex.
    """

    costs: Floats
    distortions: Floats

    def at(self, budgets: Floats | Integers) -> Floats:
        """(n,): the least distortion that the relaxation allows within each budget."""
        return np.interp(budgets, self.costs, self.distortions, left=math.inf)


def solve_knapsack(
    costs: Sequence[Integers],
    distortions: Sequence[Floats],
    budget: int,
    *,
    gap: float = GAP,
    beams: Sequence[int] = BEAMS,
) -> KnapsackChoice:
    """The choice of least distortion whose costs add up to at most `budget`.

    Args:
        costs: one (choices,) int64 array per layer: weights kept, bytes. Not negative.
        distortions: likewise, float64, finite.
        gap: the search stops early where the distortion is at most this share above the lower
            bound; 0 for the exact optimum, whatever it takes.
        beams: most labels per layer of the successive runs. If the last one still drops labels,
            the result is "feasible", and `lower_bound` the least that a dropped one might become.
            The last run over 101 sparsities needs some 200 MB.

    Raises:
        ValueError: arrays that do not fit together, a layer without choices, wrong figures.
    """
    started = time.perf_counter()
    layers = _layers(costs, distortions)
    tolerance = ROUNDING * sum(float(np.abs(layer.distortions).max()) for layer in layers)
    if sum(int(layer.costs[0]) for layer in layers) > budget:
        seconds = time.perf_counter() - started
        return KnapsackChoice((), 0, math.inf, math.inf, "infeasible", seconds)
    whole = _sum_of_hulls(layers)
    lower = float(whole.at(np.array([budget]))[0])
    best = _greedy(layers, budget)
    proven = False
    for beam in beams:
        reached = _distortion(layers, best)
        if proven or reached - lower <= max(gap * abs(reached), tolerance):
            break
        layers, best = _fix(layers, best, budget, tolerance)
        best, dropped = _search(layers, best, budget, beam, tolerance)
        lower = max(lower, min(dropped, _distortion(layers, best)))
        proven = dropped == math.inf
    choices = tuple(int(layer.indices[c]) for layer, c in zip(layers, best, strict=True))
    cost = sum(int(c[i]) for c, i in zip(costs, choices, strict=True))
    distortion = sum(float(d[i]) for d, i in zip(distortions, choices, strict=True))
    proven = proven or distortion - lower <= tolerance
    return KnapsackChoice(
        choices,
        cost,
        distortion,
        distortion if proven else min(lower, distortion),
        "optimal" if proven else "feasible",
        time.perf_counter() - started,
    )


def _layers(costs: Sequence[Integers], distortions: Sequence[Floats]) -> list[_Layer]:
    if len(costs) != len(distortions):
        raise ValueError(f"costs of {len(costs)} layers, distortions of {len(distortions)}")
    layers = []
    for number, (cost, distortion) in enumerate(zip(costs, distortions, strict=True)):
        if cost.ndim != 1 or cost.shape != distortion.shape or not len(cost):
            raise ValueError(
                f"layer {number}: costs {cost.shape} and distortions {distortion.shape} are not "
                "two lists of the same choices"
            )
        if not np.issubdtype(cost.dtype, np.integer) or (cost < 0).any():
            raise ValueError(f"layer {number}: costs have to be integers from 0 on")
        if not np.isfinite(distortion).all():
            raise ValueError(f"layer {number}: distortions have to be finite")
        given = _Layer(np.arange(len(cost)), cost.astype(np.int64), distortion.astype(np.float64))
        layers.append(given.take(undominated(given.costs, given.distortions)))
    return layers


def _hull(layer: _Layer) -> Integers:
    """Indices of the choices on the lower convex hull."""
    kept: list[int] = []
    costs, distortions = layer.costs.tolist(), layer.distortions.tolist()
    for index in range(len(costs)):
        while len(kept) > 1:
            first, second = kept[-2], kept[-1]
            # the middle one is above the line from the first to the new one
            if (distortions[second] - distortions[first]) * (costs[index] - costs[first]) < (
                distortions[index] - distortions[first]
            ) * (costs[second] - costs[first]):
                break
            kept.pop()
        kept.append(index)
    return np.array(kept, dtype=np.int64)


def _sum_of_hulls(layers: Sequence[_Layer]) -> _Bound:
    """The relaxation: the hulls' edges, steepest first."""
    least_cost, most_distortion = 0, 0.0
    steps: list[Integers] = [np.zeros(0, dtype=np.int64)]
    gains: list[Floats] = [np.zeros(0)]
    for layer in layers:
        hull = layer.take(_hull(layer))
        least_cost += int(hull.costs[0])
        most_distortion += float(hull.distortions[0])
        steps.append(np.diff(hull.costs))
        gains.append(-np.diff(hull.distortions))
    step, gain = np.concatenate(steps).astype(np.float64), np.concatenate(gains)
    order = np.argsort(-gain / step, kind="stable")
    return _Bound(
        least_cost + np.concatenate([[0.0], np.cumsum(step[order])]),
        most_distortion - np.concatenate([[0.0], np.cumsum(gain[order])]),
    )


def _greedy(layers: Sequence[_Layer], budget: int) -> list[int]:
    """A choice within the budget: the hulls' edges, steepest first, each taken if it fits."""
    best = [0] * len(layers)
    left = budget - sum(int(layer.costs[0]) for layer in layers)
    edges = []
    for number, layer in enumerate(layers):
        hull = _hull(layer).tolist()
        for before, after in itertools.pairwise(hull):
            gain = float(layer.distortions[before] - layer.distortions[after])
            edges.append((gain / float(layer.costs[after] - layer.costs[before]), number, after))
    for _, number, after in sorted(edges, key=lambda edge: -edge[0]):
        layer = layers[number]
        step = int(layer.costs[after] - layer.costs[best[number]])
        if step <= left:
            left -= step
            best[number] = after
    return best


def _distortion(layers: Sequence[_Layer], choice: Sequence[int]) -> float:
    return sum(float(layer.distortions[c]) for layer, c in zip(layers, choice, strict=True))


def _fix(
    layers: Sequence[_Layer], best: Sequence[int], budget: int, tolerance: float
) -> tuple[list[_Layer], list[int]]:
    """The layers without the choices that no better choice than `best` can contain; `best` in
    their new numbers.

    By reduced costs at the price of the relaxation's last step: what a choice costs more than the
    layer's best at that price is added to the bound.
    """
    price = _price(layers, budget)
    priced = [layer.distortions + price * layer.costs for layer in layers]
    bound = sum(float(p.min()) for p in priced) - price * budget
    gap = _distortion(layers, best) - bound + 10 * tolerance
    reduced, moved = [], []
    for layer, p, chosen in zip(layers, priced, best, strict=True):
        possible = p - p.min() <= gap
        possible[chosen] = True
        reduced.append(layer.take(np.flatnonzero(possible)))
        moved.append(int(np.count_nonzero(possible[:chosen])))
    return reduced, moved


def _price(layers: Sequence[_Layer], budget: int) -> float:
    """Distortion per unit of cost where the relaxation reaches the budget."""
    whole = _sum_of_hulls(layers)
    edge = int(np.searchsorted(whole.costs, budget, side="right"))
    if edge >= len(whole.costs):
        return 0.0
    drop = float(whole.distortions[edge - 1] - whole.distortions[edge])
    return drop / float(whole.costs[edge] - whole.costs[edge - 1])


def _search(
    layers: Sequence[_Layer], best: Sequence[int], budget: int, beam: int, tolerance: float
) -> tuple[list[int], float]:
    """The best choice by labels, at most `beam` of them after each layer, and the least that any
    dropped label might have become (inf: nothing was dropped, the choice is optimal).

    A label is left out where even the relaxation of the remaining layers does not make it better
    than the best known choice. The layers whose costs differ most come first: the relaxation of
    layers that move in small steps is nearly exact.
    """
    order = sorted(range(len(layers)), key=lambda n: -int(np.ptp(layers[n].costs)))
    bounds = [_sum_of_hulls([layers[n] for n in order[k + 1 :]]) for k in range(len(order))]
    limit = _distortion(layers, best) + tolerance
    dropped = math.inf
    costs, distortions = np.zeros(1, dtype=np.int64), np.zeros(1)
    trace: list[tuple[Integers, Integers]] = []
    for number, bound in zip(order, bounds, strict=True):
        layer = layers[number]
        cost = (costs[:, None] + layer.costs).ravel()
        distortion = (distortions[:, None] + layer.distortions).ravel()
        possible = distortion + bound.at(budget - cost)
        kept = np.flatnonzero(possible <= limit)
        kept = kept[undominated(cost[kept], distortion[kept])]
        if len(kept) > beam:
            ranked = kept[np.argpartition(possible[kept], beam)]
            dropped = min(dropped, float(possible[ranked[beam:]].min()))
            kept = np.sort(ranked[:beam])
        if not len(kept):
            return list(best), dropped
        costs, distortions = cost[kept], distortion[kept]
        trace.append((kept // len(layer.costs), kept % len(layer.costs)))
    label = int(np.argmin(distortions))
    found = [0] * len(layers)
    for number, (previous, chosen) in zip(reversed(order), reversed(trace), strict=True):
        found[number] = int(chosen[label])
        label = int(previous[label])
    if _distortion(layers, found) < _distortion(layers, best):
        return found, dropped
    return list(best), dropped
