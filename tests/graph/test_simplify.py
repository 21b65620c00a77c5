"""Lossless rewrites, all together."""

from __future__ import annotations

import numpy as np
import pytest

from compress.graph.canonical import canonicalize
from compress.graph.printer import to_text
from compress.graph.simplify import simplify

RNG = np.random.default_rng(41)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


CONSTANTS = {
    "three": np.float32(3), "zero": np.float32(0), "six": np.float32(6), "two": np.float32(2),
    "eps": np.float32(1e-5), "last": np.array([-1]), "spatial": np.array([2, 3]),
}  # fmt: skip
IMAGE = "g (float[N,3,8,8] x) => "
TOKENS = "g (float[N,5,16] x) => (float[N,5,16] y) "
NORM = (
    "m = ReduceMean (x, last) d = Sub (x, m) p = Pow (d, two) v = ReduceMean (p, last)"
    " e = Add (v, eps) s = Sqrt (e) n = Div (d, s) "
)
CASES = {
    # scale, shift and hard-swish behind a convolution; squeeze and excitation; a classifier
    "mobile_block": (
        IMAGE + "(float[N,10] y) { a = Conv <pads = [1,1,1,1]> (x, w) b = Mul (a, g1)"
        " c = Add (b, h1) p = Add (c, three) q = Clip (p, zero, six) r = Mul (c, q)"
        " s = Div (r, six)"
        " e = ReduceMean (s, spatial) f = Conv (e, u, h2) k = Add (f, three)"
        " l = Clip (k, zero, six) o = Div (l, six) t = Mul (s, o)"
        " z = ReduceMean <keepdims = 0> (t, spatial) y = Gemm (z, v, h3) }",
        {"w": floats(8, 3, 3, 3), "g1": floats(8, 1, 1), "h1": floats(8, 1, 1),
         "u": floats(8, 8, 1, 1), "h2": floats(8), "v": floats(8, 10), "h3": floats(10)},
        ["Conv", "HardSwish", "GlobalAveragePool", "Conv", "HardSigmoid", "Mul",
         "GlobalAveragePool", "Flatten", "Gemm"]),
    "normalised_images": (
        IMAGE + "(float[N,8,6,6] y) { c = Sub (x, mean) d = Div (c, std) a = Conv (d, w)"
        " y = Relu (a) }",
        {"w": floats(8, 3, 3, 3), "mean": floats(1, 3, 1, 1), "std": np.float32(0.25)},
        ["Conv", "Relu"]),
    "layer_normalisation": (
        TOKENS + "{ " + NORM + "o = Mul (n, gamma) y = Add (o, beta) }",
        {"gamma": floats(16), "beta": floats(16)}, ["LayerNormalization"]),
    "layer_normalisation_without_shift": (
        TOKENS + "{ " + NORM + "y = Mul (gamma, n) }", {"gamma": floats(16)},
        ["LayerNormalization"]),
    "layer_normalisation_as_a_product": (
        TOKENS + "{ " + NORM.replace("Pow (d, two)", "Mul (d, d)").replace(
            "n = Div (d, s)", "i = Reciprocal (s) n = Mul (d, i)")
        + "o = Mul (n, gamma) y = Add (o, beta) }",
        {"gamma": floats(16), "beta": floats(16)}, ["LayerNormalization"]),
    "normalised_over_something_else": (
        TOKENS + "{ " + NORM.replace("(x, last)", "(x, first)") + "o = Mul (n, gamma)"
        " y = Add (o, beta) }",
        {"gamma": floats(16), "beta": floats(16), "first": np.array([1])}, None),
    "a_mean_that_is_read_elsewhere": (
        TOKENS + "{ " + NORM + "o = Mul (n, gamma) b = Add (o, beta) y = Add (b, m) }",
        {"gamma": floats(16), "beta": floats(16)}, None),
    "a_mean_over_channels": (
        IMAGE + "(float[N,1,8,8] y) { y = ReduceMean (x, channel) }",
        {"channel": np.array([1])}, ["ReduceMean"]),
    "a_mean_counted_from_the_end": (
        IMAGE + "(float[N,3] y) { y = ReduceMean <keepdims = 0> (x, axes) }",
        {"axes": np.array([-1, -2])}, ["GlobalAveragePool", "Flatten"]),
    "a_mean_that_is_an_output_too": (
        IMAGE + "(float[N,3,1,1] m, float[N,3] y) { m = ReduceMean (x, spatial)"
        " y = ReduceMean <keepdims = 0> (x, spatial) }",
        {}, None),
    "a_sequence": (
        "g (float[N,4,9] x) => (float[N,4] y) { y = ReduceMean <keepdims = 0> (x, last) }",
        {}, ["GlobalAveragePool", "Flatten"]),
}  # fmt: skip


def model_of(parse, text, tensors):
    used = {k: v for k, v in CONSTANTS.items() if f"{k})" in text or f"{k}," in text}
    return canonicalize(parse(text, **used, **tensors))


def feeds_of(model):
    return {
        v.name: floats(*(d if isinstance(d, int) else 2 for d in v.shape))
        for v in model.graph.inputs
    }


@pytest.mark.parametrize("name", CASES)
def test_simpler_models_compute_the_same(name, parse, assert_same):
    text, tensors, expected = CASES[name]
    model = model_of(parse, text, tensors)
    before = to_text(model, weights=True)
    simple = simplify(model)
    assert to_text(model, weights=True) == before
    if expected is not None:
        assert [n.op_type for n in simple.graph] == expected
    assert_same(model, simple, feeds_of(model), tolerance=1e-4)
    again = simplify(simple)
    assert to_text(again, weights=True) == to_text(simple, weights=True)
    # and a canonical model stays one
    assert to_text(canonicalize(simple), weights=True) == to_text(simple, weights=True)


def test_text(parse, golden):
    text, tensors, _ = CASES["mobile_block"]
    model = model_of(parse, text, tensors)
    golden("simplify", f"{to_text(model)}--- simplify\n{to_text(simplify(model))}")


def test_shapes_of_everything_are_known_afterwards(parse):
    for text, tensors, _ in CASES.values():
        simple = simplify(model_of(parse, text, tensors))
        for node in simple.graph:
            for value in node.outputs:
                assert value.shape is not None
                assert value.dtype is not None
