"""Batch normalisation disappears into weights, exactly or not at all."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest

from compress.graph.fold_batch_norm import FoldBatchNorm
from compress.graph.infer_shapes import InferShapes
from compress.graph.name_values import NameValues

RNG = np.random.default_rng(1)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def statistics(channels, prefix=""):
    return {
        f"{prefix}s": floats(channels),
        f"{prefix}b": floats(channels),
        f"{prefix}m": floats(channels),
        f"{prefix}v": np.abs(floats(channels)) + 0.1,
    }


IMAGE = "g (float[N,4,7,7] x) => (float[N,?,?,?] y) "
MATRIX = "g (float[N,5] x) => (float[N,?] y) "
BN = "BatchNormalization <epsilon = 0.01>"


def spelled(text):
    """`text` with BN (a) written out."""
    return re.sub(r"BN \((\w+)\)", BN + r" (\1, s, b, m, v)", text)


FOLDED = {
    "conv": (IMAGE + "{ a = Conv (x, w, c) y = BN (a) }",
             {"w": floats(6, 4, 3, 3), "c": floats(6)}, 6),
    "conv_without_bias": (IMAGE + "{ a = Conv <pads = [1,1,1,1]> (x, w) y = BN (a) }",
                          {"w": floats(6, 4, 3, 3)}, 6),
    "grouped_conv": (IMAGE + "{ a = Conv <group = 2> (x, w) y = BN (a) }",
                     {"w": floats(6, 2, 3, 3)}, 6),
    "depthwise_conv": (IMAGE + "{ a = Conv <group = 4> (x, w) y = BN (a) }",
                       {"w": floats(4, 1, 3, 3)}, 4),
    "conv_transpose": (IMAGE + "{ a = ConvTranspose (x, w, c) y = BN (a) }",
                       {"w": floats(4, 6, 3, 3), "c": floats(6)}, 6),
    "grouped_conv_transpose": (
        IMAGE + "{ a = ConvTranspose <group = 2, strides = [2,2]> (x, w) y = BN (a) }",
        {"w": floats(4, 3, 3, 3)}, 6),
    "gemm": (MATRIX + "{ a = Gemm (x, w, c) y = BN (a) }",
             {"w": floats(5, 6), "c": floats(6)}, 6),
    "gemm_transposed": (MATRIX + "{ a = Gemm <transB = 1> (x, w) y = BN (a) }",
                        {"w": floats(6, 5)}, 6),
    "matmul": (MATRIX + "{ a = MatMul (x, w) y = BN (a) }", {"w": floats(5, 6)}, 6),
    "matmul_add": (MATRIX + "{ a = MatMul (x, w) d = Add (c, a) y = BN (d) }",
                   {"w": floats(5, 6), "c": floats(6)}, 6),
    "before_conv": (IMAGE + "{ a = BN (x) y = Conv (a, w, c) }",
                    {"w": floats(6, 4, 3, 3), "c": floats(6)}, 4),
    "before_grouped_conv": (IMAGE + "{ a = BN (x) y = Conv <group = 2> (a, w) }",
                            {"w": floats(6, 2, 3, 3)}, 4),
    "before_gemm": (MATRIX + "{ a = BN (x) y = Gemm <transB = 1> (a, w, c) }",
                    {"w": floats(6, 5), "c": floats(6)}, 5),
    "before_two_convs": (
        IMAGE + "{ a = BN (x) p = Conv (a, w) q = Conv (a, u) y = Add (p, q) }",
        {"w": floats(6, 4, 1, 1), "u": floats(6, 4, 1, 1)}, 4),
}  # fmt: skip


def feed(model):
    dims = [d if isinstance(d, int) else 3 for d in model.graph.inputs[0].shape]
    return {"x": floats(*dims)}


@pytest.mark.parametrize("case", FOLDED)
def test_folded_models_compute_the_same(case, parse, assert_same):
    text, weights, channels = FOLDED[case]
    constants = weights | statistics(channels)
    model, before = (parse(spelled(text), **constants) for _ in range(2))
    InferShapes().run(model)
    assert FoldBatchNorm().run(model)
    assert "BatchNormalization" not in {n.op_type for n in model.graph}
    assert not FoldBatchNorm().run(model)
    assert_same(before, model, feed(model), tolerance=2e-5)


KEPT = {
    "padded_before": (IMAGE + "{ a = BN (x) y = Conv <pads = [1,1,1,1]> (a, w) }", 4),
    "same_padding_before": (
        IMAGE + '{ a = BN (x) y = Conv <auto_pad = "SAME_UPPER"> (a, w) }', 4),
    "relu_between": (IMAGE + "{ a = Conv (x, w) r = Relu (a) y = BN (r) }", 4),
    "read_twice": (
        IMAGE + "{ a = Conv (x, w) n = BN (a) y = Add (a, n) }", 4),
    "scaled_gemm": (MATRIX + "{ a = Gemm <alpha = 2.0> (x, u) y = BN (a) }", 4),
    "training": (IMAGE + "{ a = Conv (x, w) "
                 "y, p, q = BatchNormalization <training_mode = 1> (a, s, b, m, v) }", 4),
    "channels_are_not_last": (
        "g (float[2,4,5] x) => (float[2,4,5] y) "
        "{ a = MatMul (x, t) y = BN (a) }", 4),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_what_would_not_be_exact_stays(case, parse):
    text, channels = KEPT[case]
    weights = {"w": floats(4, 4, 3, 3), "u": floats(5, 4), "t": floats(5, 5)}
    model = parse(spelled(text), **weights, **statistics(channels))
    InferShapes().run(model)
    assert not FoldBatchNorm().run(model)


def test_a_square_matmul_of_rank_three_stays(parse):
    # The last dimension is as long as the channels', but it is not theirs.
    text = "g (float[2,4,4] x) => (float[2,4,4] y) { a = MatMul (x, w) y = BN (a) }"
    model = parse(spelled(text), w=floats(4, 4), **statistics(4))
    InferShapes().run(model)
    assert not FoldBatchNorm().run(model)


def test_shared_weights_are_copied(parse, golden_pass, assert_same):
    text = (
        IMAGE
        + f"""{{ a = Conv (x, w) p = BN (a)
        c = Conv (x, w) q = {BN} (c, os, ob, om, ov) y = Add (p, q) }}"""
    )
    constants = {"w": np.ones((2, 4, 1, 1), np.float32)} | {
        f"{prefix}{name}": np.array([first, 4], np.float32)
        for prefix, first in (("", 1), ("o", 9))
        for name in "sbmv"
    }
    model, before = (parse(spelled(text), **constants) for _ in range(2))
    NameValues().run(model)
    InferShapes().run(model)
    golden_pass("fold_batch_norm", model, FoldBatchNorm())
    assert_same(before, model, feed(model), tolerance=2e-5)


def test_names_of_outputs_and_weights_survive(parse):
    text, weights, channels = FOLDED["conv"]
    model = parse(spelled(text), **weights, **statistics(channels))
    InferShapes().run(model)
    FoldBatchNorm().run(model)
    assert [v.name for v in model.graph.outputs] == ["y"]
    assert [v.name for v in model.graph[0].inputs] == ["x", "w", "c"]


def test_degenerate_statistics_stay(parse):
    text, weights, channels = FOLDED["conv"]
    broken = statistics(channels) | {"v": np.full(channels, -5, np.float32)}
    model = parse(spelled(text), **weights, **broken)
    InferShapes().run(model)
    assert not FoldBatchNorm().run(model)


def test_what_does_not_fit_into_float16_stays(parse):
    text = "g (float16[1,1,3,3] x) => (float16[?,?,?,?] y) " \
           "{ a = Conv (x, w) y = BN (a) }"  # fmt: skip
    half = {k: v.astype(np.float16) for k, v in statistics(1).items()}
    tiny = half | {"v": np.zeros(1, np.float16), "s": np.full(1, 6e4, np.float16)}
    for constants, folds in ((half, True), (tiny, False)):
        model = parse(spelled(text), w=np.full((1, 1, 1, 1), 2, np.float16), **constants)
        InferShapes().run(model)
        assert FoldBatchNorm().run(model) is folds
        assert model.graph.initializers["w"].dtype == ir.DataType.FLOAT16
