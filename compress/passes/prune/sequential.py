"""Reconstruction from the front to the back: layers make up for what earlier ones lost as well."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.evidence.statistics import chunks
from compress.execute.memory import give_back
from compress.execute.runtime import Samples
from compress.execute.session import Runner, with_outputs
from compress.graph.layers import Layer, find_layers
from compress.passes.prune.elimination import RIDGE
from compress.passes.prune.groups import ChannelGroup
from compress.passes.prune.moments import POSITIONS, Windows
from compress.passes.prune.update import (
    UpdateWeights,
    Weights,
    from_matrices,
    kept_rows,
    reconstruct,
    shifted_bias,
    shifts,
    weight_matrices,
)

Array = npt.NDArray[Any]

MOST_BYTES = 512 * 2**20
"""Moments gathered in one pass over the samples."""


@dataclasses.dataclass(frozen=True, eq=False)
class PairedMoments:
    """Of rows x that a layer reads in the original network, and z that it reads in the changed one.

    Attributes:
        second: E[z z^T], (groups, d, d) float64.
        cross: E[z x^T], (groups, d, d) float64.
        mean: E[z], (groups, d) float64.
        original_mean: E[x], (groups, d) float64.
        power: mean square of x, (groups,) float64.
        count: rows seen.
    """

    second: Array
    cross: Array
    mean: Array
    original_mean: Array
    power: Array
    count: int


def sequential_weights(
    model: ir.Model,
    groups: Sequence[ChannelGroup],
    kept: Mapping[str, Sequence[int]],
    samples: Samples,
    *,
    positions: int = POSITIONS,
    ridge: float = RIDGE,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Weights]:
    """New weights of every layer behind a removal, by name; for `UpdateWeights`, full size.

    `reconstructed_weights` solves each consumer as if its inputs were still the original ones.
    Here the layers are gone through in the order of the graph: each is solved so that, on what the
    layers before it now give, it comes as close as it can to its original output, consumers or
    not. The target stays the original network's output, so that errors are corrected rather than
    handed on. Both networks run once over the samples per layer (and once for layers that read the
    same value): two layers solved at once would both correct the same error. It helps only where
    the samples have more rows than layers have inputs: with fewer, nothing is lost on the samples
    themselves, and there is nothing to correct.

    Args:
        model: as it is before anything is removed.
        groups: of the model.
        kept: group name -> units that stay, as for `RemoveChannels`.
        samples: calibration inputs.
        positions: rows per sample and layer.
        ridge: see `elimination.RIDGE`; more is added where there are few rows.
        seed: of the choice of rows.
        advance: called after every layer.
    """
    named = [g for g in groups if g.name in kept]
    layers = [x for x in find_layers(model) if Windows.of(x) is not None]
    stays = {x.name: kept_rows(x, named, kept) for x in layers}
    losing = [i for i, x in enumerate(layers) if stays[x.name] is not None]
    if not losing:
        return {}
    changed = model.clone()
    result: dict[str, Weights] = {}
    for _, alike in itertools.groupby(layers[losing[0] :], key=lambda x: str(x.inputs[0].name)):
        stage = {x.name: x for x in alike}
        new: dict[str, Weights] = {}
        for names in chunks({name: _bytes(x) for name, x in stage.items()}, MOST_BYTES):
            part = [stage[name] for name in names]
            moments = paired_moments(model, changed, part, samples, positions=positions, seed=seed)
            for layer in part:
                new[layer.name] = _solved(layer, stays[layer.name], moments[layer.name], ridge)
                advance()
        UpdateWeights(new).run(changed)
        result.update(new)
    return result


def paired_moments(
    model: ir.Model,
    changed: ir.Model,
    layers: Sequence[Layer],
    samples: Samples,
    *,
    positions: int = POSITIONS,
    seed: int = 0,
) -> dict[str, PairedMoments]:
    """Moments of the inputs of layers in both models, over the same rows, by layer name.

    Args:
        model: the original; `layers` are its own.
        changed: a copy with other weights, whose values have the same names and shapes.
    """
    windows = {x.name: w for x in layers if (w := Windows.of(x)) is not None}
    inputs = {str(v.name) for v in model.graph.inputs}
    wanted = [v for v in dict.fromkeys(w.value for w in windows.values()) if v not in inputs]
    runners = [
        Runner(with_outputs(m, wanted), frugal=True, own=True) if wanted else None
        for m in (model, changed)
    ]
    sums: dict[str, list[Array]] = {}
    counts = dict.fromkeys(windows, 0)
    for number, sample in enumerate(samples):
        given = {name: np.asarray(sample[name]) for name in inputs}
        arrays = [given if r is None else {**given, **r(sample)} for r in runners]
        for name, window in windows.items():
            x, z = (
                window.rows(a[window.value], positions, np.random.default_rng([seed, number]))
                for a in arrays
            )
            across = z.transpose(0, 2, 1)
            terms = [
                np.matmul(across, z),
                np.matmul(across, x),
                z.sum(axis=1, dtype=np.float64),
                x.sum(axis=1, dtype=np.float64),
                np.square(x).mean(axis=2, dtype=np.float64).sum(axis=1),
            ]
            counts[name] += x.shape[1]
            if name not in sums:
                sums[name] = [t.astype(np.float64) for t in terms]
            else:
                for total, term in zip(sums[name], terms, strict=True):
                    total += term
    del runners
    give_back()
    result = {}
    for name, totals in sums.items():
        second, cross, mean, original_mean, power = (t / max(1, counts[name]) for t in totals)
        result[name] = PairedMoments(second, cross, mean, original_mean, power, counts[name])
    return result


def _bytes(layer: Layer) -> int:
    window = Windows.of(layer)
    return 0 if window is None else 2 * window.bytes


def _solved(layer: Layer, stay: Array | None, seen: PairedMoments, ridge: float) -> Weights:
    """argmin over V of E|x W - z_kept V|^2, pulled towards what `reconstruct` gives for z alone.

    The pull is in proportion to the larger variance of both inputs, lest what is left of a channel
    that has all but died be blown up; and the stronger the fewer rows speak for as many inputs:
    behind a global pooling a sample is one row.
    """
    matrices = weight_matrices(layer)
    width = matrices.shape[1]
    rows = np.arange(width) if stay is None else stay
    second, cross, power = seen.second, seen.cross, seen.power
    if shifts(layer):
        second = second - seen.mean[:, :, None] * seen.mean[:, None, :]
        cross = cross - seen.mean[:, :, None] * seen.original_mean[:, None, :]
        power = power - np.square(seen.original_mean).mean(axis=1)
    new = np.zeros_like(matrices)
    for i, matrix in enumerate(matrices):
        block = second[i][np.ix_(rows, rows)]
        start = reconstruct(matrix, second[i], rows, ridge)
        error = cross[i][rows] @ matrix - block @ start
        variance = max(float(np.trace(block)) / len(rows), float(power[i]))
        pull = (ridge + width / max(1, seen.count)) * variance + 1e-12
        new[i][rows] = start + np.linalg.solve(block + pull * np.eye(len(rows)), error)
    lost = np.einsum("gd,gdo->go", seen.original_mean, matrices)
    bias = shifted_bias(layer, lost - np.einsum("gd,gdo->go", seen.mean, new))
    return from_matrices(layer, new), bias
