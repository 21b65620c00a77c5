"""Which integer forms a layer can take: rules that onnxruntime's kernels set."""

from __future__ import annotations

import numpy as np
import pytest

from compress.graph.layers import find_layers
from compress.passes.quantize.forms import Form, observed, possible_forms, writes_uint8

FLOAT, INT8, OUT, DYNAMIC, BLOCK = (
    Form.FLOAT,
    Form.INT8,
    Form.INT8_TO_FLOAT,
    Form.DYNAMIC,
    Form.BLOCK,
)
RNG = np.random.default_rng(0)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


IMAGE = "g (float[N,4,8,8] x) => (float[N,?,?,?] y) "
MATRIX = "g (float[N,256] x) => (float[N,?] y) "
CASES = {
    "conv": (IMAGE + "{ y = Conv (x, w) }", {"w": floats(8, 4, 3, 3)}, (FLOAT, INT8)),
    "conv_of_volumes": (
        "g (float[N,4,5,5,5] x) => (float[N,?,?,?,?] y) { y = Conv (x, w) }",
        {"w": floats(8, 4, 3, 3, 3)}, (FLOAT,)),
    "conv_transpose": (
        IMAGE + "{ y = ConvTranspose (x, w) }", {"w": floats(4, 8, 3, 3)}, (FLOAT,)),
    "conv_with_computed_weights": (
        "g (float[N,4,8,8] x, float[8,4,3,3] w) => (float[N,?,?,?] y) { y = Conv (x, w) }",
        {}, (FLOAT,)),
    "gemm": (
        MATRIX + "{ y = Gemm (x, w, b) }", {"w": floats(256, 8), "b": floats(8)},
        (FLOAT, INT8, OUT, DYNAMIC, BLOCK)),
    "small_gemm": (
        "g (float[N,16] x) => (float[N,8] y) { y = Gemm <transB = 1> (x, w) }",
        {"w": floats(8, 16)}, (FLOAT, INT8, OUT, DYNAMIC)),
    "gemm_with_alpha": (
        MATRIX + "{ y = Gemm <alpha = 0.5> (x, w) }", {"w": floats(256, 8)}, (FLOAT,)),
    "gemm_with_a_matrix_of_biases": (
        "g (float[3,256] x) => (float[3,8] y) { y = Gemm (x, w, b) }",
        {"w": floats(256, 8), "b": floats(3, 8)}, (FLOAT,)),
    "gemm_transposed": (
        "g (float[256,3] x) => (float[3,8] y) { y = Gemm <transA = 1> (x, w) }",
        {"w": floats(256, 8)}, (FLOAT,)),
    "matmul": (
        "g (float[N,6,256] x) => (float[N,6,8] y) { y = MatMul (x, w) }",
        {"w": floats(256, 8)}, (FLOAT, OUT, DYNAMIC, BLOCK)),
    "batch_of_matrices": (
        "g (float[2,6,16] x) => (float[2,6,8] y) { y = MatMul (x, w) }",
        {"w": floats(2, 16, 8)}, (FLOAT,)),
    "activations_only": (
        "g (float[N,6,16] x, float[N,16,8] w) => (float[N,6,8] y) { y = MatMul (x, w) }",
        {}, (FLOAT,)),
    "double": (
        "g (double[N,16] x) => (double[N,8] y) { y = MatMul (x, w) }",
        {"w": floats(16, 8).astype(np.float64)}, (FLOAT,)),
    "half": (
        "g (float16[N,16] x) => (float16[N,8] y) { y = MatMul (x, w) }",
        {"w": floats(16, 8).astype(np.float16)}, (FLOAT,)),
    "add": (
        "g (float[N,8] x, float[N,8] z) => (float[N,8] y) { y = Add (x, z) }", {}, (FLOAT, INT8)),
    "add_of_a_constant": (MATRIX + "{ y = Add (x, w) }", {"w": floats(256)}, (FLOAT,)),
    "add_of_integers": (
        "g (int64[N,8] x, int64[N,8] z) => (int64[N,8] y) { y = Add (x, z) }", {}, (FLOAT,)),
    "softmax": (MATRIX + "{ y = Softmax (x) }", {}, (FLOAT,)),
    "max_pool": (IMAGE + "{ y = MaxPool <kernel_shape = [2,2]> (x) }", {}, (FLOAT, INT8)),
    "max_pool_with_places": (
        "g (float[N,4,8,8] x) => (float[N,?,?,?] y, int64[N,?,?,?] i)"
        " { y, i = MaxPool <kernel_shape = [2,2]> (x) }", {}, (FLOAT,)),
    "reshape_to_a_computed_shape": (
        "g (float[N,8] x, int64[2] s) => (float[?,?] y) { y = Reshape (x, s) }", {}, (FLOAT,)),
    "transpose_of_integers": (
        "g (int64[N,8] x) => (int64[8,N] y) { y = Transpose (x) }", {}, (FLOAT,)),
    "linear_resize": (
        IMAGE + '{ y = Resize <mode = "linear"> (x, , s) }',
        {"s": np.array([1, 1, 2, 2], np.float32)}, (FLOAT,)),
    "nearest_resize": (
        IMAGE + '{ y = Resize <mode = "nearest"> (x, , s) }',
        {"s": np.array([1, 1, 2, 2], np.float32)}, (FLOAT, INT8)),
    "the_runtimes_own": (MATRIX + "{ y = com.microsoft.Gelu (x) }", {}, (FLOAT,)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_possible_forms(name, parse):
    text, tensors, expected = CASES[name]
    layer = find_layers(parse(text, **tensors))[-1]
    assert possible_forms(layer) == expected


def test_what_a_static_form_needs_to_know(parse):
    text = IMAGE + "{ a = Conv (x, w) y = %s (a) }"
    w = floats(8, 4, 3, 3)
    plain = find_layers(parse(IMAGE + "{ y = Conv (x, w) }", w=w))[0]
    relu = find_layers(parse(text % "Relu", w=w))[0]
    smooth = find_layers(parse(text % "HardSwish", w=w))[0]
    assert observed(plain) == ("x", "y")
    # the integer range stands for the Relu
    assert observed(relu) == ("x", "y")
    # the smooth activation is computed in float behind the integer sum
    assert observed(smooth) == ("x", "a")
    assert writes_uint8(relu, INT8)
    assert not writes_uint8(smooth, INT8)
    assert not any(writes_uint8(relu, form) for form in Form if form is not INT8)
    norm = find_layers(parse(MATRIX + "{ y = Softmax (x) }"))[0]
    assert observed(norm) == ()
