"""Small networks with one structure each, as (onnx's text, initialisers)."""

from __future__ import annotations

import numpy as np


def floats(*shape, seed=0):
    size = int(np.prod(shape))
    rng = np.random.default_rng(seed + size)
    return (rng.standard_normal(shape) / np.sqrt(max(1, size // shape[0]))).astype(np.float32)


def integers(*numbers):
    return np.array(numbers, np.int64)


def residual():
    """The stem and the block's last convolution are added: they lose the same channels."""
    return (
        "g (float[N,3,6,6] x) => (float[N,2,6,6] y) {"
        " a = Conv <pads = [1,1,1,1]> (x, wa, ba) r = Relu (a)"
        " b = Conv <pads = [1,1,1,1]> (r, wb, bb) s = Relu (b)"
        " c = Conv (s, wc, bc) d = Add (c, r) t = Relu (d) y = Conv (t, wy) }",
        {
            "wa": floats(4, 3, 3, 3),
            "ba": floats(4),
            "wb": floats(6, 4, 3, 3),
            "bb": floats(6),
            "wc": floats(4, 6, 1, 1),
            "bc": floats(4, seed=1),
            "wy": floats(2, 4, 1, 1),
        },
    )


def concat():
    """Two branches side by side, read by one convolution; one is read on its own as well."""
    return (
        "g (float[N,3,6,6] x) => (float[N,2,6,6] y) {"
        " a = Conv (x, wa, ba) b = Conv (x, wb) c = Concat <axis = 1> (a, b) r = Relu (c)"
        " d = Conv (r, wd) e = Conv (b, we) y = Add (d, e) }",
        {
            "wa": floats(4, 3, 1, 1),
            "ba": floats(4),
            "wb": floats(6, 3, 1, 1),
            "wd": floats(2, 10, 1, 1),
            "we": floats(2, 6, 1, 1),
        },
    )


def depthwise():
    """An inverted residual block: the depthwise convolution goes with the expansion."""
    return (
        "g (float[N,3,6,6] x) => (float[N,3,6,6] y) {"
        " a = Conv (x, wa, ba) r = HardSwish (a)"
        " b = Conv <pads = [1,1,1,1], group = 6> (r, wb, bb) s = HardSwish (b)"
        " c = Conv (s, wc) y = Add (c, x) }",
        {
            "wa": floats(6, 3, 1, 1),
            "ba": floats(6),
            "wb": floats(6, 1, 3, 3),
            "bb": floats(6, seed=1),
            "wc": floats(3, 6, 1, 1),
        },
    )


def grouped(groups=2):
    """Two groups of four channels lose equally many each; four groups of two are lost whole."""
    return (
        "g (float[N,3,6,6] x) => (float[N,2,6,6] y) {"
        f" a = Conv (x, wa) r = Relu (a) b = Conv <group = {groups}> (r, wb, bb) s = Relu (b)"
        " y = Conv (s, wy) }",
        {
            "wa": floats(8, 3, 1, 1),
            "wb": floats(12, 8 // groups, 1, 1),
            "bb": floats(12),
            "wy": floats(2, 12, 1, 1),
        },
    )


def flatten():
    """One channel of the image is a block of features."""
    return (
        "g (float[N,3,4,4] x) => (float[N,2] y) {"
        " a = Conv (x, wa, ba) r = Relu (a) p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r)"
        " f = Reshape (p, shape) b = Gemm <transB = 1> (f, wb, bb) s = Relu (b)"
        " y = MatMul (s, wy) }",
        {
            "wa": floats(4, 3, 1, 1),
            "ba": floats(4),
            "shape": integers(0, 16),
            "wb": floats(5, 16),
            "bb": floats(5),
            "wy": floats(5, 2),
        },
    )


def attention():
    """Four heads of four columns with projections of their own, and a wide layer behind."""
    return (
        "g (float[N,5,12] x) => (float[N,5,12] y) {"
        " q0 = MatMul (x, wq) q1 = Add (q0, bq) q2 = Reshape (q1, split)"
        " q = Transpose <perm = [0,2,1,3]> (q2)"
        " k0 = MatMul (x, wk) k1 = Add (k0, bk) k2 = Reshape (k1, split)"
        " k = Transpose <perm = [0,2,3,1]> (k2)"
        " v0 = MatMul (x, wv) v1 = Add (v0, bv) v2 = Reshape (v1, split)"
        " v = Transpose <perm = [0,2,1,3]> (v2)"
        " a = MatMul (q, k) p = Softmax <axis = -1> (a) o = MatMul (p, v)"
        " o1 = Transpose <perm = [0,2,1,3]> (o) o2 = Reshape (o1, join)"
        " z = MatMul (o2, wo) y = Add (z, x) }",
        {
            **{f"w{n}": floats(12, 16, seed=i) for i, n in enumerate("qkv")},
            **{f"b{n}": floats(16, seed=i) for i, n in enumerate("qkv")},
            "split": integers(0, -1, 4, 4),
            "join": integers(0, -1, 16),
            "wo": floats(16, 12),
        },
    )


def fused_attention():
    """One projection gives queries, keys and values of four heads."""
    return (
        "g (float[N,5,12] x) => (float[N,5,12] y) {"
        " a = MatMul (x, w) b = Add (a, b0) c = Reshape (b, split)"
        " d = Transpose <perm = [2,0,3,1,4]> (c)"
        " q = Gather <axis = 0> (d, i0) k = Gather <axis = 0> (d, i1) v = Gather <axis = 0> (d, i2)"
        " t = Transpose <perm = [0,1,3,2]> (k) s = MatMul (q, t) p = Softmax <axis = -1> (s)"
        " o = MatMul (p, v) o1 = Transpose <perm = [0,2,1,3]> (o) o2 = Reshape (o1, join)"
        " y = MatMul (o2, wo) }",
        {
            "w": floats(12, 48),
            "b0": floats(48),
            "split": integers(0, 5, 3, 4, 4),
            "join": integers(0, 5, 16),
            **{f"i{i}": np.array(i, np.int64) for i in range(3)},
            "wo": floats(16, 12),
        },
    )
