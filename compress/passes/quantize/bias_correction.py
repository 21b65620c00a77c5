"""Bias correction: rounding shifts the mean of every channel; its bias can shift it back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.evidence.statistics import chunks
from compress.execute.runtime import Samples
from compress.execute.session import Runner, with_outputs
from compress.graph.base import Pass
from compress.graph.layers import Layer
from compress.graph.traversal import constant, is_op, new_initializer

Array = npt.NDArray[Any]


def corrected_value(layer: Layer) -> str:
    """The value whose channel means are compared: the operator's sum, before any activation."""
    if layer.op == "MatMul" and layer.bias is not None:
        return str(layer.members[1].outputs[0].name)
    return str(layer.node.outputs[0].name)


@dataclasses.dataclass(frozen=True)
class CorrectBiases(Pass):
    """Biases of integer layers absorb the mean error of their channels.

    Given:   y = Conv(DQ(x), DQ(W), DQ(b: int32))
    Result:  y = Conv(DQ(x), DQ(W), DQ(b + round(e / scale): int32)),  e = E[y_float] - E[y]

    After Nagel et al. (2019), with means observed on calibration data in the quantized network, so
    that errors handed down from earlier layers are corrected as well.

    Attributes:
        errors: layer name -> e, shape (channels,), in real units.
    """

    name: ClassVar[str] = "correct-biases"

    errors: Mapping[str, Array]

    def run(self, model: ir.Model) -> bool:
        nodes = {str(node.name): node for node in model.graph}
        changed = False
        for name, error in self.errors.items():
            node = nodes.get(name)
            if node is not None:
                changed |= _shift(model.graph, node, error)
        return changed


def _shift(graph: ir.Graph, node: ir.Node, error: Array) -> bool:
    if is_op(node, "Conv", "Gemm"):
        return _shift_integer(graph, node, error)
    position = {"DynamicQuantizeMatMul": 4, "MatMulIntegerToFloat": 6, "MatMulNBits": 5}
    index = position.get(node.op_type) if node.domain == "com.microsoft" else None
    if index is None or index >= len(node.inputs) or node.inputs[index] is None:
        return False
    bias = constant(node.inputs[index])
    if bias is None or bias.shape != error.shape:
        return False
    shifted = (bias + error).astype(bias.dtype)
    _exchange(graph, node, index, new_initializer(graph, f"{node.name}.corrected", shifted))
    return True


def _shift_integer(graph: ir.Graph, node: ir.Node, error: Array) -> bool:
    """The int32 bias behind a DequantizeLinear; a layer without bias has none to correct."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    dequantize = value.producer() if value is not None else None
    if dequantize is None or not is_op(dequantize, "DequantizeLinear"):
        return False
    levels, scales = constant(dequantize.inputs[0]), constant(dequantize.inputs[1])
    if levels is None or scales is None or levels.shape != error.shape:
        return False
    limits = np.iinfo(np.int32)
    shifted = np.clip(
        levels.astype(np.int64) + np.rint(error / scales).astype(np.int64), limits.min, limits.max
    )
    new = new_initializer(graph, f"{node.name}.bias.corrected", shifted.astype(np.int32))
    _exchange(graph, dequantize, 0, new)
    return True


def _exchange(graph: ir.Graph, node: ir.Node, index: int, new: ir.Value) -> None:
    """`node` reads `new`; what it read before goes if nobody else does."""
    old = node.inputs[index]
    node.replace_input_with(index, new)
    if old is not None and old.name in graph.initializers and not old.uses():
        del graph.initializers[str(old.name)]


def mean_errors(
    float_model: ir.Model,
    quantized: ir.Model,
    layers: Sequence[Layer],
    samples: Samples,
    sizes: Mapping[str, int],
) -> dict[str, Array]:
    """E[float] - E[quantized] per channel of every given layer's sum, for `CorrectBiases`.

    Args:
        layers: those in integer form; layers whose value is gone from `quantized` are left out.
        sizes: bytes per value, so that few are held at once.
    """
    present = {str(v.name) for node in quantized.graph for v in node.outputs}
    wanted = {corrected_value(x): x for x in layers if corrected_value(x) in present}
    result: dict[str, Array] = {}
    for group in chunks({name: sizes.get(name, 2**20) for name in wanted}):
        axes = {name: 1 if wanted[name].op == "Conv" else -1 for name in group}
        before = _means(float_model, axes, samples)
        after = _means(quantized, axes, samples)
        result.update({wanted[name].name: before[name] - after[name] for name in group})
    return result


def _means(model: ir.Model, axes: Mapping[str, int], samples: Samples) -> dict[str, Array]:
    runner = Runner(with_outputs(model, axes), frugal=True)
    totals: dict[str, Array] = {}
    for sample in samples:
        for name, array in runner(sample).items():
            others = tuple(i for i in range(array.ndim) if i != axes[name] % array.ndim)
            mean = array.mean(axis=others, dtype=np.float64)
            totals[name] = totals.get(name, 0.0) + mean / len(samples)
    return totals
