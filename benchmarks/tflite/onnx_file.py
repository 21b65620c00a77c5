"""Writes a network as ONNX with QuantizeLinear and DequantizeLinear around float operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.tflite.description import Layer, Network, Value, padding

OPSET = 17


def write_onnx(network: Network, path: Path) -> None:
    """Input and output are int8, as in TFLite; images are (1, channels, height, width).

    There are no nodes for activations: the range of the quantized output saturates where they do.
    """
    writer = _Writer(network)
    for layer in network.layers:
        writer.layer(layer)
    graph = helper.make_graph(
        writer.nodes,
        network.name,
        [_info(network.values[network.input])],
        [_info(network.values[network.output])],
        writer.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _info(value: Value) -> onnx.ValueInfoProto:
    shape = (1, *value.shape)
    if len(value.shape) == 3:
        height, width, channels = value.shape
        shape = (1, channels, height, width)
    return helper.make_tensor_value_info(value.name, TensorProto.INT8, shape)


class _Writer:
    def __init__(self, network: Network) -> None:
        self.network = network
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def layer(self, layer: Layer) -> None:
        sources = [self._real(layer.name, name) for name in layer.inputs]
        read = self.network.values[layer.inputs[0]]
        attributes: dict[str, Any] = {}
        if layer.kind in ("conv", "depthwise"):
            sides = [padding(size, layer.kernel, layer.stride) for size in read.shape[:2]]
            attributes = {
                "kernel_shape": [layer.kernel] * 2,
                "strides": [layer.stride] * 2,
                "pads": [sides[0][0], sides[1][0], sides[0][1], sides[1][1]],
                "group": read.shape[2] if layer.kind == "depthwise" else 1,
            }
            sources += self._parameters(layer, read)
        elif layer.kind == "dense":
            flat = self._node("Flatten", f"{layer.name}_flat", sources)
            sources, attributes = [flat, *self._parameters(layer, read)], {"transB": 1}
        operator = {
            "conv": "Conv",
            "depthwise": "Conv",
            "dense": "Gemm",
            "add": "Add",
            "average": "GlobalAveragePool",
        }[layer.kind]
        result = self._node(operator, f"{layer.name}_real", sources, **attributes)
        scale, zero = self._quantization(self.network.values[layer.name])
        self._node("QuantizeLinear", layer.name, [result, scale, zero])

    def _real(self, reader: str, name: str) -> str:
        """A value, dequantized for one reader."""
        scale, zero = self._quantization(self.network.values[name])
        return self._node("DequantizeLinear", f"{name}_for_{reader}", [name, scale, zero])

    def _quantization(self, value: Value) -> tuple[str, str]:
        name = f"{value.name}_scale"
        if all(constant.name != name for constant in self.constants):
            self._constant(name, np.array(value.scale, np.float32))
            self._constant(f"{value.name}_zero", np.array(value.zero_point, np.int8))
        return name, f"{value.name}_zero"

    def _parameters(self, layer: Layer, read: Value) -> list[str]:
        """Names of the dequantized weights and bias."""
        if layer.weights is None or layer.weight_scales is None or layer.bias is None:
            raise ValueError(f"layer {layer.name} has no weights")
        weights = layer.weights
        if layer.kind == "conv":
            weights = weights.transpose(0, 3, 1, 2)
        elif layer.kind == "depthwise":
            weights = weights.transpose(3, 0, 1, 2)
        bias_scales = (layer.weight_scales * np.float32(read.scale)).astype(np.float32)
        names = []
        for suffix, stored, scales in (
            ("weight", weights, layer.weight_scales),
            ("bias", layer.bias, bias_scales),
        ):
            name = f"{layer.name}_{suffix}"
            self._constant(f"{name}_stored", np.ascontiguousarray(stored))
            per_channel = scales.size > 1
            self._constant(f"{name}_scale", scales if per_channel else scales.reshape(()))
            zeros = np.zeros(scales.shape if per_channel else (), stored.dtype)
            self._constant(f"{name}_zero", zeros)
            inputs = [f"{name}_stored", f"{name}_scale", f"{name}_zero"]
            axis = {"axis": 0} if per_channel else {}
            names.append(self._node("DequantizeLinear", name, inputs, **axis))
        return names

    def _constant(self, name: str, array: npt.NDArray[np.generic]) -> None:
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))

    def _node(self, operator: str, output: str, inputs: list[str], **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output
