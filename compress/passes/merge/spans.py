"""Stretches of a network with one way in and one way out, which one operator can take over."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from compress.graph.layers import Layer, find_layers
from compress.graph.traversal import attribute_float, attribute_int, attribute_ints, constant, rank
from compress.passes.merge.algebra import (
    Array,
    LinearMap,
    add,
    compose,
    convolution,
    identity,
    scaled,
)

MOST_LAYERS = 48
MOST_WEIGHTED = 9
"""Of the longest span that is looked at, all layers and those with weights: three inverted
residual blocks, or a block of a transformer."""


@dataclasses.dataclass(frozen=True, eq=False)
class Span:
    """Layers between two values: what reads `source` inside is all that decides `target`.

    Attributes:
        layers: in the graph's order; the last one writes `target`.
        source, target: the span's only activation in, and its only value out.
        sides: other values that layers inside read and that carry no features: masks, positions.
    """

    layers: tuple[Layer, ...]
    source: ir.Value
    target: ir.Value
    sides: tuple[ir.Value, ...] = ()

    @property
    def key(self) -> str:
        """Stable name: of its first and last layer."""
        return f"{self.layers[0].name}..{self.layers[-1].name}"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(layer.name for layer in self.layers)

    @property
    def activations(self) -> tuple[ir.Node, ...]:
        """Activations inside; the one that writes the target is not among them."""
        last = self.layers[-1].activation
        return tuple(x.activation for x in self.layers if x.activation and x.activation is not last)


def find_spans(model: ir.Model, *, most_layers: int = MOST_LAYERS) -> list[Span]:
    """All spans of at least two layers, by their last layer and then by length.

    From each layer backwards the latest value that is still needed is replaced by what its writer
    reads; where a single value is left, it is a dominator: every path from the network's inputs
    leads through it. A span is kept if nobody outside reads what is computed inside, so that the
    target dominates backwards as well. Skips are thereby either whole inside or whole outside.
    """
    layers = find_layers(model)
    position = {layer.name: i for i, layer in enumerate(layers)}
    writer = {id(layer.output): layer for layer in layers if len(layer.node.outputs) == 1}
    featureless = _featureless(model, layers)
    spans = []
    for last in layers:
        if id(last.output) in writer:
            spans += list(_backwards(last, position, writer, featureless, most_layers))
    return spans


def _featureless(model: ir.Model, layers: Sequence[Layer]) -> set[int]:
    """Values that no weighted layer has a part in, and none reads: masks, lengths, positions."""
    roots = {id(value): {id(value)} for value in model.graph.inputs}
    read: set[int] = set()
    for layer in layers:
        known = [roots.get(id(v)) for v in layer.inputs]
        if layer.weight is not None or layer.op in ("Gather", "Conv"):
            # a table of embeddings is a constant operand and makes features
            read.update(*(r for r in known if r is not None and layer.op != "Gather"))
        elif all(r is not None for r in known):
            merged = {root for r in known if r is not None for root in r}
            for value in (*layer.node.outputs, layer.output):
                roots[id(value)] = merged
    return {value for value, own in roots.items() if not own & read}


def _backwards(
    last: Layer,
    position: Mapping[str, int],
    writer: Mapping[int, Layer],
    featureless: set[int],
    most_layers: int,
) -> Iterator[Span]:
    region: dict[str, Layer] = {last.name: last}
    open_values: dict[int, ir.Value] = {id(v): v for v in last.inputs}
    while True:
        features = [v for v in open_values.values() if id(v) not in featureless]
        sides = [v for v in open_values.values() if id(v) in featureless]
        if not features and len(sides) == 1:
            features, sides = sides, []
        if len(features) == 1 and len(region) > 1:
            inside = sorted(region.values(), key=lambda x: position[x.name])
            if _closed(inside, last):
                yield Span(tuple(inside), features[0], last.output, tuple(sides))
        known = [v for v in features if id(v) in writer]
        weighted = sum(layer.weight is not None for layer in region.values())
        if not known or len(region) == most_layers or weighted == MOST_WEIGHTED:
            return
        latest = max(known, key=lambda v: position[writer[id(v)].name])
        layer = writer[id(latest)]
        region[layer.name] = layer
        del open_values[id(latest)]
        open_values.update({id(v): v for v in layer.inputs})


def _closed(inside: Sequence[Layer], last: Layer) -> bool:
    """Whether nobody else reads what the layers but the last one compute."""
    members = {id(node) for layer in inside for node in layer.members}
    for layer in inside:
        for node in layer.members:
            for value in node.outputs:
                if value is last.output:
                    continue
                if value.is_graph_output():
                    return False
                if any(id(use.node) not in members for use in value.uses()):
                    return False
    return True


def folded(span: Span) -> LinearMap | None:
    """The span as one linear map, its inner activations left out; None where it is none.

    All padding moves to the source. `exact` speaks of that alone: where activations were left out
    (`span.activations`) the map is another function anyway.
    """
    return _folded(span, layer_map, None)


def outline(span: Span) -> LinearMap | None:
    """As `folded` with one channel for all: taps and strides, without the cost of the weights."""

    def one_channel(layer: Layer) -> LinearMap | None:
        found = layer_map(layer, outline=True)
        if found is None:
            return None
        ones = np.ones((1, 1, *found.kernel))
        return dataclasses.replace(found, weight=ones, bias=np.zeros(1))

    return _folded(span, one_channel, 1)


def _folded(
    span: Span, mapping: Callable[[Layer], LinearMap | None], channels: int | None
) -> LinearMap | None:
    maps: dict[int, LinearMap] = {}
    for layer in span.layers:
        found = _mapped(layer, span, maps, mapping, channels)
        if found is None:
            return None
        maps[id(layer.output)] = found
    return maps[id(span.target)]


def _mapped(
    layer: Layer,
    span: Span,
    maps: Mapping[int, LinearMap],
    mapping: Callable[[Layer], LinearMap | None],
    channels: int | None,
) -> LinearMap | None:
    if layer.op in ("Add", "Identity") and not layer.node.domain:
        if len(layer.inputs) != sum(v is not None for v in layer.node.inputs):
            # one operand is a constant that no weighted layer took in
            return None
        operands = []
        for value in layer.inputs:
            if value is span.source:
                width = channels or _channels(value)
                axes = _axes(maps, value)
                if width is None or axes is None:
                    return None
                operands.append(identity(width, axes))
            elif id(value) in maps:
                operands.append(maps[id(value)])
            else:
                return None
        return _sum(operands)
    own = mapping(layer)
    if own is None:
        return None
    if layer.inputs[0] is span.source:
        return own
    first = maps.get(id(layer.inputs[0]))
    return None if first is None else compose(first, own)


def _sum(operands: Sequence[LinearMap]) -> LinearMap | None:
    total = operands[0]
    try:
        for operand in operands[1:]:
            total = add(total, operand)
    except ValueError:
        return None
    return total


def _channels(value: ir.Value) -> int | None:
    """How many features a value has: on its second axis, or on the last of a sequence's three."""
    if value.shape is None or len(value.shape) < 2:
        return None
    size = value.shape.dims[channel_axis(value)]
    return size if isinstance(size, int) else None


def _axes(maps: Mapping[int, LinearMap], value: ir.Value) -> int | None:
    """Spatial axes: as those maps have that were met before, else by the value's rank."""
    for known in maps.values():
        return len(known.kernel)
    dims = rank(value)
    if dims is None:
        return None
    return 0 if channel_axis(value) == -1 else max(0, dims - 2)


def channel_axis(value: ir.Value) -> int:
    """1, or -1 where the readers or the writer of a value are matrix products."""
    nodes = [use.node for use in value.uses()]
    producer = value.producer()
    nodes += [producer] if producer is not None else []
    sequence = any(n.op_type in ("MatMul", "LayerNormalization") and not n.domain for n in nodes)
    return -1 if sequence else 1


def layer_map(layer: Layer, *, outline: bool = False) -> LinearMap | None:
    """A weighted layer without its activation as a linear map, or None if it is none.

    Args:
        outline: taps only, of one channel.
    """
    if layer.op == "BatchNormalization":
        return _batch_norm(layer, outline=outline)
    weight, bias = constant(layer.weight), constant(layer.bias)
    if weight is None or weight.dtype.kind != "f" or (layer.bias is not None and bias is None):
        return None
    if outline and layer.op == "Conv":
        return _convolution(layer.node, weight[:1, :1], None, groups=1)
    if layer.op == "Conv":
        return _convolution(layer.node, weight, bias, attribute_int(layer.node, "group", 1))
    bias = None if bias is None else bias.reshape(-1)
    if layer.op == "MatMul" and weight.ndim == 2:
        return convolution(weight.T, bias, strides=(), pads=(), dilations=())
    if layer.op == "Gemm" and not attribute_int(layer.node, "transA", 0):
        factors = (layer.node.attributes.get(name) for name in ("alpha", "beta"))
        if all(factor is None or factor.as_float() == 1.0 for factor in factors):
            matrix = weight if attribute_int(layer.node, "transB", 0) else weight.T
            if bias is not None and bias.size == 1:
                bias = np.broadcast_to(bias, (len(matrix),))
            return convolution(matrix, bias, strides=(), pads=(), dilations=())
    return None


def _batch_norm(layer: Layer, *, outline: bool) -> LinearMap | None:
    """One that no convolution took in: on a skip of its own, as in RepVGG's identity branch."""
    arrays = [constant(value) for value in layer.node.inputs[1:5]]
    axes = rank(layer.inputs[0])
    if axes is None or axes < 2 or any(array is None for array in arrays):
        return None
    scale, shift, mean, variance = (np.asarray(array, np.float64) for array in arrays)
    part = identity(1 if outline else len(scale), axes - 2)
    if outline:
        return part
    factor = scale / np.sqrt(variance + attribute_float(layer.node, "epsilon", 1e-5))
    return scaled(part, factor, shift - mean * factor)


def _convolution(node: ir.Node, weight: Array, bias: Array | None, groups: int) -> LinearMap | None:
    auto = node.attributes.get("auto_pad")
    kind = "NOTSET" if auto is None else auto.as_string()
    if kind not in ("NOTSET", "VALID"):
        return None
    axes = weight.ndim - 2
    pads = attribute_ints(node, "pads") if kind == "NOTSET" else None
    return convolution(
        weight,
        bias,
        strides=attribute_ints(node, "strides") or (1,) * axes,
        pads=pads or (0,) * (2 * axes),
        dilations=attribute_ints(node, "dilations") or (1,) * axes,
        groups=groups,
    )
