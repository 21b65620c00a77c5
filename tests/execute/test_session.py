"""Running models in onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest

from compress.errors import DeviceError
from compress.execute import session
from compress.execute.session import (
    SHARED_BYTES,
    Runner,
    detached,
    kernel_times,
    random_feeds,
    serialized,
    value_shapes,
    with_outputs,
)
from compress.graph.printer import to_text

TEXT = (
    '<ir_version: 10, opset_import: ["" : 21]> g (float[N,8] x, int64[N] i)'
    " => (float[N,200] y, int64[N] j) { a = MatMul (x, w) b = Add (a, c) y = Relu (b)"
    " j = Identity (i) }"
)
RNG = np.random.default_rng(0)
W = RNG.standard_normal((8, 200)).astype(np.float32)
LARGE = RNG.standard_normal((8, 4096)).astype(np.float32)


def parse(text=TEXT, **tensors):
    proto = onnx.parser.parse_model(text)
    for name, data in tensors.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(data), name))
    return ir.from_proto(proto)


@pytest.fixture
def model():
    return parse(w=W, c=np.ones(200, np.float32))


FEEDS = {"x": np.ones((3, 8), np.float32), "i": np.arange(3)}


@pytest.mark.parametrize("frugal", [False, True])
def test_outputs_by_name(model, frugal):
    runner = Runner(model, frugal=frugal)
    assert runner.inputs == ["x", "i"]
    assert runner.outputs == ["y", "j"]
    found = runner(FEEDS)
    np.testing.assert_allclose(found["y"], np.maximum(FEEDS["x"] @ W + 1, 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found["j"], [0, 1, 2])
    assert list(runner(FEEDS, ["j"])) == ["j"]


def test_models_bytes_and_files_are_the_same(model, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(serialized(model))
    expected = Runner(model)(FEEDS)
    for source in (path, str(path), path.read_bytes()):
        np.testing.assert_array_equal(Runner(source)(FEEDS)["y"], expected["y"])


def test_the_same_model_serialises_to_the_same_bytes(model):
    assert serialized(model) == serialized(model.clone()) == serialized(model)


def large_model(dtype=np.float32):
    name = {np.float32: "float", np.float16: "float16", np.float64: "double"}[dtype]
    return parse(
        f'<ir_version: 10, opset_import: ["" : 21]> g ({name}[N,8] x) => ({name}[N,4096] y)'
        " { a = MatMul (x, w) y = Add (a, b) }",
        w=LARGE.astype(dtype),
        b=np.ones(4096, dtype),
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_large_weights_are_handed_over_in_place(dtype):
    model = large_model(dtype)
    before = to_text(model, weights=True)
    message, weights = detached(model)
    assert set(weights) == {"w"}
    assert weights["w"].nbytes >= SHARED_BYTES
    assert len(message) < weights["w"].nbytes // 2
    x = RNG.standard_normal((2, 8)).astype(dtype)
    np.testing.assert_allclose(
        Runner(model)({"x": x})["y"], x @ LARGE.astype(dtype) + 1, rtol=2e-2, atol=2e-2
    )
    assert to_text(model, weights=True) == before


def test_a_runner_outlives_its_model():
    """Weights that onnxruntime reads in place must not go away under it."""
    x = np.ones((1, 8), np.float32)
    runner = Runner(large_model())
    expected = x @ LARGE + 1
    junk = [np.full_like(LARGE, 7) for _ in range(20)]
    np.testing.assert_allclose(runner({"x": x})["y"], expected, rtol=1e-4, atol=1e-4)
    assert len(junk) == 20


def test_large_weights_that_nobody_reads_do_not_hurt():
    model = parse(w=W, c=np.ones(200, np.float32), unused=LARGE)
    assert Runner(model)(FEEDS)["y"].shape == (3, 200)


def test_large_weights_in_a_view_or_a_subgraph():
    model = parse(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[N,4096] x, bool flag)'
        " => (float[N,8] y) { y = If (flag)"
        " <then_branch = t () => (float[N,8] p) { p = MatMul (x, w) },"
        " else_branch = e () => (float[N,8] q) { q = Gemm <transB = 1> (x, v) }> }",
        w=LARGE,
        v=LARGE,
    )
    model.graph.initializers["w"].const_value = ir.tensor(LARGE.T, name="w")
    x = RNG.standard_normal((2, 4096)).astype(np.float32)
    for flag in (True, False):
        found = Runner(model)({"x": x, "flag": np.array(flag)})["y"]
        np.testing.assert_allclose(found, x @ LARGE.T, rtol=1e-3, atol=1e-2)


def test_a_model_that_does_not_load_says_so_in_a_line(model):
    model.graph[0].op_type = "Nonsense"
    with pytest.raises(DeviceError, match="Nonsense") as caught:
        Runner(model)
    assert "\n" not in str(caught.value)
    with pytest.raises(DeviceError, match="cannot load"):
        Runner(b"no model at all")


def test_a_run_that_fails_says_so_in_a_line(model):
    runner = Runner(model)
    for feeds in ({"x": np.ones((3, 9), np.float32), "i": np.arange(3)}, {"x": FEEDS["x"]}):
        with pytest.raises(DeviceError, match="failed while running") as caught:
            runner(feeds)
        assert "\n" not in str(caught.value)


def test_any_values_as_outputs(model):
    before = to_text(model)
    watched = with_outputs(model, ["b", "a", "b"])
    assert [v.name for v in watched.graph.outputs] == ["b", "a"]
    found = Runner(watched)(FEEDS)
    np.testing.assert_allclose(found["b"], found["a"] + 1, rtol=1e-6)
    assert to_text(model) == before


def test_shapes_of_values(model):
    assert value_shapes(model, FEEDS, ["a", "j"]) == {
        "a": ((3, 200), "float32"),
        "j": ((3,), "int64"),
    }


def test_kernels_in_the_order_in_which_they_ran(model):
    times = kernel_times(model, FEEDS, runs=5)
    kernels = [kernel for _, kernel, _ in times]
    assert any("MatMul" in k or "Gemm" in k for k in kernels)
    assert all(duration >= 0 for _, _, duration in times)
    assert len(times) == len(set(times)) <= 5


def test_kernels_of_a_model_that_does_not_run(model):
    with pytest.raises(DeviceError, match="failed while running"):
        kernel_times(model, {"x": np.ones((3, 9), np.float32), "i": np.arange(3)}, runs=2)


def test_two_nodes_of_one_name_are_two_kernels():
    model = parse(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[4] x) => (float[4] y)'
        " { a = Exp (x) y = Exp (a) }"
    )
    assert [k for _, k, _ in kernel_times(model, {"x": np.zeros(4, np.float32)}, runs=3)] == [
        "Exp",
        "Exp",
    ]


def test_random_inputs():
    shapes = {"x": ((2, 3), np.dtype("float32")), "i": ((4,), np.dtype("int64"))}
    first, second = random_feeds(shapes), random_feeds(shapes)
    np.testing.assert_array_equal(first["x"], second["x"])
    assert first["x"].dtype == np.float32
    assert first["x"].std() > 0
    np.testing.assert_array_equal(first["i"], np.zeros(4, np.int64))


def test_runs_that_had_to_wait_are_repeated(monkeypatch):
    """The first runs wait half of the time, the second do not: those count."""
    text = '<ir_version: 10, opset_import: ["" : 21]>'
    model = parse(text + "g (float[4] x) => (float[4] y) { y = Exp (x) }")
    clock = iter([0.0, 1.0, 1.0, 2.0])
    busy = iter([0.0, 0.5, 0.5, 1.5])
    monkeypatch.setattr(session.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(session.time, "thread_time", lambda: next(busy))
    monkeypatch.setattr(
        session.json, "load", lambda _: [event(us) for us in (9, 9, *[50] * 4, *[20] * 4)]
    )
    (found,) = kernel_times(model, {"x": np.zeros(4, np.float32)}, runs=4)
    assert found == ("y", "Exp", 20.0)
    assert next(clock, None) is None


def event(us):
    arguments = {"node_index": "0", "op_name": "Exp"}
    return {"cat": "Node", "name": "y_kernel_time", "dur": us, "args": arguments}
