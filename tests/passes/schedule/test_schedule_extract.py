"""From a model to the scheduling problem: operators, sizes, and what may share memory."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import scratchpad_networks as networks
import small_networks
from small_networks import floats

from compress.errors import ModelError
from compress.passes.schedule.extract import Extracted, extract
from compress.passes.schedule.kernels import order_nodes
from compress.passes.schedule.problem import Share


def sizes(found: Extracted) -> dict[str, int]:
    return {tensor.name: tensor.bytes for tensor in found.graph.tensors}


def shares(found: Extracted, operator: str) -> dict[str, int]:
    """By input, its offset in the output."""
    own = next(o for o in found.graph.operators if o.name == operator)
    return {found.graph.tensors[s.input].name: s.offset for s in own.shares}


def test_layers_become_operators_with_their_weights() -> None:
    found = extract(networks.cnn())
    names = [o.name for o in found.graph.operators]
    assert names == ["a", "c", "s", "d", "g", "scores"]
    assert [k.root.op_type for k in found.kernels][:2] == ["Conv", "Conv"]
    assert [len(k.nodes) for k in found.kernels] == [2, 2, 1, 2, 1, 2]
    image = 32 * 12 * 12 * 4
    assert sizes(found) == {
        "image": 3 * 144 * 4, "r1": image, "r2": image, "s": image, "r4": image,
        "g": 128, "scores": 40,
    }  # fmt: skip
    first, second = found.graph.operators[:2]
    assert first.workspace == first.streamed == (32 * 27 + 32) * 4
    assert second.streamed == (32 * 32 * 9 + 32) * 4
    by_name = {t.name: t for t in found.graph.tensors}
    assert [t for t, own in by_name.items() if own.external] == ["image"]
    assert [t for t, own in by_name.items() if own.kept] == ["scores"]


def test_elementwise_operators_may_write_over_inputs_of_their_size() -> None:
    found = extract(networks.cnn())
    assert shares(found, "s") == {"r1": 0, "r2": 0}
    assert shares(found, "a") == {}


def test_a_broadcast_input_cannot_be_written_over() -> None:
    found = networks.extracted(
        "g (float[1,4,3,3] x, float[1,4,1,1] f) => (float[1,4,3,3] y) { y = Mul(x, f) }"
    )
    assert shares(found, found.graph.operators[0].name) == {"x": 0}


def test_dequantize_operator_quantize_is_one_operator_on_bytes() -> None:
    found = extract(networks.int8(networks.cnn()))
    kinds = [kernel.root.op_type for kernel in found.kernels]
    assert kinds[:6] == ["QuantizeLinear", "Conv", "Conv", "Add", "Conv", "GlobalAveragePool"]
    image = 32 * 12 * 12
    assert list(sizes(found).values())[:6] == [3 * 144 * 4, 3 * 144, image, image, image, image]
    assert [kernel.nodes[-1].op_type for kernel in found.kernels][:5] == ["QuantizeLinear"] * 5
    conv = next(
        o for o, k in zip(found.graph.operators, found.kernels, strict=True) if o.name == "c"
    )
    assert conv.streamed == 32 * 32 * 9 + 32 * 4, "int8 weights and an int32 bias"
    add = found.graph.operators[kinds.index("Add")]
    assert len(add.shares) == 2


def test_the_bias_of_an_integer_product_belongs_to_it() -> None:
    found = networks.extracted(
        "g (uint8[1,20] x) => (uint8[1,30] y) {"
        " a = DequantizeLinear(x, s, z) v = DequantizeLinear(w, s, i)"
        " b = MatMul(a, v) c = Add(bias, b) d = Relu(c) y = QuantizeLinear(d, s, z) }",
        s=np.float32(0.1),
        z=np.uint8(0),
        i=np.int8(0),
        w=np.ones((20, 30), np.int8),
        bias=floats(30),
    )
    (kernel,) = found.kernels
    kinds = [node.op_type for node in kernel.nodes]
    assert kinds[2:] == ["MatMul", "Add", "Relu", "QuantizeLinear"]
    assert found.graph.operators[0].streamed == 600 + 120
    assert sizes(found) == {"x": 20, "y": 30}


def test_views_are_their_source() -> None:
    found = networks.extracted(
        "g (float[2,6] x) => (float[3,4] y, float[12] z) {"
        " a = Relu(x) b = Reshape(a, s) y = Neg(b) z = Reshape(a, t) }",
        s=np.array([3, 4]),
        t=np.array([12]),
    )
    assert [o.name for o in found.graph.operators] == ["a", "y"]
    assert sizes(found) == {"x": 48, "a": 48, "y": 48}
    place = {
        name: found.graph.tensors[i].name for name, i in found.results.items() if i is not None
    }
    assert place == {"y": "y", "z": "a"}
    assert [t.name for t in found.graph.tensors if t.kept] == ["a", "y"]
    assert shares(found, "y") == {"a": 0}


def test_a_view_of_a_network_input_is_never_stored() -> None:
    found = networks.extracted(
        "g (float[2,6] x) => (float[3,4] y, float[2,6] z) { y = Reshape(x, s) z = Relu(x) }",
        s=np.array([3, 4]),
    )
    assert found.graph.compulsory_bytes == 2 * 48
    assert found.results["y"] == 0


def test_a_dequantized_network_output_has_an_operator_of_its_own() -> None:
    found = networks.extracted(
        "g (uint8[4] x) => (float[4] y, float[2,2] z) {"
        " y = DequantizeLinear(x, scale, zero) d = DequantizeLinear(x, scale2, zero)"
        " z = Reshape(d, s) }",
        scale=np.float32(0.5),
        scale2=np.float32(0.25),
        zero=np.uint8(3),
        s=np.array([2, 2]),
    )
    assert sizes(found) == {"x": 4, "y": 16, "z": 16}
    assert [[n.op_type for n in k.nodes] for k in found.kernels] == [
        ["DequantizeLinear"],
        ["DequantizeLinear", "Reshape"],
    ]


def test_weights_that_several_operators_read_are_tensors() -> None:
    weight = floats(20, 20)
    found = networks.extracted(
        "g (float[1,20] x) => (float[1,20] y) { a = MatMul(x, w) y = MatMul(a, w) }", w=weight
    )
    assert sizes(found)["w"] == weight.nbytes
    assert all(o.streamed == 0 for o in found.graph.operators)
    assert found.graph.compulsory_bytes == weight.nbytes + 2 * 80
    tensor = next(t for t in found.graph.tensors if t.name == "w")
    assert tensor.external


def test_small_constants_and_scales_are_code() -> None:
    found = networks.extracted(
        "g (float[1,16] x) => (float[1,16] y) { a = Add(x, small) y = Add(a, large) }",
        small=floats(16),
        large=floats(1, 16),
    )
    assert [o.streamed for o in found.graph.operators] == [0, 0]
    found = networks.extracted(
        "g (float[1,17] x) => (float[1,17] y) { y = Add(x, c) }", c=floats(17)
    )
    assert [o.streamed for o in found.graph.operators] == [68]


def test_of_a_table_only_the_rows_that_are_looked_up_are_moved() -> None:
    found = networks.extracted(
        "g (int64[1,3] ids) => (float[1,3,40] y) { a = Gather(table, ids) y = Neg(a) }",
        table=floats(500, 40),
    )
    gather = found.graph.operators[0]
    assert (gather.workspace, gather.streamed) == (0, 3 * 40 * 4)
    assert found.graph.compulsory_bytes == 24 + 2 * 480
    integers = networks.extracted(
        "g (int64[1,3] ids) => (float[1,3,40] y) {"
        " t = DequantizeLinear(table, s, z) y = Gather(t, ids) }",
        table=np.ones((500, 40), np.int8),
        s=np.float32(0.1),
        z=np.int8(0),
    )
    assert integers.graph.operators[0].streamed == 3 * 40
    other = networks.extracted(
        "g (int64[3] ids) => (float[500,3] y) { y = Gather<axis = 1>(table, ids) }",
        table=floats(500, 40),
    )
    assert other.graph.operators[0].streamed == 500 * 40 * 4


@pytest.mark.parametrize(("axis", "offsets"), [(1, {"a": 0, "b": 32}), (0, {"a": 0, "b": 32})])
def test_parts_of_a_concatenation_lie_in_it(axis: int, offsets: dict[str, int]) -> None:
    shape = "float[1,5,4] y" if axis == 1 else "float[5,1,4] y"
    part = {1: ("1,2,4", "1,3,4"), 0: ("2,1,4", "3,1,4")}[axis]
    found = networks.extracted(
        f"g (float[{part[0]}] x, float[{part[1]}] z) => ({shape}) {{"
        f" a = Sqrt(x) b = Sqrt(z) y = Concat<axis = {axis}>(a, b) }}"
    )
    assert shares(found, "y") == offsets


def test_parts_that_are_interleaved_or_repeated_do_not() -> None:
    found = networks.extracted(
        "g (float[2,2,4] x, float[2,3,4] z) => (float[2,5,4] y, float[1,32] w) {"
        " a = Sqrt(x) b = Sqrt(z) y = Concat<axis = 1>(a, b)"
        " v = Reshape(a, s) w = Concat<axis = 1>(v, v) }",
        s=np.array([1, 16]),
    )
    assert shares(found, "y") == shares(found, "w") == {}


def test_operators_with_several_outputs() -> None:
    found = networks.extracted(
        "g (float[1,6] x) => (float[1,2] a, float[1,4] c) {"
        " r = Relu(x) a, b = Split<axis = 1>(r, sizes) c = Neg(b) }",
        sizes=np.array([2, 4]),
    )
    split = found.graph.operators[1]
    assert [found.graph.tensors[i].name for i in split.outputs] == ["a", "b"]
    assert split.shares == ()


def test_inputs_are_read_once_even_if_an_operator_names_them_twice() -> None:
    found = networks.extracted("g (float[4] x) => (float[4] y) { a = Sqrt(x) y = Mul(a, a) }")
    assert found.graph.operators[1].inputs == (1,)
    assert found.graph.operators[1].shares == (Share(1, 2, 0),)


def test_dynamic_dimensions_ask_for_shape() -> None:
    with pytest.raises(ModelError, match=r"--shape image=1x3x12x12") as caught:
        extract(networks.model(small_networks.cnn()))
    assert "N x 3 x 12 x 12" in str(caught.value)


def test_shapes_that_depend_on_the_data_are_refused() -> None:
    with pytest.raises(ModelError, match=r"'i' depends on the data"):
        networks.extracted("g (float[4] x) => (int64[1,n] y) { i = NonZero(x) y = Abs(i) }")


def test_control_flow_is_named() -> None:
    proto = onnx.parser.parse_model(
        small_networks.HEADER + "g (bool c, float[2] x) => (float[2] y) {"
        " y = If (c) <then_branch = t () => (float[2] a) { a = Neg(x) },"
        " else_branch = e () => (float[2] b) { b = Abs(x) }> }"
    )
    with pytest.raises(ModelError, match="If node 'y' is control flow"):
        extract(networks.model(proto))


def test_nodes_come_in_the_order_of_the_operators() -> None:
    found = networks.extracted(
        "g (float[2,6] x) => (float[3,4] y, float[2,6] z) {"
        " b = Reshape(x, s) y = Neg(b) z = Relu(x) }",
        s=np.array([3, 4]),
    )
    nodes = list(found.model.graph)
    order = order_nodes(reversed(found.kernels), nodes)
    assert [node.outputs[0].name for node in order] == ["z", "b", "y"]
