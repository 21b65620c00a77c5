"""Recognise layer normalisation that exporters spell out in primitive operators."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.graph.activations import by_scalar
from compress.graph.base import Pass
from compress.graph.traversal import (
    attribute_int,
    attribute_ints,
    constant,
    is_op,
    new_initializer,
    owner,
    rank,
    remove_dead,
    replace,
    scalar,
    sole_consumer,
)


@dataclasses.dataclass(frozen=True)
class FuseLayerNormalization(Pass):
    """Mean, variance, division and affine map over the last axis become one node.

    Given:   m = ReduceMean(x, -1);  d = x - m;  v = ReduceMean(d ^ 2, -1)
             n = d / Sqrt(v + eps);  y = n * gamma;  z = y + beta
    Result:  z = LayerNormalization<axis = -1, epsilon = eps>(x, gamma, beta)

    `d * d` for the square and `d * Reciprocal(Sqrt(...))` for the division are known as well.
    """

    name: ClassVar[str] = "fuse-layer-normalization"

    def run(self, model: ir.Model) -> bool:
        changed = False
        for node in list(model.graph):
            if node.graph is not None and is_op(node, "Sqrt"):
                changed |= _fuse(node)
        return changed


def _fuse(root: ir.Node) -> bool:
    shifted = by_scalar(root.inputs[0].producer() if root.inputs[0] else None, "Add")
    if shifted is None or shifted[1] <= 0:
        return False
    variance, epsilon = shifted
    squared = _mean_of(variance)
    centred = _square_of(squared)
    source = _centred(centred)
    if centred is None or source is None:
        return False
    normalised = _division(centred, root)
    if normalised is None:
        return False
    size = source.shape[-1] if source.shape is not None and len(source.shape) else None
    if not isinstance(size, int):
        return False
    scaled = _vector_operand(normalised.outputs[0], "Mul", size)
    if scaled is None:
        return False
    node, gamma = scaled
    shift = _vector_operand(node.outputs[0], "Add", size)
    last, beta = shift if shift is not None else (node, None)
    graph = owner(root)
    inputs = [source, new_initializer(graph, f"{last.name}.gamma", gamma)]
    if beta is not None:
        inputs.append(new_initializer(graph, f"{last.name}.beta", beta))
    fused = ir.node("LayerNormalization", inputs, {"axis": -1, "epsilon": epsilon}, name=last.name)
    fused.outputs[0].name = f"{last.outputs[0].name}.fused"
    graph.insert_before(last, fused)
    old, name = last.outputs[0], last.outputs[0].name
    replace(old, fused.outputs[0])
    remove_dead([last])
    fused.outputs[0].name = name
    return True


def _mean_of(value: ir.Value | None) -> ir.Value | None:
    """x, if `value` is the mean of x over its last axis, kept as size 1."""
    node = value.producer() if value is not None else None
    if node is None or not is_op(node, "ReduceMean") or not attribute_int(node, "keepdims", 1):
        return None
    axes = attribute_ints(node, "axes")
    if axes is None and len(node.inputs) > 1:
        given = constant(node.inputs[1])
        axes = tuple(int(a) for a in given.reshape(-1)) if given is not None else None
    ndim = rank(node.inputs[0])
    if axes is None or len(axes) != 1 or axes[0] not in (-1, ndim - 1 if ndim else -1):
        return None
    return node.inputs[0]


def _square_of(value: ir.Value | None) -> ir.Value | None:
    node = value.producer() if value is not None else None
    if is_op(node, "Pow") and node is not None:
        return node.inputs[0] if scalar(node.inputs[1]) == 2.0 else None
    if node is not None and is_op(node, "Mul") and node.inputs[0] is node.inputs[1]:
        return node.inputs[0]
    return None


def _centred(value: ir.Value | None) -> ir.Value | None:
    """x, if `value` is x minus its mean over the last axis."""
    node = value.producer() if value is not None else None
    if node is None or not is_op(node, "Sub") or node.inputs[0] is None:
        return None
    return node.inputs[0] if _mean_of(node.inputs[1]) is node.inputs[0] else None


def _division(centred: ir.Value, root: ir.Node) -> ir.Node | None:
    """The node that divides `centred` by the root's output, directly or by its reciprocal."""
    node = sole_consumer(root.outputs[0])
    if node is None:
        return None
    if is_op(node, "Div"):
        return node if node.inputs[0] is centred else None
    if is_op(node, "Reciprocal"):
        product = sole_consumer(node.outputs[0])
        if product is not None and is_op(product, "Mul") and centred in product.inputs:
            return product
    return None


def _vector_operand(
    value: ir.Value, op_type: str, size: int
) -> tuple[ir.Node, npt.NDArray[Any]] | None:
    """The Mul or Add that alone reads `value`, and its constant as a vector over the last axis."""
    node = sole_consumer(value)
    if node is None or not is_op(node, op_type) or len(node.inputs) != 2:
        return None
    other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
    array = constant(other)
    ndim = rank(value)
    if array is None or ndim is None or array.ndim > ndim or array.size not in (1, size):
        return None
    if array.size == size and array.shape[-1:] != (size,):
        return None
    return node, np.array(np.broadcast_to(array.reshape(-1), (size,)))
