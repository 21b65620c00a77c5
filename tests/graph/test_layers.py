"""Layers: operators with what fuses into them; every node in exactly one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compress.graph.canonical import canonicalize
from compress.graph.layers import find_layers

RNG = np.random.default_rng(31)
IMAGE = "g (float[2,4,8,8] x) => (float[?,?,?,?] y) "
TOKENS = "g (float[2,6,16] x) => (float[?,?,?] y) "


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


W = {"w": floats(8, 4, 3, 3)}
B = {"b": floats(8)}


def layers_of(parse, text, **tensors):
    model = canonicalize(parse(text, **tensors))
    layers = find_layers(model)
    members = [id(node) for layer in layers for node in layer.members]
    assert sorted(members) == sorted(id(node) for node in model.graph)
    return layers


def members(layer):
    return [node.op_type for node in layer.members]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("{ y = Conv (x, w) }", ["Conv"]),
        ("{ a = Conv (x, w) y = Relu (a) }", ["Conv", "Relu"]),
        ("{ a = Conv (x, w) y = Clip (a, low, high) }", ["Conv", "Clip"]),
        ("{ a = Conv (x, w) y = Clip (a, , high) }", ["Conv", "Clip"]),
        ("{ a = Conv (x, w) y = HardSwish (a) }", ["Conv", "HardSwish"]),
        ("{ a = Conv (x, w) y = LeakyRelu (a) }", ["Conv", "LeakyRelu"]),
        ("{ a = Conv (x, w) b = Relu (a) y = Tanh (b) }", ["Conv", "Relu"]),
        ("{ a = Conv (x, w) y = Exp (a) }", ["Conv"]),
        # a second reader needs the value before the activation
        ("{ a = Conv (x, w) b = Relu (a) y = Add (a, b) }", ["Conv"]),
        # a bound that is computed
        (
            "{ a = Conv (x, w) m = ReduceMax <keepdims = 0> (x) y = Clip (a, low, m) }",
            ["Conv"],
        ),
    ],
)
def test_activations_that_belong_to_a_convolution(body, expected, parse):
    tensors = {**W, "low": np.float32(0), "high": np.float32(6)}
    layers = layers_of(parse, IMAGE + body, **{k: v for k, v in tensors.items() if k in body})
    layer = next(x for x in layers if x.op == "Conv")
    assert members(layer) == expected
    assert layer.output is layer.members[-1].outputs[0]


def test_an_output_of_the_model_ends_a_layer(parse):
    text = "g (float[2,4,8,8] x) => (float[?,?,?,?] a, float[?,?,?,?] y) "
    first, second = layers_of(parse, text + "{ a = Conv (x, w) y = Relu (a) }", **W)
    assert (members(first), members(second)) == (["Conv"], ["Relu"])


@pytest.mark.parametrize(
    ("body", "bias", "expected"),
    [
        ("{ a = MatMul (x, w) y = Add (a, b) }", (8,), ["MatMul", "Add"]),
        ("{ a = MatMul (x, w) y = Add (b, a) }", (1, 1, 8), ["MatMul", "Add"]),
        ("{ a = MatMul (x, w) c = Add (a, b) y = Relu (c) }", (8,), ["MatMul", "Add", "Relu"]),
        ("{ a = MatMul (x, w) y = Relu (a) }", None, ["MatMul", "Relu"]),
        # not a bias: per token, or another shape of the result
        ("{ a = MatMul (x, w) y = Add (a, b) }", (6, 1), ["MatMul"]),
        ("{ a = MatMul (x, w) y = Add (a, b) }", (6, 8), ["MatMul"]),
        ("{ a = MatMul (x, w) y = Add (a, b) }", (1, 1, 1, 8), ["MatMul"]),
        ("{ a = MatMul (x, w) y = Add (a, b) }", (1,), ["MatMul"]),
        ("{ a = MatMul (x, w) y = Add (a, a) }", None, ["MatMul"]),
    ],
)
def test_biases_that_belong_to_a_matrix_product(body, bias, expected, parse):
    tensors = {"w": floats(16, 8)} | ({"b": floats(*bias)} if bias else {})
    text = TOKENS if bias != (1, 1, 1, 8) else TOKENS.replace("[?,?,?]", "[?,?,?,?]")
    layer = layers_of(parse, text + body, **tensors)[0]
    assert members(layer) == expected
    assert (layer.bias is not None) == ("Add" in expected)


def test_what_a_layer_reads_and_carries(parse):
    (layer,) = layers_of(parse, IMAGE + "{ a = Conv (x, w, b) y = Relu (a) }", **W, **B)
    assert [v.name for v in layer.inputs] == ["x"]
    assert (layer.weight.name, layer.bias.name, layer.output.name) == ("w", "b", "y")
    assert layer.weight_bytes == W["w"].nbytes
    assert (layer.op, layer.kind) == ("Conv", "Conv")
    assert layer.saturating
    assert not layer.smooth
    add = layers_of(
        parse, "g (float[2] x, float[2] z) => (float[2] y) { a = Add (x, z) y = Add (a, a) }"
    )
    assert [[v.name for v in layer.inputs] for layer in add] == [["x", "z"], ["a", "a"]]
    assert add[0].weight is None
    assert add[0].weight_bytes == 0


def test_computed_weights_are_no_weights(parse):
    text = "g (float[2,4,8,8] x, float[8,4,3,3] w) => (float[?,?,?,?] y) { y = Conv (x, w) }"
    (layer,) = layers_of(parse, text)
    assert layer.weight is None
    assert [v.name for v in layer.inputs] == ["x", "w"]


def test_depthwise_convolutions_have_their_own_name(parse):
    body = "{ y = Conv <group = 4> (x, w) }"
    (depthwise,) = layers_of(parse, IMAGE + body, w=floats(4, 1, 3, 3))
    (grouped,) = layers_of(parse, IMAGE + body.replace("4", "2"), w=floats(8, 2, 3, 3))
    (plain,) = layers_of(
        parse, IMAGE.replace("2,4,8", "2,1,8") + "{ y = Conv (x, w) }", w=floats(1, 1, 3, 3)
    )
    assert (depthwise.kind, grouped.kind, plain.kind) == ("DepthwiseConv", "Conv", "Conv")


MACS = {
    "conv": (IMAGE + "{ y = Conv (x, w) }", (8, 4, 3, 3), 2 * 8 * 6 * 6 * 4 * 9),
    "strided_conv": (
        IMAGE + "{ y = Conv <strides = [2,2], pads = [1,1,1,1]> (x, w) }", (8, 4, 3, 3),
        2 * 8 * 4 * 4 * 4 * 9),
    "grouped_conv": (
        IMAGE + "{ y = Conv <group = 2> (x, w) }", (8, 2, 3, 3), 2 * 8 * 6 * 6 * 2 * 9),
    "depthwise_conv": (
        IMAGE + "{ y = Conv <group = 4> (x, w) }", (4, 1, 3, 3), 2 * 4 * 6 * 6 * 9),
    "conv_of_sequences": (
        TOKENS + "{ y = Conv (x, w) }", (8, 6, 5), 2 * 8 * 12 * 6 * 5),
    # every input element meets every tap of every output channel of its group
    "conv_transpose": (
        IMAGE + "{ y = ConvTranspose <strides = [2,2]> (x, w) }", (4, 8, 3, 3),
        2 * 4 * 8 * 8 * 8 * 9),
    "grouped_conv_transpose": (
        IMAGE + "{ y = ConvTranspose <group = 2> (x, w) }", (4, 3, 3, 3), 2 * 4 * 8 * 8 * 3 * 9),
    "matmul": (TOKENS + "{ y = MatMul (x, w) }", (16, 8), 2 * 6 * 16 * 8),
    "matmul_by_a_vector": (
        TOKENS.replace("[?,?,?] y", "[?,?] y") + "{ y = MatMul (x, w) }", (16,), 2 * 6 * 16),
    "batch_of_matrices": (TOKENS + "{ y = MatMul (x, w) }", (2, 16, 8), 2 * 6 * 16 * 8),
    "gemm": ("g (float[3,16] x) => (float[?,?] y) { y = Gemm (x, w) }", (16, 8), 3 * 16 * 8),
    "gemm_transposed": (
        "g (float[3,16] x) => (float[?,?] y) { y = Gemm <transB = 1> (x, w) }", (8, 16),
        3 * 16 * 8),
    "add": ("g (float[3,16] x) => (float[3,16] y) { y = Add (x, x) }", None, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", MACS)
def test_macs(name, parse, run):
    text, weight, expected = MACS[name]
    model = canonicalize(parse(text, **({"w": floats(*weight)} if weight else {})))
    (layer,) = find_layers(model)
    x = floats(*model.graph.inputs[0].shape.numpy())
    (y,) = run(model, {"x": x}).values()
    assert layer.macs({"x": x.shape, "y": y.shape}) == expected
    assert layer.macs({}) == 0


def test_macs_of_a_fused_layer(parse):
    (layer,) = layers_of(parse, IMAGE + "{ a = Conv (x, w) y = Relu (a) }", **W)
    assert layer.macs({"x": (1, 4, 8, 8), "y": (1, 8, 6, 6)}) == 8 * 36 * 36
    assert layer.macs({"x": (1, 4, 8, 8), "a": (1, 8, 6, 6)}) == 8 * 36 * 36


def test_nodes_inside_a_subgraph_belong_to_no_layer(parse):
    """Even where one of them alone reads what a layer writes."""
    text = (
        "g (float[2,4,8,8] x, bool flag) => (float[?,?,?,?] y) { a = Conv (x, w)"
        " y = If (flag) <then_branch = t () => (float[2,8,6,6] p) { p = Relu (a) },"
        " else_branch = e () => (float[2,8,6,6] q) { q = Conv (x, w) }> }"
    )
    conv, choice = layers_of(parse, text, **W)
    assert members(conv) == ["Conv"]
    assert (choice.op, choice.weight) == ("If", None)


def test_operators_of_other_domains_are_layers_without_weights(parse):
    text = "g (float[2,16] x) => (float[?,?] y) { a = com.microsoft.Gelu (x) y = MatMul (a, w) }"
    gelu, matmul = layers_of(parse, text, w=floats(16, 8))
    assert gelu.op == "com.microsoft.Gelu"
    assert gelu.weight is None
    assert matmul.weight is not None


STEPS = ("Conv", "Relu", "Add", "Clip", "Exp", "Concat", "MaxPool", "HardSwish", "MulConstant")


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 9), st.integers(0, 9)), max_size=12)
)
def test_every_node_of_any_graph_is_in_exactly_one_layer(parse, steps):
    lines, values = ["v = Conv <pads = [1,1,1,1]> (x, w)"], ["v"]
    for number, (step, first, second) in enumerate(steps):
        a, b, new = values[first % len(values)], values[second % len(values)], f"v{number}"
        lines.append(
            {
                "Conv": f"{new} = Conv <pads = [1,1,1,1]> ({a}, w)",
                "Add": f"{new} = Add ({a}, {b})",
                "Clip": f"{new} = Clip ({a}, low, high)",
                "Concat": f"{new}c = Concat <axis = 2> ({a}, {b})"
                f" {new} = Slice ({new}c, s0, s8, s2)",
                "MaxPool": f"{new} = MaxPool <kernel_shape = [3,3], pads = [1,1,1,1]> ({a})",
                "MulConstant": f"{new} = Mul ({a}, high)",
            }.get(step, f"{new} = {step} ({a})")
        )
        values.append(new)
    text = f"g (float[2,4,8,8] x) => (float[2,4,8,8] {values[-1]}) {{ {' '.join(lines)} }}"
    layers = layers_of(
        parse,
        text,
        w=floats(4, 4, 3, 3),
        low=np.float32(0),
        high=np.float32(6),
        s0=np.array([0]),
        s8=np.array([8]),
        s2=np.array([2]),
    )
    assert len({layer.name for layer in layers}) == len(layers)
    for layer in layers:
        produced = {id(v) for node in layer.members for v in node.outputs}
        # nothing but the output is read from outside
        inside = {id(node) for node in layer.members}
        for node in layer.members:
            for value in node.outputs:
                if value is not layer.output:
                    assert all(id(use.node) in inside for use in value.uses())
        assert not produced & {id(v) for v in layer.inputs}
