"""Rate-distortion curves of layers: how far outputs move when one layer alone is made sparse."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.evidence.distortion import Comparison, OutputKind, output_kinds
from compress.execute.downstream import Downstream, Tail
from compress.execute.runtime import Feeds, Samples
from compress.execute.session import Runner, random_feeds
from compress.graph.layers import Layer
from compress.graph.traversal import constant, new_initializer
from compress.passes.prune.masks import magnitude_mask

Array = npt.NDArray[Any]

POINTS = 101
"""Sparsities 0, 0.01, ... 1 of a curve."""

RUNS = 12
"""Sparsities that are measured per layer; the others are interpolated."""

FIRST = (0.3, 0.6, 0.8, 0.9, 1.0)
"""Sparsities measured before the gaps between them are halved."""


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """What one layer's sparsity does to the outputs of the network.

    Attributes:
        phi: (points,) float64, sparsities from 0 to 1: shares of the layer's weights, smallest
            magnitudes first.
        squared: (points,) float64, mean squared change of the float outputs; never falling, see
            `isotonic`.
        distortion: (points,) float64, `evidence.distortion` of the outputs; never falling.
        size: weights of the layer.
        measured: (points,) bool, which sparsities were run.
    """

    phi: Array
    squared: Array
    distortion: Array
    size: int
    measured: Array


def pruning_curves(
    model: ir.Model,
    layers: Sequence[Layer],
    samples: Samples,
    *,
    points: int = POINTS,
    runs: int = RUNS,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Curve]:
    """Curves of the given layers under magnitude pruning, by layer name.

    After Xu et al., "Efficient Joint Optimization of Layer-Adaptive Weight Pruning in Deep Neural
    Networks" (ICCV 2023), who run all 101 sparsities. We run about a dozen and let the energy of
    the removed weights, which is known for all of them, say what happens in between: their ratio
    changes slowly. Only the part of the network behind the layer is run again.

    Args:
        model: the float model.
        layers: with constant weights; others are left out.
        samples: calibration inputs, or `gaussian_samples` where there are none.
        points: number of sparsities.
        runs: how many of them are measured per layer.
        advance: called after every run, for progress.
    """
    runner = Runner(model)
    kinds = output_kinds(model)
    reference = [runner(sample) for sample in samples]
    del runner
    downstream = Downstream(model, samples)
    result: dict[str, Curve] = {}
    for layer in layers:
        weight = constant(layer.weight)
        if weight is None:
            continue
        with downstream.tail(downstream.start_of_node(layer.name)) as tail:
            measure = _Measure(layer, weight, tail, reference, kinds, advance)
            result[layer.name] = _curve(weight, measure, points, runs)
    return result


def gaussian_samples(
    shapes: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], count: int, seed: int = 0
) -> list[Feeds]:
    """Standard normal inputs by name, for curves without data (the paper's zero-data variant)."""
    return [random_feeds(shapes, seed + i) for i in range(count)]


class _Measure:
    """Sparsity -> (squared change, distortion) of one layer."""

    def __init__(
        self,
        layer: Layer,
        weight: Array,
        tail: Tail,
        reference: Sequence[Mapping[str, Array]],
        kinds: Mapping[str, OutputKind],
        advance: Callable[[], None],
    ) -> None:
        self._layer = layer
        self._weight = weight
        self._tail = tail
        self._reference = reference
        self._kinds = kinds
        self._advance = advance

    def __call__(self, sparsity: float) -> tuple[float, float]:
        pruned = np.where(magnitude_mask(self._weight, sparsity), self._weight, 0)

        def change(model: ir.Model) -> None:
            node = next(n for n in model.graph if n.name == self._layer.name)
            name = f"{self._layer.name}.pruned"
            value = new_initializer(model.graph, name, pruned.astype(self._weight.dtype))
            node.replace_input_with(1, value)

        comparison = Comparison(self._kinds)
        total, count = 0.0, 0
        # the tail may hold fewer samples than there are
        for expected, found in zip(self._reference, self._tail.run(change), strict=False):
            comparison.add(expected, {**expected, **found})
            for name, kind in self._kinds.items():
                if kind is not OutputKind.IGNORED:
                    count += expected[name].size
                    if name in found:
                        change_of = np.float64(1) * found[name] - expected[name]
                        total += float(np.square(change_of).sum())
        self._advance()
        return total / max(1, count), comparison.result().distortion


def _curve(
    weight: Array, measure: Callable[[float], tuple[float, float]], points: int, runs: int
) -> Curve:
    phi = np.linspace(0, 1, points)
    squares = np.sort(np.square(weight.astype(np.float64)).reshape(-1))
    energy = np.concatenate([[0.0], np.cumsum(squares)])
    removed = energy[(phi * weight.size + 1e-6).astype(int)]
    found: dict[int, tuple[float, float]] = {}
    queue = sorted({round(f * (points - 1)) for f in FIRST})
    while len(found) < min(runs, points - 1):
        if not queue:
            queue = [_next(found, points)]
        point = queue.pop(0)
        found[point] = measure(float(phi[point]))
    at = np.array(sorted(found))
    measured = np.zeros(points, bool)
    measured[at] = True
    squared, distortion = (
        interpolate(removed, at, np.array([found[i][k] for i in at])) for k in (0, 1)
    )
    return Curve(phi, squared, distortion, weight.size, measured)


def _next(found: Mapping[int, tuple[float, float]], points: int) -> int:
    """The middle of the gap across which the size of the change grows most, for its width."""
    at = [0, *sorted(found)]
    sizes = np.sqrt(np.concatenate([[0.0], isotonic(np.array([found[i][0] for i in at[1:]]))]))
    growth = np.diff(sizes) + 0.02 * sizes[-1]
    best = max(
        (i for i in range(len(at) - 1) if at[i + 1] - at[i] > 1),
        key=lambda i: float(growth[i]) * (at[i + 1] - at[i]),
    )
    return (at[best] + at[best + 1]) // 2


def isotonic(values: Array) -> Array:
    """The never falling sequence closest to `values` in squares, by pooling adjacent violators.

    Few samples make curves fall here and there; a running maximum would keep every outlier.
    """
    means: list[float] = []
    counts: list[int] = []
    for value in values:
        mean, count = float(value), 1
        while means and means[-1] >= mean:
            mean = (means[-1] * counts[-1] + mean * count) / (counts[-1] + count)
            count += counts.pop()
            means.pop()
        means.append(mean)
        counts.append(count)
    return np.repeat(means, counts)


def interpolate(removed: Array, at: Array, values: Array) -> Array:
    """A curve through measured values that never falls and starts at zero.

    Args:
        removed: (points,) energy of the removed weights at every sparsity.
        at: (measured,) sorted positions among them.
        values: (measured,) what was found there.

    Returns:
        (points,) float64: `removed` times the ratio of both, the logarithm of which is
        interpolated linearly. Values that fall are levelled (`isotonic`).
    """
    rising = isotonic(values.astype(np.float64))
    ratios = np.log(np.maximum(rising, 1e-30) / np.maximum(removed[at], 1e-30))
    between = np.exp(np.interp(np.arange(len(removed)), at, ratios)) * removed
    between[at] = rising
    # between two measurements a curve stays between them
    floor = np.concatenate([[0.0], rising])[np.searchsorted(at, np.arange(len(removed)), "right")]
    last = len(rising) - 1
    index = np.minimum(np.searchsorted(at, np.arange(len(removed)), "left"), last)
    ceiling = np.maximum(floor, rising[index])
    result = np.maximum.accumulate(np.clip(between, floor, ceiling))
    result[0] = 0.0
    return result


def uniform_sparsities(sizes: Sequence[int], density: float) -> Array:
    """(L,) float64: every layer keeps the same share of its weights."""
    return np.full(len(sizes), 1.0 - density)


def erk_sparsities(shapes: Sequence[tuple[int, ...]], density: float) -> Array:
    """(L,) float64: layers keep a share in proportion to the sum over the product of their sizes.

    Erdos-Renyi-Kernel (Evci et al., ICML 2020); layers that would keep more than all are dense, and
    the others share what is left.

    Args:
        shapes: of the weights.
        density: share of all weights that stays.
    """
    sizes = np.array([np.prod(s) for s in shapes], np.float64)
    raw = np.array([sum(s) for s in shapes]) / sizes
    dense = np.zeros(len(sizes), bool)
    while True:
        left = density * sizes.sum() - sizes[dense].sum()
        open_layers = ~dense
        if not open_layers.any() or left <= 0:
            break
        scale = left / (raw * sizes)[open_layers].sum()
        over = open_layers & (raw * scale > 1.0)
        if not over.any():
            return np.where(dense, 0.0, 1.0 - raw * scale)
        dense |= over
    return np.where(dense, 0.0, 1.0)


def lamp_sparsities(weights: Sequence[Array], density: float) -> Array:
    """(L,) float64: one threshold on all layers' LAMP scores.

    Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning" (ICLR 2021): a weight's
    score is its square over the sum of the squares of its layer's weights that are not smaller.

    Args:
        weights: of the layers, any shapes.
        density: share of all weights that stays.
    """
    scores = []
    for weight in weights:
        squares = np.sort(np.square(weight.astype(np.float64)).reshape(-1))
        rest = np.cumsum(squares[::-1])[::-1]
        scores.append(squares / np.maximum(rest, 1e-300))
    merged = np.concatenate(scores)
    owner = np.repeat(np.arange(len(weights)), [len(s) for s in scores])
    kept = round(density * len(merged))
    order = np.argsort(-merged, kind="stable")[:kept]
    counts = np.bincount(owner[order], minlength=len(weights))
    return np.asarray(1.0 - counts / np.array([len(s) for s in scores]))
