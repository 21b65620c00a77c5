"""Small networks as files of onnx hold them, with random but fixed weights."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser

HEADER = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'


def floats(*shape: int, seed: int = 0, scale: float = 0.2) -> np.ndarray:
    generator = np.random.default_rng([seed, *shape])
    return (generator.standard_normal(shape) * scale).astype(np.float32)


def network(text: str, **tensors: np.ndarray) -> onnx.ModelProto:
    """A model from onnx's text, and initialisers by name."""
    proto = onnx.parser.parse_model(text if text.lstrip().startswith("<") else HEADER + text)
    for name, data in tensors.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(data), name))
    proto.producer_name = "tests"
    onnx.checker.check_model(proto)
    return proto


def cnn() -> onnx.ModelProto:
    """Two convolutions with a shortcut, pooling and a classifier of 10 classes; any batch size."""
    return network(
        "cnn (float[N,3,12,12] image) => (float[N,10] scores) {"
        " a = Conv <pads = [1,1,1,1]> (image, w1, b1) r1 = Relu (a)"
        " c = Conv <pads = [1,1,1,1]> (r1, w2, b2) r2 = Relu (c) s = Add (r1, r2)"
        " d = Conv <pads = [1,1,1,1]> (s, w4, b4) r4 = Relu (d)"
        " g = GlobalAveragePool (r4) v = Flatten (g) scores = Gemm (v, w3, b3) }",
        w1=floats(32, 3, 3, 3),
        b1=floats(32),
        w2=floats(32, 32, 3, 3, scale=0.08),
        b2=floats(32, seed=2),
        w4=floats(32, 32, 3, 3, seed=4, scale=0.08),
        b4=floats(32, seed=4),
        w3=floats(32, 10, scale=1.0),
        b3=floats(10),
    )


def images(count: int = 24, seed: int = 1) -> dict[str, np.ndarray]:
    return {"image": floats(count, 3, 12, 12, seed=seed, scale=1.0)}


def encoder() -> onnx.ModelProto:
    """One block of attention and a two-layer perceptron over token ids, with a mask.

    Two inputs, int64 ids and a float mask, any batch size and length; two outputs.
    """
    width = 32
    return network(
        "encoder (int64[B,T] ids, float[B,T] mask) => (float[B,T,32] hidden, float[B,5] logits) {"
        " e = Gather (table, ids)"
        " q = MatMul (e, wq) k = MatMul (e, wk) v0 = MatMul (e, wv) v = Add (v0, bv)"
        " kt = Transpose <perm = [0,2,1]> (k) qk = MatMul (q, kt) z = Mul (qk, scale)"
        " m1 = Sub (one, mask) m2 = Mul (m1, far) m3 = Unsqueeze (m2, axis) zm = Add (z, m3)"
        " p = Softmax <axis = -1> (zm) att = MatMul (p, v) o = MatMul (att, wo) h = Add (o, e)"
        " n = LayerNormalization (h, gamma, beta)"
        " f0 = MatMul (n, w1) f1 = Add (f0, b1) f2 = Relu (f1) f3 = MatMul (f2, w2)"
        " f4 = Add (f3, b2) hidden = Add (f4, n)"
        " first = Gather <axis = 1> (hidden, zero) logits = Gemm <transB = 1> (first, wc, bc) }",
        table=floats(50, width, scale=1.0),
        wq=floats(width, width),
        wk=floats(width, width, seed=1),
        wv=floats(width, width, seed=2),
        bv=floats(width),
        wo=floats(width, width, seed=3),
        gamma=1 + floats(width, seed=5),
        beta=floats(width, seed=6),
        w1=floats(width, 128),
        b1=floats(128),
        w2=floats(128, width),
        b2=floats(width, seed=7),
        wc=floats(5, width, scale=1.0),
        bc=floats(5),
        scale=np.float32(width**-0.5),
        one=np.float32(1),
        far=np.float32(-1e4),
        axis=np.array([1], np.int64),
        zero=np.array(0, np.int64),
    )


def sentences(count: int = 12) -> list[dict[str, np.ndarray]]:
    """Samples of different lengths."""
    generator = np.random.default_rng(3)
    samples = []
    for _ in range(count):
        length = int(generator.integers(4, 12))
        mask = np.ones((1, length), np.float32)
        mask[0, length - 1 :] = 0
        samples.append({"ids": generator.integers(0, 50, (1, length)), "mask": mask})
    return samples
