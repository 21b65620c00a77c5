"""Lowering to onnxruntime: files that are the same for the same model."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from compress.backends.onnxruntime import describe, lower
from compress.errors import DeviceError

W = np.random.default_rng(0).standard_normal((4, 200)).astype(np.float32)


def model(weight=W):
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,200] y)'
        " { y = MatMul (x, w) }"
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return ir.from_proto(proto)


def run(path):
    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {"x": np.eye(4, dtype=np.float32)})[0]


def test_the_same_model_gives_the_same_file(tmp_path):
    first = lower(model(), tmp_path / "one")
    second = lower(model(), tmp_path / "two")
    assert first.path == tmp_path / "one" / "model.onnx"
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.sha256 == second.sha256
    assert first.size_bytes == first.path.stat().st_size
    np.testing.assert_allclose(run(first.path), W, rtol=1e-6)
    assert lower(model(-W), tmp_path / "three").sha256 != first.sha256
    assert describe(first.path) == first


def test_models_that_do_not_fit_into_one_message(tmp_path, monkeypatch):
    """Their weights lie beside them, and count."""
    monkeypatch.setattr("compress.backends.onnxruntime.serialized", lambda model: None)
    original = model()
    artifact = lower(original, tmp_path / "large")
    beside = tmp_path / "large" / "model.onnx.data"
    assert beside.stat().st_size >= W.nbytes
    assert artifact.size_bytes == artifact.path.stat().st_size + beside.stat().st_size
    np.testing.assert_allclose(run(artifact.path), W, rtol=1e-6)
    other = lower(model(-W), tmp_path / "other")
    assert other.path.read_bytes() == artifact.path.read_bytes()
    assert other.sha256 != artifact.sha256
    # the model that was lowered is as it was
    np.testing.assert_array_equal(original.graph.initializers["w"].const_value.numpy(), W)
    assert lower(original, tmp_path / "again").sha256 == artifact.sha256


def test_a_missing_operator_set_is_an_error(tmp_path):
    broken = model()
    broken.graph[0].domain = "com.microsoft"
    with pytest.raises(DeviceError, match=r"com\.microsoft"):
        lower(broken, tmp_path / "broken")
