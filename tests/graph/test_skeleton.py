"""The skeleton of a model is small, and taking it leaves the model as it was."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from compress.graph.skeleton import KEPT_ELEMENTS, skeleton_proto

TEXT = """g (float[N,64] x, bool c) => (float[N,64] y) { a = MatMul (x, w) y = If (c) <
    then_branch = t () => (p) { p = MatMul (a, w) },
    else_branch = e () => (q) { r = Reshape (a, shape) q = Neg (r) } > }"""


def test_large_tensors_are_left_out_and_small_ones_stay(parse):
    model = parse(TEXT, w=np.ones((64, 64), "f"), shape=np.array([-1, 64]))
    tensors = {name: v.const_value for name, v in model.graph.initializers.items()}
    proto = skeleton_proto(model)
    assert proto.ByteSize() < 1000
    stored = {t.name: t for t in proto.graph.initializer}
    assert list(stored["w"].dims) == [64, 64]
    assert stored["w"].data_type == onnx.TensorProto.FLOAT
    assert stored["w"].data_location == onnx.TensorProto.EXTERNAL
    assert onnx.numpy_helper.to_array(stored["shape"]).tolist() == [-1, 64]
    assert {n: v.const_value for n, v in model.graph.initializers.items()} == tensors


def test_the_limit_is_what_it_says(parse):
    text = "g (float[1] x) => (float[?] y, float[?] z) { y = Add (x, k) z = Add (x, l) }"
    model = parse(text, k=np.ones(KEPT_ELEMENTS, "f"), l=np.ones(KEPT_ELEMENTS + 1, "f"))
    stored = {t.name: t.data_location for t in skeleton_proto(model).graph.initializer}
    assert stored == {"k": onnx.TensorProto.DEFAULT, "l": onnx.TensorProto.EXTERNAL}


def test_a_failure_restores_the_weights(parse, monkeypatch):
    model = parse(TEXT, w=np.ones((64, 64), "f"), shape=np.array([-1, 64]))
    weight = model.graph.initializers["w"].const_value

    def fail(_model):
        raise RuntimeError("no")

    monkeypatch.setattr("compress.graph.skeleton.ir.to_proto", fail)
    with pytest.raises(RuntimeError, match="no"):
        skeleton_proto(model)
    assert model.graph.initializers["w"].const_value is weight
