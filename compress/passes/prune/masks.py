"""Weights set to zero where that is faster or smaller: unstructured, or two of every four."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.graph.base import Pass
from compress.graph.layers import Layer, find_layers
from compress.graph.traversal import attribute_int, constant
from compress.passes.prune.elimination import RIDGE, regularised
from compress.passes.prune.moments import Moments
from compress.passes.prune.update import (
    UpdateWeights,
    Weights,
    from_matrices,
    shifted_bias,
    shifts,
    weight_matrices,
)

Array = npt.NDArray[Any]

FEWEST_CHANNELS = 256
"""Input and output channels below which sparse tensor cores gain nothing over dense ones."""

BLOCK = 128
"""Most inputs whose weights are chosen together; an eighth of all where there are few."""

Pattern = tuple[int, int]
"""(n, m): n of every m weights along the input channels stay; (2, 4) is what GPUs run faster."""


def magnitude_mask(weight: Array, sparsity: float) -> npt.NDArray[np.bool_]:
    """True where a weight stays; exactly floor(sparsity * size) of the smallest go.

    Of equal magnitudes the first go.

    Args:
        weight: any shape.
        sparsity: share that goes, 0 to 1.
    """
    flat = np.abs(weight).reshape(-1)
    gone = int(sparsity * flat.size + 1e-6)
    mask = np.ones(flat.size, bool)
    mask[np.argsort(flat, kind="stable")[:gone]] = False
    return mask.reshape(weight.shape)


def pattern_mask(scores: Array, pattern: Pattern = (2, 4)) -> npt.NDArray[np.bool_]:
    """True for the n largest of every m scores along the first axis.

    Args:
        scores: (d, outputs), d a multiple of m.
        pattern: (n, m).
    """
    n, m = pattern
    grouped = scores.reshape(len(scores) // m, m, -1)
    rank = np.argsort(np.argsort(-grouped, axis=1, kind="stable"), axis=1, kind="stable")
    return np.asarray((rank < n).reshape(scores.shape))


def allows_pattern(
    layer: Layer, pattern: Pattern = (2, 4), *, fewest_channels: int = FEWEST_CHANNELS
) -> bool:
    """Whether a layer can have the pattern and is wide enough to gain from it.

    Args:
        fewest_channels: of its input and of its output; 0 forces it where it is possible at all.
    """
    weight = constant(layer.weight)
    if weight is None or layer.op == "ConvTranspose" or attribute_int(layer.node, "group", 1) != 1:
        return False
    if layer.op != "Conv" and weight.ndim != 2:
        return False
    # either order of a matrix's two sizes asks for the same
    fits = group_inputs(layer) % pattern[1] == 0
    return fits and min(weight.shape[:2]) >= fewest_channels


def group_inputs(layer: Layer) -> int:
    """Input channels of a layer (of one group of a convolution)."""
    weight = constant(layer.weight)
    taps = int(np.prod(weight.shape[2:])) if layer.op == "Conv" and weight is not None else 1
    return int(weight_matrices(layer).shape[1]) // taps


def channel_order(layer: Layer) -> Array:
    """The rows of `weight_matrices` reordered so that input channels of one kernel tap are
    neighbours: (d,) int64."""
    inputs, width = group_inputs(layer), weight_matrices(layer).shape[1]
    return np.arange(width).reshape(inputs, -1).T.reshape(-1)


def sparse_update(
    weight: Array,
    covariance: Array,
    *,
    sparsity: float = 0.0,
    pattern: Pattern | None = None,
    block: int | None = None,
    ridge: float = RIDGE,
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """(new weights, mask): weights go one input at a time, later inputs make up for the error.

    SparseGPT (Frantar and Alistarh, ICML 2023): with U the upper Cholesky factor of H^-1, removing
    w_j from all outputs it goes from costs (w_j / U_jj)^2 each, and the error w_j / U_jj travels to
    the inputs behind j along U_j. Masks are chosen block by block, by that cost. We work in double
    precision, and on centred moments where a bias can take the mean.

    Args:
        weight: (d, outputs) float64.
        covariance: (d, d) float64.
        sparsity: share of every block's weights that goes; ignored with a pattern.
        pattern: (n, m) along the rows; d must be a multiple of m.
        block: rows at a time, a multiple of m; by default an eighth of all, at most `BLOCK`.
            Choosing all at once would not see how errors add up.
    """
    if block is None:
        step = pattern[1] if pattern is not None else 1
        block = max(step, min(BLOCK, len(weight) // 8) // step * step)
    new = weight.astype(np.float64)
    mask = np.ones(weight.shape, bool)
    inverse = np.linalg.inv(regularised(covariance, ridge))
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T
    for start in range(0, len(new), block):
        stop = min(start + block, len(new))
        factor = upper[start:stop, start:stop]
        part = new[start:stop]
        if pattern is None:
            cost = np.square(part / np.diag(factor)[:, None])
            mask[start:stop] = magnitude_mask(cost, sparsity)
        errors = np.zeros_like(part)
        for row in range(stop - start):
            if pattern is not None and row % pattern[1] == 0:
                rows = slice(row, row + pattern[1])
                cost = np.square(part[rows] / np.diag(factor)[rows, None])
                mask[start:stop][rows] = pattern_mask(cost, pattern)
            gone = ~mask[start + row]
            errors[row, gone] = part[row, gone] / factor[row, row]
            part[row, gone] = 0.0
            part[row + 1 :] -= np.outer(factor[row, row + 1 :], errors[row])
        new[stop:] -= upper[start:stop, stop:].T @ errors
    return new, mask


def masked_weights(
    layer: Layer,
    *,
    sparsity: float = 0.0,
    pattern: Pattern | None = None,
    moments: Moments | None = None,
    ridge: float = RIDGE,
) -> tuple[npt.NDArray[np.bool_], Weights]:
    """(mask in the weight's shape, weights and bias to go with it) for one layer.

    By magnitude without `moments`; with them the other weights and the bias make up for the loss.

    Args:
        layer: with a constant weight.
        sparsity: share of the weights that goes; ignored with a pattern.
        pattern: (n, m) along the input channels, for each kernel tap; see `allows_pattern`.
        moments: of the layer's input.
    """
    matrices = weight_matrices(layer)
    order = channel_order(layer)
    back = np.argsort(order)
    new, masks = np.empty_like(matrices), np.ones(matrices.shape, bool)
    covariance = None
    if moments is not None:
        covariance = moments.covariance if shifts(layer) else moments.second
    for i, matrix in enumerate(matrices):
        sorted_rows = matrix[order]
        if covariance is not None:
            found, mask = sparse_update(
                sorted_rows,
                covariance[i][np.ix_(order, order)],
                sparsity=sparsity,
                pattern=pattern,
                ridge=ridge,
            )
        else:
            mask = (
                magnitude_mask(sorted_rows, sparsity)
                if pattern is None
                else pattern_mask(np.abs(sorted_rows), pattern)
            )
            found = np.where(mask, sorted_rows, 0.0)
        new[i], masks[i] = found[back], mask[back]
    bias = None
    if moments is not None:
        bias = shifted_bias(layer, np.einsum("gd,gdo->go", moments.mean, matrices - new))
    shaped = from_matrices(layer, masks.astype(np.float64)) != 0
    return shaped, (from_matrices(layer, new), bias)


@dataclasses.dataclass(frozen=True)
class ApplyMasks(Pass):
    """Weights become zero outside of their masks; shapes stay.

    Given:   y = Conv(x, W, b)
    Result:  y = Conv(x, W' * mask, b')

    Attributes:
        masks: layer name -> bool array in the shape of its weight, True where it stays.
        weights: layer name -> (W', b' or None), where they make up for what goes; W and b where
            they are not given.
    """

    name: ClassVar[str] = "apply-masks"

    masks: Mapping[str, npt.NDArray[np.bool_]]
    weights: Mapping[str, Weights] = dataclasses.field(default_factory=dict)

    def run(self, model: ir.Model) -> bool:
        """Mask in place.

        Raises:
            ValueError: a mask has not the shape of its layer's weight.
        """
        updated: dict[str, Weights] = {}
        for layer in find_layers(model):
            mask, weight = self.masks.get(layer.name), constant(layer.weight)
            if mask is None or weight is None:
                continue
            if mask.shape != weight.shape:
                raise ValueError(f"layer {layer.name}: mask {mask.shape}, weight {weight.shape}")
            new, bias = self.weights.get(layer.name, (weight, None))
            updated[layer.name] = np.where(mask, new, 0).astype(weight.dtype), bias
        return UpdateWeights(updated).run(model)
