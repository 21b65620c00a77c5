"""From a model's kernels to operators whose rows are known."""

from __future__ import annotations

import onnx_ir as ir

from compress.graph.traversal import (
    attribute_int,
    attribute_ints,
    is_constant,
    is_op,
    static_shape,
)
from compress.passes.schedule.extract import ELEMENTWISE, Extracted
from compress.passes.schedule.kernels import Kernel, value_bytes
from compress.passes.schedule.tiling.operators import Plane, StripedGraph, StripedOperator
from compress.passes.schedule.tiling.rows import Window

ROW_AXIS = 2
WINDOWED = ("Conv", "MaxPool", "AveragePool", "LpPool")


def striped(extracted: Extracted) -> StripedGraph:
    """The operators and planes of a model, in its order.

    Convolutions and poolings in two dimensions, elementwise operators and concatenations of
    channels run row by row where all values are (1, C, H, W), or have one row that all others
    share. Everything else needs its inputs as a whole. Planes are named after values, operators
    after kernels.
    """
    kept = {number for number in extracted.results.values() if number is not None}
    planes: dict[str, Plane] = {}
    weights = {id(weight) for kernel in extracted.kernels for weight in kernel.weights}
    for number, value in enumerate(extracted.values):
        if id(value) not in weights:
            external = value.producer() is None
            planes[str(value.name)] = _plane(value, external, number in kept)
    return StripedGraph(tuple(_operator(kernel) for kernel in extracted.kernels), planes)


def _plane(value: ir.Value, external: bool, kept: bool) -> Plane:
    shape = static_shape(value) or ()
    size = value_bytes(value)
    if len(shape) == 4 and shape[0] == 1 and size % (shape[1] * shape[2] * shape[3]) == 0:
        _, channels, height, width = shape
        element = size // (channels * height * width)
        return Plane(str(value.name), channels, height, width, element, external, kept)
    return Plane(str(value.name), size, 1, 1, 1, external, kept)


def _operator(kernel: Kernel) -> StripedOperator:
    window = _window(kernel)
    pointwise = window is None and _pointwise(kernel)
    return StripedOperator(
        kernel.name,
        "window" if window else "pointwise" if pointwise else "whole",
        tuple(str(value.name) for value in kernel.inputs),
        tuple(str(value.name) for value in kernel.outputs),
        window or Window(),
        tuple((str(weight.name), value_bytes(weight)) for weight in kernel.weights),
        _blocks(kernel),
    )


def _by_rows(kernel: Kernel) -> bool:
    """Whether its result has rows, and what surrounds the root does not mix them."""
    root = kernel.nodes.index(kernel.root)
    made = static_shape(kernel.outputs[0])
    return (
        len(kernel.outputs) == 1
        and made is not None
        and len(made) == 4
        and made[0] == 1
        and not kernel.root.domain
        and all(is_op(node, "DequantizeLinear") for node in kernel.nodes[:root])
        and all(node.op_type in ELEMENTWISE for node in kernel.nodes[root + 1 :])
    )


def _window(kernel: Kernel) -> Window | None:
    node = kernel.root
    if not is_op(node, *WINDOWED) or not _by_rows(kernel) or len(kernel.inputs) != 1:
        return None
    read, made = static_shape(kernel.inputs[0]), static_shape(kernel.outputs[0])
    shape = attribute_ints(node, "kernel_shape")
    if shape is None:
        shape = (static_shape(node.inputs[1]) or ())[2:]
    if read is None or made is None or len(read) != 4 or read[0] != 1 or len(shape) != 2:
        return None
    if attribute_int(node, "ceil_mode", 0) and attribute_int(node, "count_include_pad", 0):
        # what lies behind the padding does not count, and a stripe cannot tell them apart
        return None
    stride = (attribute_ints(node, "strides") or (1, 1))[0]
    dilation = (attribute_ints(node, "dilations") or (1, 1))[0]
    reach = (made[ROW_AXIS] - 1) * stride + (shape[0] - 1) * dilation + 1
    attribute = node.attributes.get("auto_pad")
    mode = "NOTSET" if attribute is None else attribute.as_string()
    total = max(0, reach - read[ROW_AXIS])
    padding = {"SAME_UPPER": total // 2, "SAME_LOWER": total - total // 2, "VALID": 0}.get(
        mode, (attribute_ints(node, "pads") or (0, 0, 0, 0))[0]
    )
    return Window(shape[0], stride, dilation, padding)


def _pointwise(kernel: Kernel) -> bool:
    node = kernel.root
    if not _by_rows(kernel):
        return False
    shapes = [static_shape(value) for value in kernel.inputs]
    if is_op(node, "Concat"):
        whole = all(shape is not None and len(shape) == 4 for shape in shapes)
        return whole and attribute_int(node, "axis", 0) % 4 == 1
    if node.op_type not in ELEMENTWISE:
        return False
    made = static_shape(kernel.outputs[0])
    constants = [static_shape(v) for n in kernel.nodes for v in n.inputs if is_constant(v)]
    heights = [shape[-2] if shape and len(shape) > 1 else 1 for shape in shapes]
    return (
        made is not None
        and all(
            height == 1 or (shape is not None and len(shape) == 4 and height == made[ROW_AXIS])
            for height, shape in zip(heights, shapes, strict=True)
        )
        and all(shape is None or len(shape) < 2 or shape[-2] == 1 for shape in constants)
    )


def _blocks(kernel: Kernel) -> int:
    """Output channels, of operators that compute them one after the other."""
    if not kernel.weights or not is_op(kernel.root, "Conv", "Gemm", "MatMul"):
        return 1
    shape = static_shape(kernel.root.outputs[0])
    if not shape:
        return 1
    return shape[1] if is_op(kernel.root, "Conv") and len(shape) > 1 else shape[-1]
