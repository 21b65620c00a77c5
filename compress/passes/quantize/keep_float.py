"""Keep onnxruntime from quantizing what was left in float on purpose."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from compress.graph.base import Pass
from compress.graph.traversal import (
    attribute_int,
    constant,
    consumers,
    is_constant,
    is_op,
    new_initializer,
)


@dataclasses.dataclass(frozen=True)
class KeepFloat(Pass):
    """Float operators between integer ones read values that are dequantized per channel.

    Given:   x = DQ(x8, scale);   y = Conv(x, W);  y8 = Q(y)                       W is float
    Result:  x = DQ<axis = 1>(x8, [scale, scale, ...]);  y = Conv(x, W);  y8 = Q(y)

    onnxruntime (1.32 does) takes a float Conv, ConvTranspose or Gemm (or a MatMul and Add that it
    makes a Gemm of) between a Dequantize and a Quantize for one whose weights somebody forgot: it
    rounds them to int8 with one scale for the whole tensor. It does so for scalar scales alone. The
    numbers are the same with one scale per channel, and the operator stays what was chosen.
    """

    name: ClassVar[str] = "keep-float"

    def run(self, model: ir.Model) -> bool:
        spread: dict[tuple[int, int], ir.Value] = {}
        changed = False
        for node in list(model.graph):
            if not _would_be_quantized(node):
                continue
            value = node.inputs[0]
            assert value is not None
            axis, channels = _input_channels(node)
            if channels < 2:
                # one scale per channel is a single one
                continue
            key = (id(value), axis)
            if key not in spread:
                spread[key] = _per_channel(model.graph, value, axis, channels)
            node.replace_input_with(0, spread[key])
            changed = True
        return changed


def _would_be_quantized(node: ir.Node) -> bool:
    """Whether the node has float weights and stands alone between a Dequantize and a Quantize."""
    if not is_op(node, "Conv", "ConvTranspose", "Gemm", "MatMul"):
        return False
    first, weight = node.inputs[0], node.inputs[1]
    source = first.producer() if first is not None else None
    if source is None or not is_op(source, "DequantizeLinear") or not is_constant(weight):
        return False
    scale = constant(source.inputs[1])
    return scale is not None and scale.size == 1 and _leads_to_quantize(node.outputs[0])


def _leads_to_quantize(value: ir.Value) -> bool:
    """Through activations that saturate, and the bias of a matrix product."""
    while len(readers := consumers(value)) == 1:
        (reader,) = readers
        if is_op(reader, "QuantizeLinear"):
            return True
        biased = is_op(reader, "Add") and any(is_constant(v) for v in reader.inputs)
        if not biased and not is_op(reader, "Relu", "Clip"):
            return False
        value = reader.outputs[0]
    return False


def _input_channels(node: ir.Node) -> tuple[int, int]:
    """(axis, size) of the channels of a weighted operator's first input."""
    weight = constant(node.inputs[1])
    assert weight is not None
    if is_op(node, "Conv"):
        return 1, weight.shape[1] * attribute_int(node, "group", 1)
    if is_op(node, "ConvTranspose"):
        return 1, weight.shape[0]
    if is_op(node, "Gemm"):
        rows = weight.shape[1 if attribute_int(node, "transB", 0) else 0]
        return (0 if attribute_int(node, "transA", 0) else 1), rows
    return -1, weight.shape[-2:][0]


def _per_channel(graph: ir.Graph, value: ir.Value, axis: int, channels: int) -> ir.Value:
    """`value` dequantized once more, with its scale repeated for every channel."""
    source = value.producer()
    assert source is not None
    inputs: list[ir.Value | None] = [source.inputs[0]]
    for parameter in source.inputs[1:3]:
        array = constant(parameter)
        assert parameter is not None
        assert array is not None
        repeated = np.repeat(array.reshape(1), channels)
        inputs.append(new_initializer(graph, f"{parameter.name}.repeated", repeated))
    node = ir.node("DequantizeLinear", inputs, {"axis": axis}, name=f"{source.name}.axis{axis}")
    result = node.outputs[0]
    result.name = f"{source.inputs[0].name}.axis{axis}" if source.inputs[0] else None
    result.shape, result.type = value.shape, value.type
    graph.insert_after(source, node)
    return result
