"""How channels pass through each operator: the rules behind the coupling groups, as a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.graph.traversal import attribute_int, attribute_ints
from compress.passes.prune.coupling import Couplings, Tensor
from compress.passes.prune.moving import (
    broadcast,
    channelwise,
    concat,
    constant_axes,
    depth_to_space,
    expand,
    gather,
    pad,
    reshape,
    resize,
    slice_,
    space_to_depth,
    split,
    transpose,
)

Array = npt.NDArray[Any]
Rule = Callable[[Couplings, ir.Node], None]


def whole_groups(channels_per_group: int, groups: int) -> bool:
    """Whether a grouped convolution loses whole groups, or as many channels in each group.

    Whichever leaves more to choose from; depthwise convolutions have one channel per group.
    """
    return groups > 1 and groups >= channels_per_group


def _convolution(c: Couplings, node: ir.Node) -> None:
    """Weight (out, in / groups, *kernel); transposed (in, out / groups, *kernel)."""
    x, weight, bias = c.input(node, 0), c.input(node, 1), c.input(node, 2)
    y = c.output(node)
    if x is None or weight is None or not weight.constant:
        return
    # axis 0 of the weight goes with `outer`, axis 1 with `other`, of which it has one group's part
    transposed = node.op_type == "ConvTranspose"
    outer, other = (x, y) if transposed else (y, x)
    groups = attribute_int(node, "group", 1)
    channels, inner = int(weight.dims[0]), int(weight.dims[1])
    _allow_kernel(c, weight)
    c.link(outer, 1, weight, 0)
    if bias is not None:
        c.link(y, 1, bias, 0)
    if whole_groups(inner, groups):
        c.allow(weight, 1)
        _whole_groups(c, node, x, y, weight, groups)
        return
    c.link(other, 1, weight, 1, (np.arange(inner * groups), np.tile(np.arange(inner), groups)))
    c.together(outer, 1, np.arange(channels) % (channels // groups))
    c.role("consumes" if transposed else "produces", node, weight, 0)
    c.role("produces" if transposed else "consumes", node, weight, 1)


def _allow_kernel(c: Couplings, weight: Tensor) -> None:
    for axis in range(2, len(weight.dims)):
        c.allow(weight, axis)


def _whole_groups(
    c: Couplings, node: ir.Node, x: Tensor, y: Tensor, weight: Tensor, groups: int
) -> None:
    inputs, outputs = x.size(1), y.size(1)
    if inputs is None or outputs is None:
        return
    group_in = np.arange(inputs) // (inputs // groups)
    group_out = np.arange(outputs) // (outputs // groups)
    c.together(y, 1, group_out)
    c.link(x, 1, y, 1, (np.arange(inputs), group_in * (outputs // groups)))
    c.role("carries", node, weight, 0)


def _gemm(c: Couplings, node: ir.Node) -> None:
    a, b, bias = c.input(node, 0), c.input(node, 1), c.input(node, 2)
    y = c.output(node)
    if a is None or b is None:
        return
    rows_a = attribute_int(node, "transA", 0)
    rows_b = 1 if attribute_int(node, "transB", 0) else 0
    c.link(a, rows_a, y, 0)
    c.link(b, 1 - rows_b, y, 1)
    c.link(a, 1 - rows_a, b, rows_b)
    if bias is not None:
        broadcast(c, bias, y)
    if b.constant:
        c.role("produces", node, b, 1 - rows_b)
        c.role("consumes", node, b, rows_b)


def _matmul(c: Couplings, node: ir.Node) -> None:
    a, b, y = c.input(node, 0), c.input(node, 1), c.output(node)
    if a is None or b is None or len(a.dims) < 2 or len(b.dims) < 2:
        return
    c.link(a, -2, y, -2)
    c.link(b, -1, y, -1)
    c.link(a, -1, b, -2)
    broadcast(c, a, y, last=2)
    broadcast(c, b, y, last=2)
    if b.constant:
        c.role("produces", node, b, -1)
        c.role("consumes", node, b, -2)


def _elementwise(c: Couplings, node: ir.Node) -> None:
    for output in range(len(node.outputs)):
        y = c.output(node, output)
        for position in range(len(node.inputs)):
            x = c.input(node, position)
            if x is not None:
                broadcast(c, x, y)


def _normalise_channels(c: Couplings, node: ir.Node) -> None:
    """BatchNormalization, InstanceNormalization: vectors of one number per channel."""
    channelwise(c, node)
    for position in range(1, len(node.inputs)):
        vector = c.input(node, position)
        if vector is not None:
            c.link(vector, 0, c.output(node), 1)


def _group_normalisation(c: Couplings, node: ir.Node) -> None:
    """Whole groups go: the others' means stay."""
    _normalise_channels(c, node)
    y, groups = c.output(node), attribute_int(node, "num_groups", 1)
    channels = y.size(1)
    if channels is not None:
        c.together(y, 1, np.arange(channels) // (channels // groups))


def _layer_normalisation(c: Couplings, node: ir.Node) -> None:
    """Means and variances over what is left differ from those with zeros among it."""
    x, y = c.input(node, 0), c.output(node)
    if x is None or any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
        return
    rank = len(x.dims)
    first = attribute_int(node, "axis", -1) % rank
    for axis in range(rank):
        c.link(x, axis, y, axis)
        if axis >= first:
            c.inexact(x, axis)
    for position in (1, 2):
        vector = c.input(node, position)
        if vector is not None:
            broadcast(c, vector, y)


def _all_but_axis(default: int) -> Rule:
    """Every axis passes but the one that the node works along."""

    def rule(c: Couplings, node: ir.Node) -> None:
        x, y = c.input(node, 0), c.output(node)
        if x is None:
            return
        rank = len(x.dims)
        axis = attribute_int(node, "axis", default) % rank
        for other in set(range(rank)) - {axis}:
            c.link(x, other, y, other)

    return rule


def _reduce(c: Couplings, node: ir.Node) -> None:
    x, y = c.input(node, 0), c.output(node)
    axes: list[int] | None = list(attribute_ints(node, "axes") or ())
    if not axes:
        axes = constant_axes(node, 1)
    if x is None or not axes:
        return
    rank = len(x.dims)
    reduced = {a % rank for a in axes}
    kept = [a for a in range(rank) if a not in reduced]
    keepdims = attribute_int(node, "keepdims", 1)
    for place, axis in enumerate(kept):
        c.link(x, axis, y, axis if keepdims else place)


ELEMENTWISE = (
    "Abs", "Add", "And", "BitShift", "Cast", "Ceil", "Celu", "Clip", "Cos", "Div", "Dropout",
    "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid",
    "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max",
    "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu",
    "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Sub", "Sum",
    "Tanh", "ThresholdedRelu", "Where", "Xor", "com.microsoft.BiasGelu", "com.microsoft.FastGelu",
    "com.microsoft.Gelu", "com.microsoft.QuickGelu",
)  # fmt: skip

CHANNELWISE = (
    "AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool",
)  # fmt: skip

REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip

RULES: dict[str, Rule] = {
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _normalise_channels,
    "InstanceNormalization": _normalise_channels,
    "GroupNormalization": _group_normalisation,
    "LayerNormalization": _layer_normalisation,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Gather": gather,
    "Transpose": transpose,
    "Reshape": reshape,
    "Flatten": reshape,
    "Squeeze": reshape,
    "Unsqueeze": reshape,
    "Expand": expand,
    "Pad": pad,
    "Resize": resize,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Softmax": _all_but_axis(-1),
    "LogSoftmax": _all_but_axis(-1),
    "LpNormalization": _all_but_axis(-1),
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(CHANNELWISE, channelwise),
    **dict.fromkeys(REDUCTIONS, _reduce),
}
"""Operator ("domain.Operator" outside of ONNX's own) -> its rule; others block what they touch."""
