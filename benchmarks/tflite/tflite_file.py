"""Writes a network as a TFLite file: `python -m benchmarks.tflite.tflite_file NETWORK.npz OUT`.

Runs in the interpreter that has the `tflite` and `flatbuffers` packages. The format is a flatbuffer
(schema version 3): tables refer to what was written before them, so leaves come first.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.tflite.description import Layer, Network, Value, load

SCHEMA_VERSION = 3
IDENTIFIER = b"TFL3"
OPERATORS = {
    "conv": "CONV_2D",
    "depthwise": "DEPTHWISE_CONV_2D",
    "add": "ADD",
    "average": "AVERAGE_POOL_2D",
    "dense": "FULLY_CONNECTED",
}
OPTIONS = {
    "conv": "Conv2DOptions",
    "depthwise": "DepthwiseConv2DOptions",
    "add": "AddOptions",
    "average": "Pool2DOptions",
    "dense": "FullyConnectedOptions",
}
VERSIONS = {"conv": 3, "depthwise": 3, "add": 2, "average": 2, "dense": 4}
"""Of the operators, in which they take int8."""

ALIGNMENT = 16
"""Of constants, bytes."""


def to_tflite(network: Network) -> bytes:
    """The file's content."""
    return _Writer(network).content()


class _Writer:
    def __init__(self, network: Network) -> None:
        self.network = network
        self.schema: Any = importlib.import_module("tflite")
        self.builder: Any = importlib.import_module("flatbuffers").Builder(1 << 20)
        self.tensors: list[int] = []
        self.index: dict[str, int] = {}
        self.buffers: list[int] = [self._buffer(None)]

    def content(self) -> bytes:
        network = self.network
        self._activation(network.values[network.input])
        kinds: list[str] = []
        operators = []
        for layer in network.layers:
            if layer.kind not in kinds:
                kinds.append(layer.kind)
            operators.append(self._operator(layer, kinds.index(layer.kind)))
        subgraph = self._table(
            "SubGraph",
            Tensors=self._tables(self.tensors),
            Inputs=self._ints([self.index[network.input]]),
            Outputs=self._ints([self.index[network.output]]),
            Operators=self._tables(operators),
            Name=self.builder.CreateString("main"),
        )
        model = self._table(
            "Model",
            Version=SCHEMA_VERSION,
            OperatorCodes=self._tables([self._code(kind) for kind in kinds]),
            Subgraphs=self._tables([subgraph]),
            Description=self.builder.CreateString(network.name),
            Buffers=self._tables(self.buffers),
        )
        self.builder.Finish(model, file_identifier=IDENTIFIER)
        return bytes(self.builder.Output())

    def _code(self, kind: str) -> int:
        code = getattr(self.schema.BuiltinOperator, OPERATORS[kind])
        return self._table(
            "OperatorCode", DeprecatedBuiltinCode=code, Version=VERSIONS[kind], BuiltinCode=code
        )

    def _operator(self, layer: Layer, code: int) -> int:
        inputs = [self.index[name] for name in layer.inputs]
        read = self.network.values[layer.inputs[0]]
        if layer.weights is not None and layer.weight_scales is not None and layer.bias is not None:
            axis = 3 if layer.kind == "depthwise" else 0
            scales = layer.weight_scales
            inputs.append(self._constant(f"{layer.name}_weight", layer.weights, scales, axis))
            scales = (scales * np.float32(read.scale)).astype(np.float32)
            inputs.append(self._constant(f"{layer.name}_bias", layer.bias, scales, 0))
        self._activation(self.network.values[layer.name])
        options = self._table(OPTIONS[layer.kind], **self._options(layer))
        return self._table(
            "Operator",
            OpcodeIndex=code,
            Inputs=self._ints(inputs),
            Outputs=self._ints([self.index[layer.name]]),
            BuiltinOptionsType=getattr(self.schema.BuiltinOptions, OPTIONS[layer.kind]),
            BuiltinOptions=options,
        )

    def _options(self, layer: Layer) -> dict[str, int]:
        functions = self.schema.ActivationFunctionType
        activation = {"": functions.NONE, "relu": functions.RELU, "relu6": functions.RELU6}
        options: dict[str, int] = {"FusedActivationFunction": activation[layer.activation]}
        if layer.kind in ("conv", "depthwise"):
            options |= {"Padding": self.schema.Padding.SAME}
            options |= {"StrideW": layer.stride, "StrideH": layer.stride}
        if layer.kind == "depthwise":
            options["DepthMultiplier"] = 1
        if layer.kind == "average":
            options |= {"Padding": self.schema.Padding.VALID, "StrideW": 1, "StrideH": 1}
            options |= {"FilterWidth": layer.kernel, "FilterHeight": layer.kernel}
        return options

    def _activation(self, value: Value) -> None:
        scale = np.array([value.scale], np.float32)
        quantization = self._quantization(scale, [value.zero_point], 0)
        self._tensor(value.name, (1, *value.shape), self.schema.TensorType.INT8, 0, quantization)

    def _constant(
        self,
        name: str,
        array: npt.NDArray[np.int8] | npt.NDArray[np.int32],
        scales: npt.NDArray[np.float32],
        axis: int,
    ) -> int:
        types = self.schema.TensorType
        kind = types.INT8 if array.dtype == np.int8 else types.INT32
        self.buffers.append(self._buffer(array))
        quantization = self._quantization(scales, [0] * scales.size, axis)
        return self._tensor(name, array.shape, kind, len(self.buffers) - 1, quantization)

    def _tensor(
        self, name: str, shape: Sequence[int], kind: int, buffer: int, quantization: int
    ) -> int:
        self.index[name] = len(self.tensors)
        table = self._table(
            "Tensor",
            Shape=self._ints(shape),
            Type=kind,
            Buffer=buffer,
            Name=self.builder.CreateString(name),
            Quantization=quantization,
        )
        self.tensors.append(table)
        return self.index[name]

    def _quantization(
        self, scales: npt.NDArray[np.float32], zeros: Sequence[int], axis: int
    ) -> int:
        return self._table(
            "QuantizationParameters",
            Scale=self.builder.CreateNumpyVector(scales),
            ZeroPoint=self.builder.CreateNumpyVector(np.array(zeros, np.int64)),
            QuantizedDimension=axis,
        )

    def _buffer(self, array: npt.NDArray[np.int8] | npt.NDArray[np.int32] | None) -> int:
        if array is None:
            return self._table("Buffer")
        content = array.tobytes()
        self.builder.StartVector(1, len(content), ALIGNMENT)
        self.builder.head -= len(content)
        self.builder.Bytes[self.builder.head : self.builder.head + len(content)] = content
        return self._table("Buffer", Data=self.builder.EndVector())

    def _ints(self, values: Sequence[int]) -> int:
        return int(self.builder.CreateNumpyVector(np.array(values, np.int32)))

    def _tables(self, offsets: Sequence[int]) -> int:
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return int(self.builder.EndVector())

    def _table(self, kind: str, **fields: int) -> int:
        """A table of the schema; its fields are scalars, or offsets of what was written before."""
        self._of(kind, "Start")(self.builder)
        for field, value in fields.items():
            self._of(kind, f"Add{field}")(self.builder, value)
        return int(self._of(kind, "End")(self.builder))

    def _of(self, kind: str, action: str) -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(self.schema, f"{kind}{action}")
        return found


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    target.write_bytes(to_tflite(load(source)))


if __name__ == "__main__":
    main()
