"""Cross-layer equalisation: move scale between channels where the network cannot tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.evidence.statistics import TensorStatistics
from compress.graph.affine import (
    attribute_number,
    bias_of,
    output_channels,
    scale_inputs,
    scale_outputs,
    set_weights,
)
from compress.graph.base import Pass
from compress.graph.traversal import (
    attribute_int,
    constant,
    consumers,
    is_op,
    new_initializer,
    owner,
)

Array = npt.NDArray[Any]

LARGEST_STEP = 64.0
"""No channel is scaled by more: a nearly dead channel would otherwise be blown up."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """A producer whose output channels may be divided by s, and consumers that multiply it back."""

    producer: ir.Node
    value: ir.Value
    readers: tuple[ir.Node, ...]
    channels: int


@dataclasses.dataclass(frozen=True)
class Equalize(Pass):
    """The float network computes the same; its tensors waste fewer of 256 levels on one channel.

    Given:   y = Relu(Conv(x, W1, b1));  z = Conv(y, W2)
    Result:  y' = Relu(Conv(x, W1 / s, b1 / s));  z = Conv(y', W2 * s)

    s per channel is sqrt(r1 / r2), r1 the largest magnitude of the activation (of the producer's
    weights where it was not observed), r2 that of the consumers' weights: the cross-layer rule of
    data-free quantization (Nagel et al. 2019) with observed activations for r1, which for
    LayerNormalization before matrices is SmoothQuant's rule with exponent 1/2 (Xiao et al. 2023).

    Producers: Conv, Gemm, LayerNormalization with constants. Between: nothing, Relu, LeakyRelu.
    Consumers: all of Conv behind a Conv, all of Gemm and MatMul behind the others; a value read by
    anybody else stays as it is.
    """

    name: ClassVar[str] = "equalize"

    statistics: Mapping[str, TensorStatistics]

    def run(self, model: ir.Model) -> bool:
        pairs = [p for node in model.graph if (p := find_pair(node)) is not None]
        for pair in pairs:
            self._apply(pair)
        return bool(pairs)

    def _apply(self, pair: Pair) -> None:
        first = self._magnitude(pair)
        second = np.zeros(pair.channels)
        for reader in pair.readers:
            second = np.maximum(second, input_magnitude(reader, pair.channels))
        usable = (first > 0) & (second > 0)
        step = np.ones(pair.channels)
        step[usable] = np.sqrt(first[usable] / second[usable])
        # only differences between channels matter: the tensor keeps its overall scale
        step /= np.exp(np.mean(np.log(step)))
        step = np.clip(step, 1 / LARGEST_STEP, LARGEST_STEP).astype(np.float32)
        divide_outputs(pair.producer, step)
        for reader in pair.readers:
            weight = constant(reader.inputs[1])
            assert weight is not None
            set_weights(reader, scale_inputs(reader, weight, step).astype(weight.dtype), None)

    def _magnitude(self, pair: Pair) -> Array:
        known = self.statistics.get(str(pair.value.name))
        if known is not None:
            last = is_op(pair.producer, "LayerNormalization", "Gemm")
            observed = known.last_absmax if last else known.absmax
            if observed is not None and observed.shape == (pair.channels,):
                return observed.astype(np.float64)
        return output_magnitude(pair.producer, pair.channels)


def find_pair(node: ir.Node) -> Pair | None:
    """The pair that starts at `node`, if scale can be moved out of it exactly."""
    channels = producer_channels(node)
    if channels is None:
        return None
    value = node.outputs[0]
    between = consumers(value)
    if len(between) == 1 and is_op(between[0], "Relu", "LeakyRelu") and not value.is_graph_output():
        value = between[0].outputs[0]
    readers = consumers(value)
    if value.is_graph_output() or not readers:
        return None
    if not all(_multiplies_back(reader, node, value, channels) for reader in readers):
        return None
    return Pair(node, value, tuple(readers), channels)


def producer_channels(node: ir.Node) -> int | None:
    """Output channels of an operator whose output scales with its constants, else None."""
    if is_op(node, "Conv", "Gemm"):
        where = output_channels(node)
        weight = constant(node.inputs[1]) if where is not None else None
        if where is None or weight is None or bias_of(node, where[1], weight.dtype) is None:
            return None
        unit = all(attribute_number(node, n) == 1.0 for n in ("alpha", "beta"))
        return where[1] if unit or is_op(node, "Conv") else None
    if is_op(node, "LayerNormalization"):
        gamma = constant(node.inputs[1])
        plain = gamma is not None and gamma.ndim == 1 and len(node.outputs) == 1
        if not plain or attribute_int(node, "axis", -1) != -1 or gamma is None:
            return None
        beta = constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1)
        return int(gamma.size) if beta is not None else None
    return None


def _multiplies_back(reader: ir.Node, producer: ir.Node, value: ir.Value, channels: int) -> bool:
    if not is_op(reader, "Conv", "Gemm", "MatMul") or output_channels(reader) is None:
        return False
    # what stands in a subgraph may not run; and channels are axis 1 for a Conv, else the last one
    if reader.graph is not producer.graph or is_op(reader, "Conv") != is_op(producer, "Conv"):
        return False
    if reader.inputs[0] is not value or any(v is value for v in reader.inputs[1:]):
        return False
    if is_op(reader, "Gemm") and attribute_int(reader, "transA", 0):
        return False
    return input_magnitude(reader, channels).shape == (channels,)


def input_magnitude(reader: ir.Node, channels: int) -> Array:
    """The largest weight that each input channel meets, shape (channels,); (0,) if they differ."""
    weight = constant(reader.inputs[1])
    assert weight is not None
    magnitude = np.abs(weight)
    if is_op(reader, "Conv"):
        group = attribute_int(reader, "group", 1)
        outputs, per_group = weight.shape[:2]
        grouped = magnitude.reshape(group, outputs // group, per_group, -1)
        result = grouped.max(axis=(1, 3)).reshape(-1)
    elif is_op(reader, "Gemm") and attribute_int(reader, "transB", 0):
        result = magnitude.max(axis=0)
    else:
        result = magnitude.max(axis=1)
    return result.astype(np.float64) if result.shape == (channels,) else np.zeros(0)


def output_magnitude(producer: ir.Node, channels: int) -> Array:
    """The largest weight that makes each output channel, shape (channels,)."""
    weight = constant(producer.inputs[1])
    assert weight is not None
    magnitude = np.abs(weight).astype(np.float64)
    if is_op(producer, "LayerNormalization"):
        return np.asarray(magnitude)
    if is_op(producer, "Conv") or attribute_int(producer, "transB", 0):
        return np.asarray(magnitude.reshape(channels, -1).max(axis=1))
    return np.asarray(magnitude.max(axis=0))


def divide_outputs(producer: ir.Node, step: Array) -> None:
    """Divides the producer's output channels by `step`."""
    weight = constant(producer.inputs[1])
    assert weight is not None
    inverse = (1.0 / step).astype(weight.dtype)
    has_bias = len(producer.inputs) > 2 and producer.inputs[2] is not None
    if is_op(producer, "LayerNormalization"):
        graph = owner(producer)
        for index in (1, 2) if has_bias else (1,):
            old = producer.inputs[index]
            array = constant(old)
            assert array is not None
            assert old is not None
            producer.replace_input_with(
                index, new_initializer(graph, f"{old.name}.equalized", array * inverse)
            )
        return
    bias = bias_of(producer, step.size, weight.dtype)
    assert bias is not None
    set_weights(
        producer,
        scale_outputs(producer, weight, inverse).astype(weight.dtype),
        (bias * inverse).astype(weight.dtype) if has_bias else None,
    )
