"""What is left of a layer's weights makes up for what is gone: one-shot reconstruction."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.graph.affine import plain_gemm, set_weights
from compress.graph.base import Pass
from compress.graph.layers import Layer, find_layers
from compress.graph.traversal import attribute_int, constant, new_initializer
from compress.passes.prune.elimination import RIDGE, Problem, output_energy, regularised
from compress.passes.prune.groups import ChannelGroup
from compress.passes.prune.moments import Moments

Array = npt.NDArray[Any]


def reconstruct(weight: Array, covariance: Array, kept: Array, ridge: float = RIDGE) -> Array:
    """argmin over V of E|x W - x_kept V|^2 + ridge |V - W_kept|^2, shape (kept, outputs).

    The ridge pulls towards the weights as they are, not towards zero, so that inputs that nothing
    correlates with keep theirs exactly (OSSCAR and SparseGPT damp the Hessian alone, with the same
    effect).

    Args:
        weight: (d, outputs).
        covariance: (d, d), E[x x^T] or centred.
        kept: indices of the inputs that stay.
    """
    if len(kept) == len(weight):
        return weight.copy()
    gone = np.setdiff1d(np.arange(len(weight)), kept)
    solved = np.linalg.solve(
        regularised(covariance[np.ix_(kept, kept)], ridge),
        covariance[np.ix_(kept, gone)] @ weight[gone],
    )
    return np.asarray(weight[kept] + solved)


def lost_energy(weight: Array, covariance: Array, kept: Array, new: Array) -> float:
    """E|x W - x_kept V|^2 as a share of E|x W|^2."""
    difference = weight.copy()
    difference[kept] -= new
    energy = output_energy(weight, covariance)
    return output_energy(difference, covariance) / max(energy, 1e-30)


def weight_matrices(layer: Layer) -> Array:
    """The weight as (groups, d, outputs / groups) float64, for `Moments` of the same layer.

    ConvTranspose has a column per output channel and tap.
    """
    weight = constant(layer.weight)
    if weight is None:
        raise ValueError(f"layer {layer.name} has no constant weight")
    groups = attribute_int(layer.node, "group", 1)
    if layer.op == "Conv":
        grouped = weight.reshape(groups, weight.shape[0] // groups, -1).transpose(0, 2, 1)
    elif layer.op == "ConvTranspose":
        grouped = weight.reshape(groups, weight.shape[0] // groups, -1)
    else:
        grouped = weight.T[None] if attribute_int(layer.node, "transB", 0) else weight[None]
    return np.ascontiguousarray(grouped, dtype=np.float64)


def from_matrices(layer: Layer, matrices: Array) -> Array:
    """The inverse of `weight_matrices`, in the weight's own shape and dtype."""
    weight = constant(layer.weight)
    if weight is None:
        raise ValueError(f"layer {layer.name} has no constant weight")
    if layer.op == "Conv":
        flat = matrices.transpose(0, 2, 1)
    elif layer.op == "ConvTranspose":
        flat = matrices
    else:
        flat = matrices[0].T if attribute_int(layer.node, "transB", 0) else matrices[0]
    return np.ascontiguousarray(flat.reshape(weight.shape), dtype=weight.dtype)


def unit_rows(layer: Layer, group: ChannelGroup) -> Array | None:
    """(units, rows per unit): which rows of `weight_matrices` read a group's units.

    None if the layer does not consume the group. Grouped convolutions lose the same rows in every
    group.
    """
    weight = constant(layer.weight)
    if layer.weight is None or weight is None or layer.name not in group.consumers:
        return None
    axes = {"Conv": 1, "ConvTranspose": 0, "MatMul": weight.ndim - 2}
    transposed = attribute_int(layer.node, "transB", 0)
    axis = axes.get(layer.op, 1 if transposed else 0)
    member = group.member(str(layer.weight.name), axis)
    if member is None:
        return None
    indices = member.indices
    if layer.op == "ConvTranspose":
        inner = weight.shape[0] // attribute_int(layer.node, "group", 1)
        indices = np.stack([np.unique(row % inner) for row in indices])
    taps = int(np.prod(weight.shape[2:])) if layer.op == "Conv" else 1
    return np.asarray((indices[:, :, None] * taps + np.arange(taps)).reshape(len(indices), -1))


def shifts(layer: Layer) -> bool:
    """Whether the layer has a bias, or a place for one, that can absorb a change of the mean.

    Not so a ConvTranspose: a mean reaches output positions as often as strides let it.
    """
    if layer.op == "MatMul":
        return layer.bias is not None and constant(layer.bias) is not None
    if layer.op == "Gemm" and not plain_gemm(layer.node):
        return False
    return layer.op != "ConvTranspose" and (layer.bias is None or constant(layer.bias) is not None)


def problems_of(
    layers: Iterable[Layer], group: ChannelGroup, moments: Mapping[str, Moments]
) -> list[Problem]:
    """The group's consumers with moments, as `removal_order` takes them."""
    found: list[Problem] = []
    for layer in layers:
        rows, seen = unit_rows(layer, group), moments.get(layer.name)
        if rows is None or seen is None:
            continue
        covariance = seen.covariance if shifts(layer) else seen.second
        matrices = weight_matrices(layer)
        energy = sum(output_energy(m, covariance[i]) for i, m in enumerate(matrices))
        found.extend(
            Problem(matrix, covariance[i], rows, energy) for i, matrix in enumerate(matrices)
        )
    return found


def norm_scores(model: ir.Model, group: ChannelGroup) -> Array:
    """(units,) float64: size of what produces a unit times size of what reads it.

    Where moments are too dear or not at hand; larger is more important. Each side is the root of
    the squared weights, as a share of the layer's mean, summed over layers.
    """
    layers = {layer.name: layer for layer in find_layers(model)}
    sides = []
    for names, first in ((group.producers, True), (group.consumers, False)):
        total = np.zeros(group.channels)
        for name in names:
            value = layers[name].weight if name in layers else None
            weight = constant(value)
            for member in group.members:
                if weight is None or value is None or member.value != value.name:
                    continue
                if (member.axis == _output_axis(layers[name])) is not first:
                    continue
                moved = np.moveaxis(weight, member.axis, 0).reshape(weight.shape[member.axis], -1)
                squares = np.square(moved).sum(axis=1, dtype=np.float64)[member.indices].sum(axis=1)
                total += squares / max(float(squares.mean()), 1e-30)
        sides.append(np.sqrt(total) if total.any() else np.ones(group.channels))
    return np.asarray(sides[0] * sides[1])


def _output_axis(layer: Layer) -> int:
    weight = constant(layer.weight)
    assert weight is not None
    transposed = attribute_int(layer.node, "transB", 0)
    axes = {"Conv": 0, "ConvTranspose": 1, "MatMul": weight.ndim - 1}
    return axes.get(layer.op, 0 if transposed else 1)


def kept_rows(
    layer: Layer, groups: Iterable[ChannelGroup], kept: Mapping[str, Sequence[int]]
) -> Array | None:
    """Sorted rows of `weight_matrices` that stay; None if the layer loses none.

    Args:
        groups: those that lose units.
        kept: group name -> units that stay.
    """
    gone: set[int] = set()
    for group in groups:
        rows = unit_rows(layer, group)
        if rows is not None:
            units = np.setdiff1d(np.arange(group.channels), np.asarray(kept[group.name], int))
            gone.update(rows[units].reshape(-1).tolist())
    width = weight_matrices(layer).shape[1] if gone else 0
    return np.setdiff1d(np.arange(width), list(gone)) if gone else None


Weights = tuple[Array, Array | None]
"""(weight, bias or None) of a layer in their own shapes and dtypes."""


def reconstructed_weights(
    layers: Iterable[Layer],
    groups: Iterable[ChannelGroup],
    kept: Mapping[str, Sequence[int]],
    moments: Mapping[str, Moments],
    *,
    ridge: float = RIDGE,
) -> dict[str, Weights]:
    """New weights of every consumer that loses inputs, by layer name; for `UpdateWeights`.

    They still have their full size, with zeros where inputs are to go: `UpdateWeights` before
    `RemoveChannels`. A layer that reads several groups (Concat) is solved for all at once. Layers
    without moments are left out.

    Args:
        layers, groups: of the model as it is before anything is removed.
        kept: group name -> units that stay, as for `RemoveChannels`.
        moments: of the same model.
    """
    named = [g for g in groups if g.name in kept]
    result: dict[str, Weights] = {}
    for layer in layers:
        seen, stay = moments.get(layer.name), kept_rows(layer, named, kept)
        if seen is None or stay is None:
            continue
        matrices = weight_matrices(layer)
        covariance = seen.covariance if shifts(layer) else seen.second
        new = np.zeros_like(matrices)
        for i, matrix in enumerate(matrices):
            new[i][stay] = reconstruct(matrix, covariance[i], stay, ridge)
        bias = shifted_bias(layer, np.einsum("gd,gdo->go", seen.mean, matrices - new))
        result[layer.name] = from_matrices(layer, new), bias
    return result


def shifted_bias(layer: Layer, shift: Array) -> Array | None:
    """The bias plus what is lost of each output's mean, (groups, outputs / groups).

    None where the layer has no place for it, see `shifts`.
    """
    weight, old = constant(layer.weight), constant(layer.bias)
    if weight is None or not shifts(layer):
        return None
    flat = shift.reshape(-1).astype(weight.dtype)
    return flat if old is None else np.asarray(old + flat)


@dataclasses.dataclass(frozen=True)
class UpdateWeights(Pass):
    """Layers get other weights and biases of the same shapes.

    Given:   y = Conv(x, W)
    Result:  y = Conv(x, W', b')

    Attributes:
        weights: layer name -> (weight, bias or None to leave it as it is).
    """

    name: ClassVar[str] = "update-weights"

    weights: Mapping[str, Weights]

    def run(self, model: ir.Model) -> bool:
        changed = False
        for layer in find_layers(model):
            if layer.name not in self.weights:
                continue
            weight, bias = self.weights[layer.name]
            set_weights(layer.node, weight, bias if layer.op != "MatMul" else None)
            if layer.op == "MatMul" and bias is not None and layer.bias is not None:
                add = layer.members[1]
                position = next(i for i, v in enumerate(add.inputs) if v is layer.bias)
                replacement = new_initializer(model.graph, f"{layer.bias.name}.updated", bias)
                add.replace_input_with(position, replacement)
                if not layer.bias.uses() and not layer.bias.is_graph_output():
                    model.graph.initializers.pop(str(layer.bias.name), None)
            changed = True
        return changed
