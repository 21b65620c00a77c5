"""The hash of a model: evidence is filed under it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from compress.graph.canonical import canonicalize
from compress.graph.identity import CHUNK_BYTES, model_hash

TEXT = "g (float[N,4] x) => (float[N,4] y) { a = Gemm (x, w, b) y = Relu (a) }"
W = np.arange(16, dtype=np.float32).reshape(4, 4)
B = np.ones(4, np.float32)


@pytest.fixture
def original(parse):
    return model_hash(parse(TEXT, w=W, b=B))


def test_the_same_model_has_the_same_hash(original, parse):
    assert original == model_hash(parse(TEXT, w=W, b=B))
    assert original == model_hash(parse(TEXT, b=B, w=W))
    assert original == model_hash(parse(TEXT, w=W, b=B).clone())
    assert len(original) == 64


@pytest.mark.parametrize(
    ("text", "tensors"),
    [
        (TEXT, {"w": W + np.eye(4, dtype=np.float32) * 1e-7, "b": B}),
        (TEXT, {"w": W.T, "b": B}),
        (TEXT, {"w": W, "b": np.ones((1, 4), np.float32)}),
        (TEXT, {"w": W, "b": -B}),
        (TEXT.replace("Relu", "Tanh"), {"w": W, "b": B}),
        (TEXT.replace("Gemm (", "Gemm <alpha = 0.5> ("), {"w": W, "b": B}),
        (TEXT.replace("N", "2"), {"w": W, "b": B}),
        (TEXT.replace("(x", "(z").replace(" x)", " z)"), {"w": W, "b": B}),
        (TEXT.replace("w,", "v,"), {"v": W, "b": B}),
    ],
)
def test_anything_else_is_another_model(text, tensors, original, parse):
    assert model_hash(parse(text, **tensors)) != original


def test_swapped_weights_of_equal_shape_are_another_model(parse):
    text = "g (float[N,4] x) => (float[N,4] y) { a = Gemm (x, w) y = Gemm (a, v) }"
    assert model_hash(parse(text, w=W, v=W.T)) != model_hash(parse(text, w=W.T, v=W))


@pytest.mark.parametrize("prepare", [lambda model: model, canonicalize])
def test_weights_inside_subgraphs_count(prepare, parse):
    """As nodes of the branch, or as its initialisers."""
    text = (
        "g (bool flag, float[2,3] x) => (float[2,4] y) {"
        " y = If (flag) <then_branch = t () => (float[2,4] p)"
        " { c = Constant <value = float[3,4] {%s}> () p = MatMul (x, c) },"
        " else_branch = e () => (float[2,4] q) { q = MatMul (x, w) }> }"
    )
    first, second = (
        model_hash(prepare(parse(text % ", ".join(["1"] * 11 + [last]), w=np.ones((3, 4), "f"))))
        for last in ("1", "2")
    )
    assert first != second


def test_a_view_hashes_as_its_content(parse):
    model = parse(TEXT, w=W, b=B)
    expected = model_hash(model)
    model.graph.initializers["w"].const_value = ir.tensor(W.T.copy().T, name="w")
    assert model_hash(model) == expected


def test_large_weights_are_read_to_their_end(parse, monkeypatch):
    monkeypatch.setattr("compress.graph.identity.CHUNK_BYTES", 16)
    changed = W.copy()
    changed[-1, -1] += 1
    hashes = {model_hash(parse(TEXT, w=w, b=B)) for w in (W, changed)}
    assert len(hashes) == 2
    assert CHUNK_BYTES > 2**20
