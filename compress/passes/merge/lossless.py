"""Merges that change no number: which there are, and the pass that writes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from compress.graph.base import Pass
from compress.graph.eliminate_dead import EliminateDead
from compress.graph.infer_shapes import InferShapes
from compress.graph.layers import Layer, find_layers
from compress.graph.traversal import attribute_int, constant, new_initializer, replace
from compress.passes.merge.algebra import LinearMap
from compress.passes.merge.spans import Span, find_spans, folded, layer_map, outline

MOST_LAYERS = 8
MOST_TAPS = 49
"""Of the largest kernel that is looked at: larger ones are never faster than what they replace."""


def lossless_spans(model: ir.Model) -> list[tuple[Span, LinearMap]]:
    """Spans that one operator replaces without changing what the network computes.

    Chains whose second part has one tap or no padding, parallel branches (RepVGG, RepHMS) with
    identity and 1x1 skips, linear layers in a row: everything whose activations are all at its end
    and whose padding meets zeros only.
    """
    found = []
    for span in find_spans(model, most_layers=MOST_LAYERS):
        if span.activations or span.sides:
            continue
        shape = outline(span)
        if shape is None or int(np.prod(shape.kernel)) > MOST_TAPS:
            continue
        linear = folded(span)
        if linear is not None and linear.exact:
            found.append((span, linear))
    return found


@dataclasses.dataclass(frozen=True)
class MergeTransposed(Pass):
    """A transposed convolution takes in the 1x1 convolution before or behind it.

    Given:   a = ConvTranspose(x, V, b);  y = Conv(a, W, c)       W (4, 8, 1, 1)
    Result:  y = ConvTranspose(x, V', b')

    Given:   a = Conv(x, W);  y = ConvTranspose(a, V, b)          W without bias
    Result:  y = ConvTranspose(x, V', b)

    1. One group each; nobody else reads what is between, and no activation is there.
    2. A bias before is refused: how many taps add it up differs from place to place.

    Attributes:
        layers: names of the transposed convolutions that may take in a neighbour.
    """

    name: ClassVar[str] = "merge-transposed"

    layers: frozenset[str]

    def run(self, model: ir.Model) -> bool:
        changed = False
        for first, second in transposed_pairs(model):
            if {first.name, second.name} & self.layers and first.node.graph and second.node.graph:
                _join(model.graph, first, second)
                changed = True
        if changed:
            EliminateDead().run(model)
            InferShapes().run(model)
        return changed


def transposed_pairs(model: ir.Model) -> list[tuple[Layer, Layer]]:
    """Pairs that `MergeTransposed` can join; a layer may be in two of them."""
    return list(_pairs(model))


def _pairs(model: ir.Model) -> Iterator[tuple[Layer, Layer]]:
    layers = find_layers(model)
    writer = {id(layer.output): layer for layer in layers}
    for second in layers:
        first = writer.get(id(second.inputs[0])) if second.weight is not None else None
        if first is None or first.activation is not None or len(first.output.uses()) != 1:
            continue
        if first.output.is_graph_output():
            continue
        if first.op == "ConvTranspose" and second.op == "Conv":
            pointwise, transposed = second, first
        elif first.op == "Conv" and second.op == "ConvTranspose" and first.bias is None:
            pointwise, transposed = first, second
        else:
            continue
        linear = layer_map(pointwise)
        plain = linear is not None and linear.pointwise and set(linear.stride) == {1}
        unpadded = linear is not None and not any(sum(linear.pads, ()))
        weights = constant(transposed.weight) is not None
        known = transposed.bias is None or constant(transposed.bias) is not None
        one_group = attribute_int(transposed.node, "group", 1) == 1
        if plain and unpadded and weights and known and one_group:
            yield first, second


def _join(graph: ir.Graph, first: Layer, second: Layer) -> None:
    backwards = first.op == "ConvTranspose"
    transposed, pointwise = (first, second) if backwards else (second, first)
    linear, weight = layer_map(pointwise), constant(transposed.weight)
    assert linear is not None
    assert weight is not None
    matrix = linear.weight.reshape(linear.weight.shape[:2])
    wide = weight.astype(np.float64)
    if backwards:
        # (in, mid, *k) with (out, mid)
        merged = np.moveaxis(np.tensordot(wide, matrix, ((1,), (1,))), -1, 1)
    else:
        # (mid, out, *k) with (mid, in)
        merged = np.tensordot(matrix, wide, ((0,), (0,)))
    node = transposed.node
    label = str(node.name)
    value = new_initializer(graph, f"{label}.merged.weight", merged.astype(weight.dtype))
    node.replace_input_with(1, value)
    if backwards:
        old = constant(transposed.bias)
        bias = linear.bias + (0.0 if old is None else matrix @ old.astype(np.float64))
        offset = new_initializer(graph, f"{label}.merged.bias", bias.astype(weight.dtype))
        if len(node.inputs) > 2:
            node.replace_input_with(2, offset)
        else:
            node.resize_inputs(3)
            node.replace_input_with(2, offset)
        raw = pointwise.node.outputs[0]
        node.outputs[0].shape = None
        replace(raw, node.outputs[0])
    else:
        node.replace_input_with(0, pointwise.inputs[0])
