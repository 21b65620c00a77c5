"""Equalisation changes ranges, and nothing that comes out of the network."""

from __future__ import annotations

import numpy as np
import pytest

from compress.evidence.statistics import TensorStatistics, summarise
from compress.graph.printer import to_text
from compress.passes.quantize.equalize import Equalize

RNG = np.random.default_rng(11)
IMAGE = "g (float[N,4,7,7] x) => "
MATRIX = "g (float[N,16] x) => "
TOKENS = "g (float[N,5,16] x) => "


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def uneven(*shape, axis=0):
    """Channels of very different size."""
    scale = np.geomspace(0.02, 20, shape[axis])
    return (floats(*shape) * np.moveaxis(np.broadcast_to(scale, shape[:axis] + shape[axis + 1:]
            + (shape[axis],)), -1, axis)).astype(np.float32)  # fmt: skip


NORM = {"g": uneven(16), "h": floats(16)}
CASES = {
    "conv_conv": (IMAGE + "(float[N,?,?,?] y) { a = Conv (x, w, b)"
                  " y = Conv <pads = [1,1,1,1]> (a, u) }",
                  {"w": uneven(8, 4, 3, 3), "b": floats(8), "u": floats(6, 8, 3, 3)}),
    "conv_relu_conv": (
        IMAGE + "(float[N,?,?,?] y) { a = Conv (x, w, b) c = Relu (a)"
        " y = Conv <pads = [1,1,1,1]> (c, u, d) }",
        {"w": uneven(8, 4, 3, 3), "b": floats(8), "u": floats(6, 8, 3, 3), "d": floats(6)}),
    "conv_leaky_depthwise_conv": (
        IMAGE + "(float[N,?,?,?] y) { a = Conv (x, w, b) c = LeakyRelu <alpha = 0.1> (a)"
        " d = Conv <group = 8> (c, v) e = Relu (d) y = Conv (e, u) }",
        {"w": uneven(8, 4, 3, 3), "b": floats(8), "v": uneven(8, 1, 3, 3),
         "u": floats(6, 8, 1, 1)}),
    "into_a_grouped_conv": (
        IMAGE + "(float[N,?,?,?] y) { a = Conv (x, w, b) c = Relu (a)"
        " y = Conv <group = 2> (c, u) }",
        {"w": uneven(8, 4, 3, 3), "b": floats(8), "u": floats(6, 4, 1, 1)}),
    "two_readers": (
        IMAGE + "(float[N,?,?,?] y) { a = Conv (x, w) c = Relu (a) p = Conv (c, u) q = Conv (c, v)"
        " y = Add (p, q) }",
        {"w": uneven(8, 4, 3, 3), "u": floats(6, 8, 1, 1), "v": floats(6, 8, 1, 1)}),
    "gemm_gemm": (
        MATRIX + "(float[N,?] y) { a = Gemm <transB = 1> (x, w, b) c = Relu (a)"
        " y = Gemm (c, u, d) }",
        {"w": uneven(8, 16), "b": floats(8), "u": floats(8, 3), "d": floats(3)}),
    "gemm_transposed": (
        MATRIX + "(float[N,?] y) { a = Gemm (x, w, b) c = Relu (a) y = Gemm <transB = 1> (c, u) }",
        {"w": uneven(16, 8, axis=1), "b": floats(8), "u": floats(3, 8)}),
    "norm_into_matrices": (
        TOKENS + "(float[N,5,?] y) { n = LayerNormalization (x, g, h) q = MatMul (n, w)"
        " k = MatMul (n, u) y = Add (q, k) }",
        {**NORM, "w": floats(16, 8), "u": floats(16, 8)}),
    "shared_weights": (
        IMAGE + "(float[N,?,?,?] y) { a = Conv <pads = [1,1,1,1]> (x, w) c = Relu (a)"
        " d = Conv <pads = [1,1,1,1]> (c, w) e = Relu (d) y = Conv (e, w) }",
        {"w": uneven(4, 4, 3, 3)}),
}  # fmt: skip

LEFT_ALONE = {
    "an_output": (
        IMAGE + "(float[N,?,?,?] c, float[N,?,?,?] y)"
        " { a = Conv (x, w) c = Relu (a) y = Conv (c, u) }",
        {"w": uneven(8, 4, 3, 3), "u": floats(6, 8, 1, 1)}),
    "read_by_others": (
        IMAGE + "(float[N,?,?,?] y) { a = Conv (x, w) c = Relu (a) p = Conv (c, u)"
        " s = Exp (c) y = Add (p, s) }",
        {"w": uneven(8, 4, 3, 3), "u": floats(8, 8, 1, 1)}),
    "a_smooth_activation": (
        IMAGE + "(float[N,?,?,?] y) { a = Conv (x, w) c = HardSwish (a) y = Conv (c, u) }",
        {"w": uneven(8, 4, 3, 3), "u": floats(6, 8, 1, 1)}),
    "a_clip": (
        IMAGE + "(float[N,?,?,?] y) { a = Conv (x, w) c = Clip (a, zero, six) y = Conv (c, u) }",
        {"w": uneven(8, 4, 3, 3), "u": floats(6, 8, 1, 1), "zero": np.float32(0),
         "six": np.float32(6)}),
    "gemm_with_alpha": (
        MATRIX + "(float[N,?] y) { a = Gemm <alpha = 0.5> (x, w, b) y = Gemm (a, u) }",
        {"w": uneven(16, 8, axis=1), "b": floats(8), "u": floats(8, 3)}),
    # channels on axis 1, and a matrix product over the last axis of the same size
    "conv_into_matmul": (
        IMAGE + "(float[N,?,?,?] y) { a = Conv (x, w) c = Relu (a) y = MatMul (c, u) }",
        {"w": uneven(5, 4, 3, 3), "u": floats(5, 3)}),
    "norm_into_conv": (
        "g (float[N,16,16] x) => (float[N,?,?] y)"
        " { n = LayerNormalization (x, g, h) y = Conv (n, w) }",
        {**NORM, "w": floats(3, 16, 1)}),
    "inside_an_if": (
        "g (float[N,4,7,7] x, bool flag) => (float[N,?,?,?] y) { a = Conv (x, w) c = Relu (a)"
        " y = If (flag) <then_branch = t () => (float[N,6,5,5] p) { p = Conv (c, u) },"
        " else_branch = e () => (float[N,6,5,5] q) { q = Conv (c, v) }> }",
        {"w": uneven(8, 4, 3, 3), "u": floats(6, 8, 1, 1), "v": floats(6, 8, 1, 1)}),
}  # fmt: skip


def feeds_of(model):
    result = {}
    for value in model.graph.inputs:
        shape = [d if isinstance(d, int) else 3 for d in value.shape]
        # drawn anew in each call: the same feeds whatever tests ran before
        drawn = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        result[value.name] = drawn if value.name == "x" else np.array(True)
    return result


def same(before, after, feeds, run):
    expected, found = run(before, feeds), run(after, feeds)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=2e-4, atol=2e-4 * np.abs(array).max())


@pytest.mark.parametrize("name", CASES)
def test_outputs_stay_the_same(name, parse, run):
    text, tensors = CASES[name]
    model = parse(text, **tensors)
    equal = model.clone()
    assert Equalize({}).run(equal)
    assert to_text(equal, weights=True) != to_text(model, weights=True)
    same(model, equal, feeds_of(model), run)


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_would_show_is_left_alone(name, parse, run):
    text, tensors = LEFT_ALONE[name]
    model = parse(text, **tensors)
    before = to_text(model, weights=True)
    assert not Equalize({}).run(model)
    assert to_text(model, weights=True) == before


def ratio(array):
    """Largest over smallest channel, images or tokens."""
    axis = (0, 2, 3) if array.ndim == 4 else (0, 1)
    largest = np.abs(array).max(axis=axis)
    return float(largest.max() / largest.min())


@pytest.mark.parametrize(("name", "value"), [("conv_relu_conv", "c"), ("norm_into_matrices", "n")])
def test_channels_come_closer_when_activations_were_observed(name, value, parse, run):
    text, tensors = CASES[name]
    model = parse(text, **tensors)
    feeds = feeds_of(model)

    def watch(model):
        watched = model.clone()
        found = next(v for n in watched.graph for v in n.outputs if v.name == value)
        watched.graph.outputs.append(found)
        return run(watched, feeds)[value]

    before = watch(model)
    statistics = TensorStatistics()
    statistics.update(summarise(before))
    assert Equalize({value: statistics}).run(model)
    # the rule leaves sqrt(r1 r2) of each channel, and the weights r2 are even to a factor of four
    assert ratio(watch(model)) < 2 * np.sqrt(ratio(before))


def test_dead_channels_stay_what_they_are(parse, run):
    """Neither a channel without weights nor one that nobody reads is blown up."""
    text, tensors = CASES["conv_relu_conv"]
    w, u = tensors["w"].copy(), tensors["u"].copy()
    w[2], u[:, 5] = 0.0, 0.0
    model = parse(text, **{**tensors, "w": w, "u": u})
    equal = model.clone()
    assert Equalize({}).run(equal)
    same(model, equal, feeds_of(model), run)
    for value in equal.graph.initializers.values():
        assert np.isfinite(value.const_value.numpy()).all()
