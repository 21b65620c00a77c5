"""Per-channel multiplications and additions disappear into weights, exactly or not at all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compress.graph.affine import FoldAffine
from compress.graph.canonical import canonicalize
from compress.graph.printer import to_text
from compress.graph.simplify import simplify

RNG = np.random.default_rng(21)
IMAGE = "g (float[N,4,7,7] x) => (float[N,?,?,?] y) "
MATRIX = "g (float[N,5] x) => (float[N,?] y) "
TOKENS = "g (float[N,3,5] x) => (float[N,3,?] y) "


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def per_channel(channels, *trailing):
    return (RNG.uniform(0.5, 2, (channels, *trailing)) * RNG.choice([-1, 1], 1)).astype(np.float32)


def feeds_of(model):
    return {
        v.name: floats(*(d if isinstance(d, int) else 2 for d in v.shape))
        for v in model.graph.inputs
    }


W = {"w": floats(6, 4, 3, 3)}
B = {"b": floats(6)}
FOLDED = {
    # backwards, in all shapes in which a constant per channel comes
    "conv_mul": (IMAGE + "{ a = Conv (x, w, b) y = Mul (a, s) }",
                 {**W, **B, "s": per_channel(6, 1, 1)}),
    "conv_mul_4d": (IMAGE + "{ a = Conv (x, w, b) y = Mul (s, a) }",
                    {**W, **B, "s": per_channel(6, 1, 1)[None]}),
    "conv_mul_scalar": (IMAGE + "{ a = Conv (x, w) y = Mul (a, s) }", {**W, "s": np.float32(3)}),
    "conv_mul_one_element": (IMAGE + "{ a = Conv (x, w, b) y = Mul (a, s) }",
                             {**W, **B, "s": np.float32([[[[3]]]])}),
    "conv_div": (IMAGE + "{ a = Conv (x, w, b) y = Div (a, s) }",
                 {**W, **B, "s": per_channel(6, 1, 1)}),
    "conv_add": (IMAGE + "{ a = Conv (x, w) y = Add (a, s) }", {**W, "s": per_channel(6, 1, 1)}),
    "conv_add_scalar": (IMAGE + "{ a = Conv (x, w) y = Add (a, s) }",
                        {**W, "s": np.float32(3)}),
    "conv_sub": (IMAGE + "{ a = Conv (x, w, b) y = Sub (a, s) }",
                 {**W, **B, "s": per_channel(6, 1, 1)}),
    "conv_sub_from": (IMAGE + "{ a = Conv (x, w, b) y = Sub (s, a) }",
                      {**W, **B, "s": per_channel(6, 1, 1)}),
    "padded_conv_mul_add": (
        IMAGE + "{ a = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w, b) c = Mul (a, s)"
        " y = Add (c, t) }", {**W, **B, "s": per_channel(6, 1, 1), "t": per_channel(6, 1, 1)}),
    "grouped_conv": (IMAGE + "{ a = Conv <group = 2> (x, w, b) c = Mul (a, s) y = Add (c, t) }",
                     {"w": floats(6, 2, 3, 3), **B, "s": per_channel(6, 1, 1),
                      "t": per_channel(6, 1, 1)}),
    "depthwise_conv": (IMAGE + "{ a = Conv <group = 4> (x, w) y = Mul (a, s) }",
                       {"w": floats(4, 1, 3, 3), "s": per_channel(4, 1, 1)}),
    "conv_transpose": (IMAGE + "{ a = ConvTranspose <strides = [2,2]> (x, w, b) c = Mul (a, s)"
                       " y = Add (c, t) }",
                       {"w": floats(4, 6, 3, 3), **B, "s": per_channel(6, 1, 1),
                        "t": per_channel(6, 1, 1)}),
    "grouped_conv_transpose": (
        IMAGE + "{ a = ConvTranspose <group = 2> (x, w) c = Mul (a, s) y = Add (c, t) }",
        {"w": floats(4, 3, 3, 3), "s": per_channel(6, 1, 1), "t": per_channel(6, 1, 1)}),
    "gemm": (MATRIX + "{ a = Gemm (x, w, b) c = Mul (a, s) y = Add (c, t) }",
             {"w": floats(5, 6), **B, "s": per_channel(6), "t": per_channel(6)}),
    "gemm_transposed": (MATRIX + "{ a = Gemm <transB = 1> (x, w) c = Mul (a, s) y = Sub (t, c) }",
                        {"w": floats(6, 5), "s": per_channel(6)[None], "t": per_channel(6)}),
    "gemm_of_a_transposed_input": (
        "g (float[5,3] x) => (float[3,6] y) { a = Gemm <transA = 1> (x, w, b) y = Mul (a, s) }",
        {"w": floats(5, 6), **B, "s": per_channel(6)}),
    "gemm_with_one_bias": (MATRIX + "{ a = Gemm (x, w, b) y = Mul (a, s) }",
                           {"w": floats(5, 6), "b": floats(1), "s": per_channel(6)}),
    "matmul": (TOKENS + "{ a = MatMul (x, w) y = Mul (a, s) }",
               {"w": floats(5, 6), "s": per_channel(6)}),
    "matmul_of_matrices": (MATRIX + "{ a = MatMul (x, w) y = Div (a, s) }",
                           {"w": floats(5, 6), "s": per_channel(6)[None]}),
    # forwards
    "mul_conv": (IMAGE + "{ a = Mul (x, s) y = Conv <pads = [1,1,1,1]> (a, w, b) }",
                 {**W, **B, "s": per_channel(4, 1, 1)}),
    "add_conv": (IMAGE + "{ a = Add (x, s) y = Conv <strides = [2,1]> (a, w) }",
                 {**W, "s": per_channel(4, 1, 1)}),
    "sub_scalar_conv": (IMAGE + "{ a = Sub (s, x) y = Conv (a, w, b) }",
                        {**W, **B, "s": np.float32(0.5)}),
    "normalised_input": (
        IMAGE + "{ a = Sub (x, m) c = Div (a, s) y = Conv (c, w, b) }",
        {**W, **B, "m": per_channel(4, 1, 1)[None], "s": per_channel(4, 1, 1)[None]}),
    "affine_grouped_conv": (
        IMAGE + "{ a = Mul (x, s) c = Add (a, t) y = Conv <group = 2> (c, w) }",
        {"w": floats(6, 2, 3, 3), "s": per_channel(4, 1, 1), "t": per_channel(4, 1, 1)}),
    "affine_depthwise_conv": (
        IMAGE + "{ a = Mul (x, s) c = Add (a, t) y = Conv <group = 4> (c, w) }",
        {"w": floats(4, 1, 3, 3), "s": per_channel(4, 1, 1), "t": per_channel(4, 1, 1)}),
    "add_gemm": (MATRIX + "{ a = Mul (x, s) c = Add (a, t) y = Gemm <transB = 1> (c, w, b) }",
                 {"w": floats(6, 5), **B, "s": per_channel(5), "t": per_channel(5)}),
    "mul_matmul": (TOKENS + "{ a = Mul (s, x) y = MatMul (a, w) }",
                   {"w": floats(5, 6), "s": per_channel(5)}),
    "several_readers": (
        IMAGE + "{ a = Mul (x, s) c = Add (a, t) p = Conv (c, w) q = Conv (c, u) y = Add (p, q) }",
        {**W, "u": floats(6, 4, 3, 3), "s": per_channel(4, 1, 1), "t": per_channel(4, 1, 1)}),
    # the scale goes through padding, the shift stays
    "swapped_before_padding": (
        IMAGE + "{ e = Exp (x) a = Mul (e, s) c = Add (a, t)"
        " y = Conv <pads = [1,1,1,1]> (c, w, b) }",
        {**W, **B, "s": per_channel(4, 1, 1), "t": per_channel(4, 1, 1)}),
    # somebody else reads the same weights
    "shared_weights": (
        IMAGE + "{ e = Exp (x) a = Conv (x, w) c = Mul (a, s) d = Conv (e, w) y = Add (c, d) }",
        {**W, "s": per_channel(6, 1, 1)}),
    "shared_bias": (
        IMAGE + "{ a = Conv (x, w, b) c = Add (a, s) d = Conv (x, u, b) y = Add (c, d) }",
        {**W, **B, "u": floats(6, 4, 3, 3), "s": per_channel(6, 1, 1)}),
}  # fmt: skip

LEFT_ALONE = {
    "shift_before_padding": (
        IMAGE + "{ a = Add (x, s) y = Conv <pads = [0,1,0,0]> (a, w) }",
        {**W, "s": per_channel(4, 1, 1)}),
    "shift_before_automatic_padding": (
        IMAGE + '{ a = Add (x, s) y = Conv <auto_pad = "SAME_UPPER"> (a, w) }',
        {**W, "s": per_channel(4, 1, 1)}),
    "per_row": (IMAGE + "{ a = Conv (x, w) y = Mul (a, s) }", {**W, "s": floats(5, 1)}),
    "per_element": (IMAGE + "{ a = Conv (x, w) y = Mul (a, s) }", {**W, "s": floats(6, 5, 5)}),
    "per_sample": (
        "g (float[2,4,7,7] x) => (float[2,?,?,?] y) { a = Conv (x, w) y = Mul (a, s) }",
        {**W, "s": floats(2, 1, 1, 1)}),
    "division_of_a_constant": (
        IMAGE + "{ a = Conv (x, w) y = Div (s, a) }", {**W, "s": per_channel(6, 1, 1)}),
    "division_by_zero": (
        IMAGE + "{ a = Conv (x, w) y = Div (a, s) }",
        {**W, "s": np.float32([1, 0, 1, 1, 1, 1]).reshape(6, 1, 1)}),
    "an_intermediate_output": (
        "g (float[N,4,7,7] x) => (float[N,?,?,?] a, float[N,?,?,?] y)"
        " { a = Conv (x, w) y = Mul (a, s) }", {**W, "s": per_channel(6, 1, 1)}),
    "a_second_reader": (
        IMAGE + "{ a = Conv (x, w) c = Mul (a, s) d = Exp (a) y = Add (c, d) }",
        {**W, "s": per_channel(6, 1, 1)}),
    "shift_behind_a_matmul": (TOKENS + "{ a = MatMul (x, w) y = Add (a, s) }",
                              {"w": floats(5, 6), "s": per_channel(6)}),
    "shift_before_a_matmul": (TOKENS + "{ a = Add (x, s) y = MatMul (a, w) }",
                              {"w": floats(5, 6), "s": per_channel(5)}),
    "gemm_with_alpha": (MATRIX + "{ a = Gemm <alpha = 0.5> (x, w, b) y = Mul (a, s) }",
                        {"w": floats(5, 6), **B, "s": per_channel(6)}),
    "gemm_with_beta": (MATRIX + "{ a = Gemm <beta = 0.5> (x, w, b) y = Add (a, s) }",
                       {"w": floats(5, 6), **B, "s": per_channel(6)}),
    "gemm_with_biases_per_row": (
        "g (float[6,5] x) => (float[6,6] y) { a = Gemm (x, w, b) y = Mul (a, s) }",
        {"w": floats(5, 6), "b": floats(6, 1), "s": per_channel(6)}),
    # a constant that spreads one channel over several
    "one_channel_spread_by_a_scale": (
        "g (float[N,1,7,7] x) => (float[N,?,?,?] y) { a = Mul (x, s) y = Conv (a, w) }",
        {**W, "s": per_channel(4, 1, 1)}),
    "one_channel_spread_by_a_mean": (
        "g (float[N,1,7,7] x) => (float[N,?,?,?] y) { a = Sub (x, s) y = Conv (a, w) }",
        {**W, "s": per_channel(4, 1, 1)}),
    "one_column_spread": (
        "g (float[N,1] x) => (float[N,?] y) { a = Mul (x, s) y = Gemm (a, w) }",
        {"w": floats(5, 6), "s": per_channel(5)}),
    "one_output_channel_spread": (
        IMAGE + "{ a = Conv (x, w) y = Mul (a, s) }",
        {"w": floats(1, 4, 3, 3), "s": per_channel(3, 1, 1)}),
    "another_kind_of_reader": (
        IMAGE + "{ a = Mul (x, s) c = Conv (a, w) d = GlobalMaxPool (a) e = Conv (d, u)"
        " y = Add (c, e) }",
        {**W, "u": floats(6, 4, 1, 1), "s": per_channel(4, 1, 1)}),
    "weights_are_computed": (
        "g (float[N,4,7,7] x, float[6,4,3,3] w) => (float[N,?,?,?] y)"
        " { a = Conv (x, w) y = Mul (a, s) }", {"s": per_channel(6, 1, 1)}),
    "a_negation_before_padding": (
        IMAGE + "{ e = Exp (x) a = Sub (z, e) c = Add (a, s)"
        " y = Conv <pads = [1,1,1,1]> (c, w) }",
        {**W, "z": np.zeros((4, 1, 1), np.float32), "s": per_channel(4, 1, 1)}),
}  # fmt: skip

INSIDE_IF = (
    "g (float[N,4,7,7] x, bool flag) => (float[N,?,?,?] y) { a = Mul (x, s)"
    " y = If (flag) <then_branch = t () => (float[N,6,5,5] p) { p = Conv (a, w) },"
    " else_branch = e () => (float[N,6,5,5] q) { q = Conv (a, u) }> }"
)


@pytest.mark.parametrize("name", FOLDED)
def test_folded_models_compute_the_same(name, parse, assert_same):
    text, tensors = FOLDED[name]
    model = canonicalize(parse(text, **tensors))
    folded = simplify(model)
    counts = [sum(1 for _ in m.graph) for m in (model, folded)]
    assert counts[1] < counts[0] or name == "swapped_before_padding"
    assert_same(model, folded, feeds_of(model), tolerance=2e-4)
    assert to_text(simplify(folded), weights=True) == to_text(folded, weights=True)
    if name != "swapped_before_padding":
        affine = {"Mul", "Div", "Sub"}
        assert not affine.intersection(n.op_type for n in folded.graph)


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_models_that_must_not_be_folded(name, parse, assert_same):
    text, tensors = LEFT_ALONE[name]
    model = canonicalize(parse(text, **tensors))
    before = to_text(model, weights=True)
    folded = model.clone()
    assert not FoldAffine().run(folded)
    assert to_text(folded, weights=True) == before
    assert_same(model, simplify(model), feeds_of(model), tolerance=2e-4)


@pytest.mark.parametrize("flag", [True, False])
def test_readers_inside_a_subgraph_are_left_alone(flag, parse, assert_same):
    tensors = {**W, "u": floats(6, 4, 3, 3), "s": per_channel(4, 1, 1)}
    model = canonicalize(parse(INSIDE_IF, **tensors))
    folded = simplify(model)
    feeds = {"x": floats(2, 4, 7, 7), "flag": np.array(flag)}
    assert_same(model, folded, feeds, tolerance=2e-4)


GOLDEN = {
    "backwards": ("g (float[N,2,3,3] x) => (float[N,2,3,3] y)"
                  " { a = Conv (x, w, b) c = Mul (a, s) y = Add (c, t) }",
                  {"w": np.float32([[1, 2], [3, 4]]).reshape(2, 2, 1, 1), "b": np.float32([1, 2]),
                   "s": np.float32([2, -1]).reshape(2, 1, 1), "t": np.float32(10)}),
    "forwards": ("g (float[N,2] x) => (float[N,2] y)"
                 " { a = Sub (x, t) c = Div (a, s) y = Gemm (c, w, b) }",
                 {"w": np.float32([[1, 2], [3, 4]]), "b": np.float32([1, 2]),
                  "s": np.float32([2, -1]), "t": np.float32([10, 20])}),
    "through_padding": (
        "g (float[N,2,3,3] x) => (float[N,1,3,3] y) { e = Exp (x) a = Mul (e, s) c = Add (a, t)"
        " y = Conv <pads = [1,1,1,1], kernel_shape = [3,3]> (c, w) }",
        {"w": np.ones((1, 2, 3, 3), np.float32), "s": np.float32([2, -1]).reshape(2, 1, 1),
         "t": np.float32([10, 20]).reshape(2, 1, 1)}),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_text(name, parse, golden):
    text, tensors = GOLDEN[name]
    model = canonicalize(parse(text, **tensors))
    before = to_text(model)
    golden(f"fold_affine_{name}", f"{before}--- simplify\n{to_text(simplify(model))}")


def test_names_of_weights_and_outputs_survive(parse):
    text, tensors = FOLDED["conv_mul"]
    model = simplify(canonicalize(parse(text, **tensors)))
    assert set(model.graph.initializers) == {"w", "b"}
    assert [v.name for v in model.graph.outputs] == ["y"]


# --- chains that nobody thought of ---------------------------------------------------------------

OPERATORS = ("Mul", "Add", "Sub", "Div", "From", "Conv", "PaddedConv", "Depthwise", "Relu")
SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def chains(draw):
    """Affine steps by constants of any broadcastable shape, and convolutions between."""
    channels, lines, tensors, value = 3, [], {}, "x"
    outputs = []
    for step in range(draw(st.integers(1, 7))):
        operator = draw(st.sampled_from(OPERATORS))
        new, constant = f"v{step}", f"c{step}"
        generator = np.random.default_rng(draw(st.integers(0, 9999)))
        source = value if draw(st.integers(0, 9)) else "x" if channels == 3 else value
        if operator in ("Mul", "Add", "Sub", "Div", "From"):
            shape = draw(st.sampled_from([(), (1,), (channels, 1, 1), (1, channels, 1, 1),
                                          (1, 1, 1, 1), (8,), (8, 1)]))  # fmt: skip
            tensors[constant] = generator.uniform(0.5, 2, shape).astype(np.float32)
            first, second = (
                (constant, source)
                if operator == "From" or (operator in ("Mul", "Add") and draw(st.booleans()))
                else (source, constant)
            )
            operation = "Sub" if operator == "From" else operator
            lines.append(f"{new} = {operation} ({first}, {second})")
        elif operator == "Relu":
            lines.append(f"{new} = Relu ({source})")
        else:
            group = channels if operator == "Depthwise" else 1
            out = channels if operator == "Depthwise" else draw(st.sampled_from([3, 4]))
            pad = operator != "Conv"
            kernel = 3 if pad else 1
            tensors[constant] = (generator.standard_normal(
                (out, channels // group, kernel, kernel)) / kernel).astype(np.float32)  # fmt: skip
            pads = "1,1,1,1" if pad else "0,0,0,0"
            bias = ""
            if draw(st.booleans()):
                tensors[f"b{step}"] = generator.standard_normal(out).astype(np.float32)
                bias = f", b{step}"
            lines.append(
                f"{new} = Conv <group = {group}, pads = [{pads}]> ({source}, {constant}{bias})"
            )
            channels = out
        value = new
        if not draw(st.integers(0, 5)):
            outputs.append(new)
    outputs = [*dict.fromkeys([*outputs, value])]
    declared = ", ".join(f"float[N,?,8,8] {name}" for name in outputs)
    return f"g (float[N,3,8,8] x) => ({declared}) {{ {' '.join(lines)} }}", tensors


@SETTINGS
@given(chains())
def test_any_chain_computes_the_same(parse, assert_same, chain):
    text, tensors = chain
    model = canonicalize(parse(text, **tensors))
    if not len(model.graph):
        return
    folded = simplify(model)
    assert [v.name for v in folded.graph.outputs] == [v.name for v in model.graph.outputs]
    assert_same(model, folded, {"x": floats(2, 3, 8, 8)}, tolerance=2e-3)
    assert to_text(simplify(folded), weights=True) == to_text(folded, weights=True)
