"""Graphs from layer tables: as large as what is published, and with the right memory between."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest

from benchmarks.scratchpad_builder import Builder, Value
from benchmarks.scratchpad_graphs import (
    NAMES,
    TABLES,
    build,
    eight_bit,
    normal_cell,
    without_shares,
)
from compress.passes.schedule.baselines import peaks
from compress.passes.schedule.extract import extract
from compress.passes.schedule.problem import Graph, Share

PARAMETERS = {
    # as torchvision 0.15 counts its models (Inception without the auxiliary classifier)
    "MobileNetV2": 3_504_872,
    "ResNet-50": 25_557_032,
    "Inception v3": 23_834_568,
    "DenseNet-121": 7_978_856,
    # trainable ones of Keras' NASNetMobile
    "NASNet-A mobile": 5_289_978,
    # one of the twelve blocks of 85 M parameters
    "ViT-B/16 block": 7_087_872,
}
MACS_M = {
    "MobileNetV2": 300,
    "ResNet-50": 4089,
    "Inception v3": 5713,
    "DenseNet-121": 2834,
    "NASNet-A mobile": 564,
}
"""Millions, from the papers or torchvision's documentation."""


def built(make: Callable[[Builder], Value]) -> tuple[Builder, Graph]:
    net = Builder()
    result = make(net)
    return net, net.graph(result)


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks_have_the_published_parameters(name: str) -> None:
    net, _ = built(TABLES[name])
    assert net.parameters == PARAMETERS[name]


@pytest.mark.parametrize("name", MACS_M)
def test_networks_have_the_published_work(name: str) -> None:
    net, _ = built(TABLES[name])
    assert net.macs / 1e6 == pytest.approx(MACS_M[name], rel=0.02)


@pytest.mark.parametrize("name", TABLES)
def test_everything_that_is_made_is_read_or_kept(name: str) -> None:
    graph = build(name)
    for index, tensor in enumerate(graph.tensors):
        assert graph.consumers[index] or tensor.kept, tensor.name
    assert sum(tensor.kept for tensor in graph.tensors) == 1


def test_the_largest_operator_of_mobilenet_v2() -> None:
    """The depthwise convolution of the second block: 96 channels of 112x112 to 96 of 56x56."""
    graph = build("MobileNetV2")
    assert graph.largest_working_set == 96 * (112 * 112 + 56 * 56)
    assert graph.compulsory_bytes == 3 * 224 * 224 + 1000


def test_a_sum_may_lie_on_an_input_and_parts_in_their_concatenation() -> None:
    net = Builder()
    x = net.input(8, 4, 4)
    one, two = net.conv(x, 8), net.conv(x, 16)
    both = net.concat(net.add(x, one), two)
    add, concat = net.graph(both).operators[-2:]
    assert add.shares == (Share(0, 3, 0), Share(1, 3, 0))
    assert concat.shares == (Share(3, 4, 0), Share(2, 4, 8 * 16))


def test_heads_are_copied_when_they_are_gathered() -> None:
    graph = build("ViT-B/16 block")
    (gather,) = [o for o in graph.operators if o.name.startswith("gather")]
    assert len(gather.inputs) == 12
    assert not gather.shares


def test_shares_lower_the_least_peak_of_cells() -> None:
    net = Builder()
    before, x = net.input(4, 16, 16), net.input(8, 8, 8)
    graph = net.graph(normal_cell(net, x, before, 4))
    with_shares, without = peaks(graph, seconds=1), peaks(without_shares(graph), seconds=1)
    assert with_shares[1] < without[1]
    assert without[0] == graph.largest_working_set


def test_odd_sizes_are_rounded_as_the_frameworks_do() -> None:
    net = Builder()
    x = net.conv(net.input(3, 299, 299), 32, 3, 2, padding=0)
    assert x.shape == (32, 149, 149)
    assert net.conv(x, 16, (1, 7)).shape == (16, 149, 149)
    assert net.pool(x, 3, 2, padding=0).shape == (32, 74, 74)
    assert net.depthwise(x, 5, 2).shape == (32, 75, 75)


MODEL = """
<ir_version: 9, opset_import: ["" : 18]>
agraph (float[1, 2, 4, 4] x) => (float[1, 6, 4, 4] y)
<float[2, 2, 1, 1] w = {1, 0, 0, 1}, float[1, 2, 4, 4] shift = {
  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}>
{
    one = Conv(x, w)
    two = Add(one, shift)
    three = Mul(x, shift)
    y = Concat<axis = 1>(one, two, three)
}
"""


def test_models_count_one_byte_per_element_and_no_weights() -> None:
    from onnx_ir.passes.common import ShapeInferencePass

    model = ShapeInferencePass()(ir.from_onnx_text(MODEL)).model
    graph = eight_bit(extract(model))
    assert [tensor.name for tensor in graph.tensors] == ["x", "one", "two", "three", "y"]
    assert [tensor.bytes for tensor in graph.tensors] == [32, 32, 32, 32, 96]
    assert [operator.workspace for operator in graph.operators] == [0, 0, 0, 0]
    assert graph.compulsory_bytes == 32 + 96
    offsets = {share.input: share.offset for share in graph.operators[-1].shares}
    assert offsets == {1: 0, 2: 32, 3: 64}


def test_names_are_unique() -> None:
    assert len(set(NAMES)) == len(NAMES)
