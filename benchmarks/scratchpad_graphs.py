"""Real networks as graphs of operators, for the scheduler: from their published layer tables, and
from the zoo's models. Activations of 8 bits; weights take no scratchpad.

Operators come in the order in which the reference implementations run them.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.scratchpad_builder import Builder, Value
from benchmarks.tflite.networks import MOBILENET_V2_STAGES
from benchmarks.zoo import basic_pitch, ocr_det
from compress.passes.schedule.extract import Extracted, extract
from compress.passes.schedule.problem import Graph, Operator, Share
from compress.stages.inspection import Source

CLASSES = 1000

# (channels, blocks) of the 50-layer column, Table 1 of "Deep Residual Learning for Image
# Recognition" (CVPR 2016).
RESNET50 = ((64, 3), (128, 4), (256, 6), (512, 3))
# Layers per dense block at growth 32, Table 1 of "Densely Connected Convolutional Networks"
# (CVPR 2017).
DENSENET121 = (6, 12, 24, 16)
GROWTH = 32


def mobilenet_v2(net: Builder) -> Value:
    """MobileNetV2-1.0 at 224x224."""
    x = net.conv(net.input(3, 224, 224), 32, 3, 2)
    for expand, channels, blocks, stride in MOBILENET_V2_STAGES:
        for number in range(blocks):
            y = net.conv(x, expand * x.channels) if expand > 1 else x
            y = net.depthwise(y, 3, stride if number == 0 else 1)
            y = net.conv(y, channels)
            x = net.add(x, y) if y.shape == x.shape else y
    return net.linear(net.global_pool(net.conv(x, 1280)), CLASSES)


def resnet50(net: Builder) -> Value:
    """ResNet-50 at 224x224, the stride in the 3x3 convolutions."""
    x = net.pool(net.conv(net.input(3, 224, 224), 64, 7, 2), 3, 2)
    for stage, (channels, blocks) in enumerate(RESNET50):
        for number in range(blocks):
            stride = 2 if number == 0 and stage > 0 else 1
            y = net.conv(x, channels)
            y = net.conv(y, channels, 3, stride)
            y = net.conv(y, 4 * channels)
            if y.shape != x.shape:
                x = net.conv(x, 4 * channels, 1, stride)
            x = net.add(y, x)
    return net.linear(net.global_pool(x), CLASSES)


def densenet_block(net: Builder, x: Value, layers: int) -> Value:
    """Every layer reads the concatenation of all that came before it in the block."""
    features = [x]
    for number in range(layers):
        y = net.concat(*features) if number else x
        y = net.activation(y, norm=True)
        y = net.conv(y, 4 * GROWTH)
        features.append(net.conv(y, GROWTH, 3, norm=False))
    return net.concat(*features)


def densenet121(net: Builder) -> Value:
    """DenseNet-121 at 224x224."""
    x = net.pool(net.conv(net.input(3, 224, 224), 64, 7, 2), 3, 2)
    for number, layers in enumerate(DENSENET121):
        x = net.activation(densenet_block(net, x, layers), norm=True)
        if number < len(DENSENET121) - 1:
            x = net.pool(net.conv(x, x.channels // 2, norm=False), 2, 2, padding=0)
    return net.linear(net.global_pool(x), CLASSES)


def inception_v3(net: Builder) -> Value:
    """Inception v3 at 299x299 without its auxiliary classifier ("Rethinking the Inception
    Architecture for Computer Vision", CVPR 2016)."""
    x = net.conv(net.input(3, 299, 299), 32, 3, 2, padding=0)
    x = net.conv(net.conv(x, 32, 3, padding=0), 64, 3)
    x = net.pool(x, 3, 2, padding=0)
    x = net.conv(net.conv(x, 80), 192, 3, padding=0)
    x = net.pool(x, 3, 2, padding=0)
    x = inception_a(net, x)
    wide = net.conv(x, 384, 3, 2, padding=0)
    double = net.conv(net.conv(net.conv(x, 64), 96, 3), 96, 3, 2, padding=0)
    x = net.concat(wide, double, net.pool(x, 3, 2, padding=0))
    x = inception_c(net, x)
    wide = net.conv(net.conv(x, 192), 320, 3, 2, padding=0)
    long = net.conv(net.conv(net.conv(x, 192), 192, (1, 7)), 192, (7, 1))
    long = net.conv(long, 192, 3, 2, padding=0)
    x = net.concat(wide, long, net.pool(x, 3, 2, padding=0))
    for _ in range(2):
        single = net.conv(x, 320)
        wide = net.conv(x, 384)
        wide = net.concat(net.conv(wide, 384, (1, 3)), net.conv(wide, 384, (3, 1)))
        double = net.conv(net.conv(x, 448), 384, 3)
        double = net.concat(net.conv(double, 384, (1, 3)), net.conv(double, 384, (3, 1)))
        x = net.concat(single, wide, double, net.conv(net.pool(x, 3, 1), 192))
    return net.linear(net.global_pool(x), CLASSES)


def inception_a(net: Builder, x: Value) -> Value:
    """The three modules at 35x35."""
    for pooled in (32, 64, 64):
        single = net.conv(x, 64)
        wide = net.conv(net.conv(x, 48), 64, 5)
        double = net.conv(net.conv(net.conv(x, 64), 96, 3), 96, 3)
        x = net.concat(single, wide, double, net.conv(net.pool(x, 3, 1), pooled))
    return x


def inception_c(net: Builder, x: Value) -> Value:
    """The four modules at 17x17."""
    for inner in (128, 160, 160, 192):
        single = net.conv(x, 192)
        wide = net.conv(net.conv(net.conv(x, inner), inner, (1, 7)), 192, (7, 1))
        double = net.conv(net.conv(net.conv(x, inner), inner, (7, 1)), inner, (1, 7))
        double = net.conv(net.conv(double, inner, (7, 1)), 192, (1, 7))
        x = net.concat(single, wide, double, net.conv(net.pool(x, 3, 1), 192))
    return x


def nasnet_mobile(net: Builder) -> Value:
    """NASNet-A (4 @ 1056) at 224x224 ("Learning Transferable Architectures for Scalable Image
    Recognition", CVPR 2018)."""
    x = net.conv(net.input(3, 224, 224), 32, 3, 2, padding=0)
    before, x = x, reduction_cell(net, x, None, 11)
    before, x = x, reduction_cell(net, x, before, 22)
    for stage, filters in enumerate((44, 88, 176)):
        if stage:
            before, x = x, reduction_cell(net, x, before, filters)
        for _ in range(4):
            before, x = x, normal_cell(net, x, before, filters)
    return net.linear(net.global_pool(x), CLASSES)


def normal_cell(net: Builder, x: Value, before: Value, filters: int) -> Value:
    """Of the outputs of the two cells before it. The poolings of `before` that the cell adds to
    each other are one operator."""
    p = _adjusted(net, before, x, filters)
    h = net.conv(x, filters)
    blocks = [p]
    blocks.append(net.add(separable(net, h, filters, 5), separable(net, p, filters, 3)))
    blocks.append(net.add(separable(net, p, filters, 5), separable(net, p, filters, 3)))
    blocks.append(net.add(net.pool(h, 3, 1), p))
    blocks.append(net.pool(p, 3, 1))
    blocks.append(net.add(separable(net, h, filters, 3), h))
    return net.concat(*blocks)


def reduction_cell(net: Builder, x: Value, before: Value | None, filters: int) -> Value:
    """Half the height and width. The first cell reads `x` twice."""
    p = x if before is None else _adjusted(net, before, x, filters)
    h = net.conv(x, filters)
    one = net.add(separable(net, h, filters, 5, 2), separable(net, p, filters, 7, 2))
    two = net.add(net.pool(h, 3, 2), separable(net, p, filters, 7, 2))
    three = net.add(net.pool(h, 3, 2), separable(net, p, filters, 5, 2))
    four = net.add(two, net.pool(one, 3, 1))
    five = net.add(separable(net, one, filters, 3), net.pool(h, 3, 2))
    return net.concat(two, three, four, five)


def separable(net: Builder, x: Value, filters: int, kernel: int, stride: int = 1) -> Value:
    """Depthwise and pointwise, twice."""
    x = net.conv(net.depthwise(x, kernel, stride, norm=False), filters)
    return net.conv(net.depthwise(x, kernel, norm=False), filters)


def _adjusted(net: Builder, before: Value, x: Value, filters: int) -> Value:
    """What the cell before the last one made, with this cell's shape."""
    if before.shape[1:] != x.shape[1:]:
        halves = [net.conv(net.pool(before, 1, 2), filters // 2, norm=False) for _ in range(2)]
        net.parameters += 2 * sum(half.channels for half in halves)
        return net.concat(*halves)
    return before if before.channels == filters else net.conv(before, filters)


def vit_block(net: Builder) -> Value:
    """A block of ViT-B/16 at 224x224 ("An Image is Worth 16x16 Words", ICLR 2021): 197 tokens of
    768 features, twelve heads one after the other."""
    tokens, features, heads = 197, 768, 12
    x = net.input(tokens, features)
    y = net.layer_norm(x)
    found = []
    for _ in range(heads):
        query, key, value = (net.linear(y, features // heads) for _ in range(3))
        weights = net.softmax(net.matmul(query, key, (tokens, tokens)))
        found.append(net.matmul(weights, value, (tokens, features // heads)))
    merged = net.gather(found, (tokens, features))
    x = net.add(net.linear(merged, features), x)
    y = net.linear(net.linear(net.layer_norm(x), 4 * features), features)
    return net.add(y, x)


def inception_a_stage(net: Builder) -> Value:
    return inception_a(net, net.input(192, 35, 35))


def inception_c_stage(net: Builder) -> Value:
    return inception_c(net, net.input(768, 17, 17))


def densenet_stage(net: Builder) -> Value:
    return densenet_block(net, net.input(128, 28, 28), DENSENET121[1])


def nasnet_stage(net: Builder) -> Value:
    """The four cells at 28x28."""
    before, x = net.input(44, 56, 56), net.input(88, 28, 28)
    for _ in range(4):
        before, x = x, normal_cell(net, x, before, 44)
    return x


TABLES: Mapping[str, Callable[[Builder], Value]] = {
    "MobileNetV2": mobilenet_v2,
    "ResNet-50": resnet50,
    "Inception v3": inception_v3,
    "Inception v3, 35x35": inception_a_stage,
    "Inception v3, 17x17": inception_c_stage,
    "DenseNet-121": densenet121,
    "DenseNet-121, 28x28": densenet_stage,
    "NASNet-A mobile": nasnet_mobile,
    "NASNet-A mobile, 28x28": nasnet_stage,
    "ViT-B/16 block": vit_block,
}

ZOO: Mapping[str, tuple[Callable[[], Path], Mapping[str, Sequence[int]]]] = {
    "PP-OCRv4 det, 640x640": (ocr_det.model_path, {"x": (1, 3, 640, 640)}),
    "Basic Pitch": (basic_pitch.model_path, {basic_pitch.INPUT: (1, basic_pitch.WINDOW, 1)}),
}

NAMES = (*TABLES, *ZOO)


def build(name: str) -> Graph:
    """The graph of one of `NAMES`."""
    if name in ZOO:
        find, shapes = ZOO[name]
        return from_model(find(), shapes)
    net = Builder()
    result = TABLES[name](net)
    return net.graph(result)


def from_model(path: Path, shapes: Mapping[str, Sequence[int]]) -> Graph:
    """The graph of a float model whose activations are quantized to 8 bits."""
    with tempfile.TemporaryDirectory(prefix="compress-") as scratch:
        model = Source(shapes=shapes).open(path, Path(scratch), allow_quantized=True).model
        return eight_bit(extract(model))


def eight_bit(extracted: Extracted) -> Graph:
    """One byte per element, no weights: neither as workspace nor as tensors."""
    graph = extracted.graph
    kept = [t for t, value in enumerate(extracted.values) if not value.is_initializer()]
    number = {tensor: index for index, tensor in enumerate(kept)}
    widths = [1 if v.dtype is None else v.dtype.itemsize for v in extracted.values]
    operators = [
        Operator(
            operator.name,
            tuple(number[i] for i in operator.inputs if i in number),
            tuple(number[i] for i in operator.outputs),
            shares=tuple(
                Share(number[s.input], number[s.output], int(s.offset // widths[s.output]))
                for s in operator.shares
                if s.input in number
            ),
        )
        for operator in graph.operators
    ]
    tensors = [
        dataclasses.replace(graph.tensors[t], bytes=int(graph.tensors[t].bytes // widths[t]))
        for t in kept
    ]
    return Graph(tuple(operators), tuple(tensors))


def without_shares(graph: Graph) -> Graph:
    """Every input beside its output, as COSMA has it."""
    operators = tuple(dataclasses.replace(o, shares=()) for o in graph.operators)
    return Graph(operators, graph.tensors)
