"""Narrow convolutions compute several neighbouring positions as channels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.graph.base import Pass
from compress.graph.layers import Layer, find_layers
from compress.graph.name_values import NameValues
from compress.graph.traversal import attribute_int, attribute_ints, constant, new_initializer

Array = npt.NDArray[Any]

FACTORS = (2, 4, 8, 16)
MOST_CHANNELS = 64
"""Output channels beyond which no kernel lacks work."""

MOST_OVERHEAD = 6.0
"""Multiply-accumulates, those by padded zeros included, over those of the convolution as given."""


@dataclasses.dataclass(frozen=True)
class Widening:
    """`factor` neighbours along spatial axis `axis` (0 is the first) become channels."""

    axis: int
    factor: int


@dataclasses.dataclass(frozen=True)
class WidenConvolutions(Pass):
    """A convolution with few output channels becomes one with many and larger steps.

    Given:   y = Conv<strides = [1, 1]>(x, W, b)                W (1, 8, 5, 5), y (N, 1, H, 264)
    Result:  c = Conv<strides = [1, 4]>(x, W', b')              W' (4, 8, 5, 8), c (N, 4, H, 66)
             y = Reshape(Transpose(Reshape(c, [N, 1, 4, H, 66])), [N, 1, H, 264])

    Kernels work on 8 or 16 output channels at once, however many there are: a convolution with one
    wastes the rest, and one with eight has too little to do per value that it loads. Channel s of
    the result is the kernel moved by s strides, with zeros where others need their taps: the same
    sums, in another order. An output whose size is no multiple is computed to the next one and cut.

    1. The size of the input along the axis is a number; other dimensions may be dynamic.
    2. One group, no dilation along the axis; activations stay directly behind the convolution.

    Attributes:
        widenings: layer name -> how; layers that are not named or cannot be widened stay.
    """

    name: ClassVar[str] = "widen-convolutions"

    widenings: Mapping[str, Widening]

    def run(self, model: ir.Model) -> bool:
        changed = False
        for layer in find_layers(model):
            widening = self.widenings.get(layer.name)
            if widening is not None and widening in possible_widenings(layer):
                _rewrite(model.graph, layer, widening)
                changed = True
        if changed:
            NameValues().run(model)
        return changed


def possible_widenings(layer: Layer) -> tuple[Widening, ...]:
    """Those that are worth measuring; none for most layers."""
    return tuple(_possible(layer))


def _possible(layer: Layer) -> Iterator[Widening]:
    weight = constant(layer.weight) if layer.op == "Conv" else None
    if weight is None or weight.dtype != np.float32 or weight.ndim not in (3, 4):
        return
    auto = layer.node.attributes.get("auto_pad")
    if attribute_int(layer.node, "group", 1) != 1 or (auto and auto.as_string() != "NOTSET"):
        return
    if layer.bias is not None and constant(layer.bias) is None:
        return
    for axis in range(weight.ndim - 2):
        geometry = _geometry(layer, axis)
        if geometry is None:
            continue
        for factor in FACTORS:
            taps = geometry.kernel + (factor - 1) * geometry.stride
            fits = weight.shape[0] * factor <= MOST_CHANNELS and geometry.outputs >= 2 * factor
            if fits and taps <= MOST_OVERHEAD * geometry.kernel:
                yield Widening(axis, factor)


@dataclasses.dataclass(frozen=True)
class _Geometry:
    """Of a convolution along one axis: sizes in positions."""

    inputs: int
    kernel: int
    stride: int
    before: int
    after: int

    @property
    def outputs(self) -> int:
        return (self.inputs + self.before + self.after - self.kernel) // self.stride + 1


def _geometry(layer: Layer, axis: int) -> _Geometry | None:
    source, weight = layer.inputs[0], constant(layer.weight)
    if source.shape is None or weight is None:
        return None
    count = weight.ndim - 2
    size: object = source.shape.dims[2 + axis]
    dilations = attribute_ints(layer.node, "dilations") or (1,) * count
    if not isinstance(size, int) or dilations[axis] != 1:
        return None
    pads = attribute_ints(layer.node, "pads") or (0,) * (2 * count)
    strides = attribute_ints(layer.node, "strides") or (1,) * count
    return _Geometry(size, weight.shape[2 + axis], strides[axis], pads[axis], pads[count + axis])


def _rewrite(graph: ir.Graph, layer: Layer, widening: Widening) -> None:
    node, axis, factor = layer.node, widening.axis, widening.factor
    weight, geometry = constant(layer.weight), _geometry(layer, axis)
    assert weight is not None
    assert geometry is not None
    assert layer.weight is not None
    count, channels = weight.ndim - 2, weight.shape[0]
    blocks = -(-geometry.outputs // factor)
    wide = widen_weight(weight, axis, factor, geometry.stride)

    # the convolution, in place: its name and what follows it directly stay
    node.replace_input_with(1, new_initializer(graph, f"{layer.weight.name}.wide", wide))
    bias = constant(layer.bias)
    if bias is not None and layer.bias is not None:
        repeated = np.repeat(bias, factor)
        node.replace_input_with(2, new_initializer(graph, f"{layer.bias.name}.wide", repeated))
    pads = list(attribute_ints(node, "pads") or (0,) * (2 * count))
    strides = list(attribute_ints(node, "strides") or (1,) * count)
    strides[axis] *= factor
    reach = (blocks - 1) * strides[axis] + wide.shape[2 + axis]
    # never negative: the last block's first output already reads up to the end or beyond
    pads[count + axis] = max(0, reach - geometry.inputs - geometry.before)
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    node.attributes["strides"] = ir.AttrInt64s("strides", strides)
    if "kernel_shape" in node.attributes:
        node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", list(wide.shape[2:]))
    for value in (layer.weight, layer.bias):
        if value is not None and not value.uses() and not value.is_graph_output():
            graph.initializers.pop(str(value.name), None)

    _reorder(graph, layer, axis, factor, channels, blocks, geometry.outputs, count)


def widen_weight(weight: Array, axis: int, factor: int, stride: int) -> Array:
    """(out, in, *kernel) -> (out * factor, in, *kernel), longer by (factor - 1) strides at `axis`.

    Output channel `m * factor + s` is channel m moved by s strides.
    """
    taps = weight.shape[2 + axis]
    shape = list(weight.shape)
    shape[2 + axis] = taps + (factor - 1) * stride
    wide = np.zeros((shape[0], factor, *shape[1:]), weight.dtype)
    for shift in range(factor):
        window: list[Any] = [slice(None)] * weight.ndim
        window[2 + axis] = slice(shift * stride, shift * stride + taps)
        wide[(slice(None), shift, *window[1:])] = weight
    return wide.reshape(shape[0] * factor, *shape[1:])


def _reorder(
    graph: ir.Graph,
    layer: Layer,
    axis: int,
    factor: int,
    channels: int,
    blocks: int,
    outputs: int,
    count: int,
) -> None:
    """Channels back to positions, behind the layer's activation; everybody reads the result."""
    old = layer.output
    shape, name, readers = old.shape, str(old.name), list(old.uses())
    # (N, M * factor, ..., blocks, ...) -> (N, M, factor, ..., blocks, ...)
    split = [0, channels, factor] + [-1] * count
    split[3 + axis] = blocks
    join = [0, channels] + [-1] * count
    join[2 + axis] = blocks * factor
    order = [0, 1, *(3 + i for i in range(count))]
    order.insert(3 + axis, 2)
    nodes = [ir.node("Reshape", [old, _sizes(graph, f"{name}.split.sizes", split)])]
    nodes.append(ir.node("Transpose", [nodes[-1].outputs[0]], {"perm": order}))
    nodes.append(
        ir.node("Reshape", [nodes[-1].outputs[0], _sizes(graph, f"{name}.join.sizes", join)])
    )
    if blocks * factor != outputs:
        ends = [_sizes(graph, f"{name}.cut.{k}", [v]) for k, v in
                (("start", 0), ("end", outputs), ("axis", 2 + axis))]  # fmt: skip
        nodes.append(ir.node("Slice", [nodes[-1].outputs[0], *ends]))
    for label, node in zip(("split", "swap", "join", "cut"), nodes, strict=False):
        node.name = f"{layer.name}.{label}"
        node.outputs[0].name = f"{name}.{label}"
        node.outputs[0].type = old.type
    result = nodes[-1].outputs[0]
    result.shape = shape
    old.shape = layer.node.outputs[0].shape = None
    producer = old.producer()
    assert producer is not None
    graph.insert_after(producer, nodes)
    for usage in readers:
        usage.node.replace_input_with(usage.idx, result)
    place = next((i for i, v in enumerate(graph.outputs) if v is old), None)
    old.name = f"{name}.wide"
    result.name = name
    if place is not None:
        graph.outputs[place] = result


def _sizes(graph: ir.Graph, name: str, numbers: list[int]) -> ir.Value:
    return new_initializer(graph, name, np.array(numbers, np.int64))
