"""Operators as a scratchpad runs them: which rows they read, and a model of each alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import onnx
import onnx_ir as ir
from onnx import helper

from compress.errors import ModelError
from compress.graph.order import node_label
from compress.graph.traversal import attribute_int, attribute_ints, is_constant, is_op, static_shape
from compress.passes.schedule.extract import ELEMENTWISE
from compress.passes.schedule.kernels import Kernel

ROW_AXIS = 2
"""Of (1, C, H, W) tensors."""

WINDOWED = ("Conv", "MaxPool", "AveragePool", "LpPool")


@dataclasses.dataclass(frozen=True)
class Window:
    """How output rows reach back: row r reads rows r * stride - pad + i * dilation, i < taps."""

    taps: int = 1
    stride: int = 1
    dilation: int = 1
    pad: int = 0

    def rows(self, rows: tuple[int, int]) -> tuple[int, int]:
        """First input row and the one after the last; outside of the input they are padding."""
        first, stop = rows
        last = (stop - 1) * self.stride - self.pad + (self.taps - 1) * self.dilation
        return first * self.stride - self.pad, last + 1


SAME_ROWS = Window()


def window(kernel: Kernel, value: ir.Value) -> Window | None:
    """How rows of a kernel's output depend on rows of one of its inputs.

    None if they depend on all of it, as on the factors of a squeeze-and-excitation.

    Raises:
        ModelError: the operator cannot be computed row by row.
    """
    root = kernel.root
    before = kernel.nodes[: kernel.nodes.index(root)]
    after = kernel.nodes[kernel.nodes.index(root) + 1 :]
    made, read = static_shape(kernel.outputs[0]), static_shape(value)
    fits = (
        len(kernel.outputs) == 1
        and made is not None
        and read is not None
        and len(made) == 4
        and made[0] == 1
        and not root.domain
        and all(is_op(node, "DequantizeLinear") for node in before)
        and all(node.op_type in ELEMENTWISE for node in after)
        and not any(map(_has_rows, _constants(after)))
    )
    if not fits or made is None or read is None:
        raise _not_by_rows(kernel)
    if is_op(root, *WINDOWED):
        # what lies behind the padding does not count, and a stripe cannot tell the two apart
        rounded = attribute_int(root, "ceil_mode", 0) and attribute_int(
            root, "count_include_pad", 0
        )
        if len(read) != 4 or rounded:
            raise _not_by_rows(kernel)
        return _of_root(kernel, read, made)
    if is_op(root, "Concat") and attribute_int(root, "axis", 0) % 4 == 1:
        return SAME_ROWS
    if root.op_type in ELEMENTWISE and not any(map(_has_rows, _constants([root]))):
        height = read[-2] if len(read) > 1 else 1
        if len(read) == 4 and height == made[ROW_AXIS]:
            return SAME_ROWS
        if height == 1:
            return None
    raise _not_by_rows(kernel)


def output_channels(kernel: Kernel) -> int:
    """How many results of a weighted operator depend on a share of the weights each; else 1."""
    shape = static_shape(kernel.root.outputs[0])
    if not shape or not is_op(kernel.root, "Conv", "Gemm", "MatMul"):
        return 1
    return shape[1] if is_op(kernel.root, "Conv") else shape[-1]


def _constants(nodes: Iterable[ir.Node]) -> Iterator[ir.Value]:
    for node in nodes:
        yield from (v for v in node.inputs if v is not None and is_constant(v))


def _has_rows(value: ir.Value) -> bool:
    shape = static_shape(value)
    return shape is not None and len(shape) > 1 and shape[-2] > 1


def _not_by_rows(kernel: Kernel) -> ModelError:
    return ModelError(f"{node_label(kernel.root)} cannot be computed row by row")


def _of_root(kernel: Kernel, read: tuple[int, ...], made: tuple[int, ...]) -> Window:
    taps, strides, dilations = geometry(kernel.root)
    pad = _pads(kernel.root, read, made)[0]
    return Window(taps[0], strides[0], dilations[0], pad)


def geometry(root: ir.Node) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """(kernel shape, strides, dilations) of a windowed operator in two dimensions."""
    taps = attribute_ints(root, "kernel_shape")
    if taps is None:
        weight = static_shape(root.inputs[1])
        taps = weight[2:] if weight is not None else (1, 1)
    strides = attribute_ints(root, "strides") or (1, 1)
    return taps, strides, attribute_ints(root, "dilations") or (1, 1)


def _pads(root: ir.Node, read: tuple[int, ...], made: tuple[int, ...]) -> tuple[int, int, int, int]:
    """(top, left, bottom, right), rounding up included, however the model writes them."""
    taps, strides, dilations = geometry(root)
    given = attribute_ints(root, "pads") or (0, 0, 0, 0)
    attribute = root.attributes.get("auto_pad")
    mode = "NOTSET" if attribute is None else attribute.as_string()
    begin, end = [], []
    for axis in range(2):
        span = (made[2 + axis] - 1) * strides[axis] + (taps[axis] - 1) * dilations[axis] + 1
        total = span - read[2 + axis]
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            total = max(0, total)
            first = total // 2 if mode == "SAME_UPPER" else total - total // 2
        else:
            first = given[axis] if mode != "VALID" else 0
        begin.append(first)
        end.append(max(0, total - first))
    return begin[0], begin[1], end[0], end[1]


def submodel(
    kernel: Kernel,
    model: ir.Model,
    weights: dict[str, bytes],
    border: tuple[int, int] | None = None,
) -> bytes:
    """A serialised model of one kernel: stored inputs in, stored outputs out.

    Args:
        kernel: which.
        model: that it belongs to.
        weights: content of its large constants, by name.
        border: rows of padding above and below, where it computes a stripe; the input's height is
            free then. None: it computes everything, as the model says.
    """
    nodes = [ir.serde.serialize_node(node) for node in kernel.nodes]
    if border is not None and is_op(kernel.root, *WINDOWED):
        _pad_rows(nodes[kernel.nodes.index(kernel.root)], kernel, border)
    inside = {id(value) for node in kernel.nodes for value in node.outputs}
    outer = {id(value) for value in kernel.inputs if str(value.name) not in weights}
    constants: dict[str, onnx.TensorProto] = {}
    for node in kernel.nodes:
        for value in node.inputs:
            if value is None or id(value) in inside | outer or not is_constant(value):
                continue
            constants[str(value.name)] = _constant(value, weights)
    graph = helper.make_graph(
        nodes,
        "kernel",
        [_info(v, border is not None) for v in kernel.inputs if id(v) in outer],
        [_info(value, border is not None) for value in kernel.outputs],
        list(constants.values()),
    )
    opsets = [helper.make_opsetid(domain, v) for domain, v in sorted(model.opset_imports.items())]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version)
    message: bytes = proto.SerializeToString(deterministic=True)
    return message


def _constant(value: ir.Value, weights: dict[str, bytes]) -> onnx.TensorProto:
    tensor = value.const_value
    assert tensor is not None
    content = weights.get(str(value.name))
    if content is None:
        content = tensor.tobytes()
    return onnx.TensorProto(
        name=str(value.name),
        data_type=int(tensor.dtype),
        dims=list(tensor.shape.numpy()),
        raw_data=content,
    )


def _info(value: ir.Value, by_rows: bool) -> onnx.ValueInfoProto:
    assert value.dtype is not None
    shape: list[int | str] = list(static_shape(value) or ())
    if by_rows and len(shape) == 4 and shape[ROW_AXIS] != 1:
        shape[ROW_AXIS] = f"rows_{value.name}"
    return helper.make_tensor_value_info(str(value.name), int(value.dtype), shape)


def _pad_rows(node: onnx.NodeProto, kernel: Kernel, border: tuple[int, int]) -> None:
    """Write the padding of a stripe into a copy of the root."""
    source = kernel.inputs[0]
    read, made = static_shape(source), static_shape(kernel.outputs[0])
    assert read is not None
    assert made is not None
    _, left, _, right = _pads(kernel.root, read, made)
    for attribute in list(node.attribute):
        if attribute.name in ("pads", "auto_pad", "ceil_mode"):
            node.attribute.remove(attribute)
    node.attribute.append(helper.make_attribute("pads", [border[0], left, border[1], right]))
