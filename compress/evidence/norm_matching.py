"""Inputs that make the statistics inside a network those that its batch norms remember.

A batch norm stores the mean and variance that each channel of its input had in training. Inputs
that bring them about again exercise the network as its training data did. Zero-shot quantizers
reach this by gradient descent on the inputs; here a family of random images is fitted by the
cross-entropy method, and from a pool of its images those are kept whose statistics, taken
together, are nearest. This needs forward runs only, so it works wherever onnxruntime does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.evidence.patterns import Layout, Style, draw
from compress.execute.session import Runner, with_outputs

Array = NDArray[Any]
Sample = dict[str, Array]

_STARTS = ((0.0, 1.0), (0.0, 0.5), (0.5, 0.25), (0.25, 0.3), (0.8, 0.3), (128.0, 64.0))
"""Mean and standard deviation of inputs under the usual normalisations."""

_ROUNDS = 8
_CANDIDATES = 16
_ELITE = 5
_IMAGES_PER_CANDIDATE = 3
_POOL_FACTOR = 4
_MAX_POOL = 384
_POOL_SPREADS = (1.0, 2.0)
"""Taken in turn. A pool wider than the fit reaches the rare, strong activations that set ranges: on
a small residual classifier the logits span .6 of their real range with 1 alone, and .95 with 2."""


@dataclass(frozen=True)
class NormTarget:
    """What one batch norm remembers of its input."""

    value: str
    """The name of its input."""
    mean: Array
    """(channels,) float64."""
    variance: Array


def norm_targets(model: ir.Model) -> list[NormTarget]:
    """The batch norms of the graph whose statistics are constants, in order."""
    found: dict[str, NormTarget] = {}
    for node in model.graph:
        if node.domain not in ("", "ai.onnx") or node.op_type != "BatchNormalization":
            continue
        if node.attributes.get_int("training_mode", 0) or len(node.inputs) < 5:
            continue
        value, mean, variance = node.inputs[0], _constant(node.inputs[3]), _constant(node.inputs[4])
        if value is None or not value.name or mean is None or variance is None:
            continue
        # Channels that were constant in training have variance 0 and no scale of their own.
        floor = node.attributes.get_float("epsilon", 1e-5) + 1e-4 * float(np.median(variance))
        if np.isfinite(mean).all() and np.isfinite(variance).all():
            found[value.name] = NormTarget(value.name, mean, np.maximum(variance, floor))
    return list(found.values())


class _Probe:
    """Runs the model up to its batch norms and tells the statistics of their inputs."""

    def __init__(
        self, model: ir.Model, targets: Sequence[NormTarget], on_run: Callable[[int], None]
    ) -> None:
        self._targets = targets
        self._on_run = on_run
        self._runs = 0
        self._runner = Runner(with_outputs(model, [target.value for target in targets]))

    def moments(self, sample: Sample) -> list[Array]:
        """Per batch norm (2, channels): mean and mean square of each channel."""
        wanted = {name: array for name, array in sample.items() if name in self._runner.inputs}
        found = self._runner(wanted)
        moments = []
        for target in self._targets:
            values = found[target.value]
            axes = tuple(axis for axis in range(values.ndim) if axis != 1)
            mean = values.mean(axis=axes, dtype=np.float64)
            square = np.square(values, dtype=np.float64).mean(axis=axes)
            moments.append(np.stack([mean, square]))
        self._runs += 1
        self._on_run(self._runs)
        return moments


def mismatch(moments: Sequence[Sequence[Array]], targets: Sequence[NormTarget]) -> float:
    """How far samples, taken together, are from the batch norms' statistics; 0 is equal.

    The mean over batch norms and channels of log(1 + KL), with KL the Kullback-Leibler divergence
    of the two normal distributions; the logarithm keeps one far-off channel from deciding.
    """
    total = 0.0
    for i, target in enumerate(targets):
        mean, square = np.mean([sample[i] for sample in moments], axis=0)
        variance = np.maximum(square - mean**2, 1e-9 * target.variance)
        ratio = variance / target.variance
        kl = 0.5 * (ratio + (mean - target.mean) ** 2 / target.variance - 1 - np.log(ratio))
        total += float(np.log1p(kl).mean())
    return total / len(targets)


def match(
    model: ir.Model,
    targets: Sequence[NormTarget],
    layouts: Mapping[str, Layout],
    fixed: Callable[[np.random.Generator], Sample],
    n: int,
    seed: int,
    on_step: Callable[[int, int], None] | None = None,
) -> tuple[list[Sample], float, float]:
    """`n` samples that bring about the batch norms' statistics.

    Args:
        model: with its batch norms.
        targets: what they remember.
        layouts: the float inputs to be shaped.
        fixed: draws all other inputs.
        n: how many samples to return.
        seed: the result depends on nothing else.
        on_step: called with (runs of the model done, runs in all).

    Returns:
        The samples, their mismatch, and that of plain noise.
    """
    rng = np.random.default_rng([seed, 1])
    pool_size = max(n, min(_POOL_FACTOR * n, _MAX_POOL))
    fitted = (len(_STARTS) + _ROUNDS * _CANDIDATES) * _IMAGES_PER_CANDIDATE
    runs = fitted + pool_size + _IMAGES_PER_CANDIDATE
    probe = _Probe(model, targets, lambda done: on_step(done, runs) if on_step else None)

    def sample(styles: Mapping[str, Style]) -> Sample:
        drawn = {name: draw(style, layouts[name], rng) for name, style in styles.items()}
        return {**fixed(rng), **drawn}

    def score(vector: Array) -> float:
        styles = _split(vector, layouts)
        moments = [probe.moments(sample(styles)) for _ in range(_IMAGES_PER_CANDIDATE)]
        return _finite(mismatch(moments, targets))

    noise = [
        probe.moments({**fixed(rng), **{k: _noise(layout, rng) for k, layout in layouts.items()}})
        for _ in range(_IMAGES_PER_CANDIDATE)
    ]
    centre, spread = _fit(score, layouts, rng)
    pool: list[Sample] = []
    moments: list[list[Array]] = []
    for i in range(pool_size):
        # A style of its own for each sample: the fitted family, and its neighbourhood.
        step = _POOL_SPREADS[i % len(_POOL_SPREADS)] * spread
        candidate = sample(_split(centre + step * rng.standard_normal(len(centre)), layouts))
        found = probe.moments(candidate)
        if all(np.isfinite(moment).all() for moment in found):
            pool.append(candidate)
            moments.append(found)
    chosen = _herd(moments, targets, n)
    reached = _finite(mismatch([moments[i] for i in chosen], targets)) if chosen else np.inf
    return [pool[i] for i in chosen], reached, _finite(mismatch(noise, targets))


def _fit(
    score: Callable[[Array], float], layouts: Mapping[str, Layout], rng: np.random.Generator
) -> tuple[Array, Array]:
    """The centre and spread of good styles, by the cross-entropy method."""
    starts = [
        np.concatenate(
            [
                Style((mean,) * layout.channels, (float(np.log(std)),) * layout.channels).vector()
                for layout in layouts.values()
            ]
        )
        for mean, std in _STARTS
    ]
    centre = min(starts, key=score)
    unit = _units(centre, layouts)
    spread = unit.copy()
    best: list[tuple[float, Array]] = []
    for _ in range(_ROUNDS):
        drawn = [centre + spread * rng.standard_normal(len(centre)) for _ in range(_CANDIDATES)]
        scored = [(score(vector), vector) for vector in drawn]
        # The best so far stay candidates: four images make a noisy score.
        best = sorted(best + scored, key=lambda pair: pair[0])[:_ELITE]
        elite = np.stack([vector for _, vector in best])
        centre = 0.7 * elite.mean(axis=0) + 0.3 * centre
        spread = np.maximum(0.7 * elite.std(axis=0) + 0.3 * spread, 0.1 * unit)
    return centre, spread


def _units(centre: Array, layouts: Mapping[str, Layout]) -> Array:
    """A natural step of each coordinate: means move by a standard deviation, the others by 1."""
    units = np.ones_like(centre)
    start = 0
    for layout in layouts.values():
        channels = layout.channels
        units[start : start + channels] = np.exp(centre[start + channels : start + 2 * channels])
        start += len(Style((0.0,) * channels, (0.0,) * channels).vector())
    return units


def _split(vector: Array, layouts: Mapping[str, Layout]) -> dict[str, Style]:
    styles = {}
    start = 0
    for name, layout in layouts.items():
        channels = (0.0,) * layout.channels
        size = len(Style(channels, channels).vector())
        styles[name] = Style.from_vector(vector[start : start + size])
        start += size
    return styles


def _herd(moments: Sequence[Sequence[Array]], targets: Sequence[NormTarget], n: int) -> list[int]:
    """The places of n samples whose averaged moments are near the targets: greedy, each once."""
    rows = []
    for sample in moments:
        parts = []
        for moment, target in zip(sample, targets, strict=True):
            scale = np.sqrt(target.variance)
            mean = (moment[0] - target.mean) / scale
            # Second moments about the *target's* mean: linear in the sample, unlike variances.
            about = moment[1] - 2 * target.mean * moment[0] + target.mean**2
            square = about / target.variance - 1
            parts.append(np.concatenate([mean, square]) / np.sqrt(len(scale)))
        rows.append(np.concatenate(parts))
    features = np.stack(rows).astype(np.float32) if rows else np.zeros((0, 1), np.float32)
    norms = np.square(features).sum(axis=1)
    total = np.zeros(features.shape[1], np.float32)
    free = np.ones(len(features), bool)
    chosen: list[int] = []
    for _ in range(min(n, len(features))):
        gain = 2 * (features @ total) + norms
        best = int(np.argmin(np.where(free, gain, np.inf)))
        chosen.append(best)
        free[best] = False
        total += features[best]
    return chosen


def _noise(layout: Layout, rng: np.random.Generator) -> Array:
    return rng.standard_normal(layout.shape).astype(np.float32)


def _finite(value: float) -> float:
    return value if np.isfinite(value) else 1e9


def _constant(value: ir.Value | None) -> Array | None:
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else np.asarray(tensor.numpy(), dtype=np.float64).reshape(-1)
