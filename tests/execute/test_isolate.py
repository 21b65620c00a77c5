"""Probing a model in another process: reports, refusals, crashes and hangs."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.errors import ModelError, UsageError
from compress.execute import isolate
from compress.execute.isolate import Port, probe


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray] | None = None,
    shape: tuple[int | str, ...] = (2, 3),
    dtype: int = TensorProto.FLOAT,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    path.write_bytes(model.SerializeToString())
    return path


def test_report_of_a_healthy_model(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], shape=("batch", 3))
    report = probe(path)
    assert report.inputs == (Port("x", "float32", ("batch", 3)),)
    assert report.outputs == (Port("y", "float32", ("batch", 3)),)
    assert report.load_ms > 0
    assert report.first_run_ms > 0
    assert 10 * 2**20 < report.peak_rss_bytes < 2**30


def test_given_inputs_and_outputs(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [helper.make_node("Neg", ["x"], ["y"])], shape=("n", 3))
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.savez(tmp_path / "in.npz", x=x)
    probe(path, inputs=tmp_path / "in.npz", outputs=tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as outputs:
        np.testing.assert_array_equal(outputs["y"], -x)


def test_sizes_of_free_dimensions(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [helper.make_node("Shape", ["x"], ["y"])], shape=("n", "m"))
    probe(path, dimensions={"n": 5}, outputs=tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as outputs:
        assert outputs["y"].tolist() == [5, 1]


@pytest.mark.parametrize(
    "dtype", [TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT16, TensorProto.STRING]
)
def test_made_up_inputs_of_other_types(tmp_path: Path, dtype: int) -> None:
    path = save(tmp_path / "m.onnx", [helper.make_node("Shape", ["x"], ["y"])], dtype=dtype)
    assert probe(path).outputs[0].dtype == "int64"


def test_disabled_optimizers_are_passed_on(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])])
    assert probe(path, disabled_optimizers=["ConstantFolding"]).load_ms > 0


def test_external_data_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = {"w": np.ones((3, 4), np.float32)}
    path = save(tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], weight)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    monkeypatch.chdir("/")
    assert probe(path).outputs[0].dtype == "float32"


def test_modules_in_the_current_folder_do_not_get_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])])
    (tmp_path / "numpy.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    assert probe(path).load_ms > 0


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([("Nonsense", ["x"], ["y"])], "cannot load .*Nonsense"),
        ([("Relu", ["missing"], ["y"])], "cannot load .*missing"),
        ([("Add", ["x", "y"], ["z"]), ("Relu", ["z"], ["y"])], "cannot load"),
        ([("Reshape", ["x", "to"], ["y"])], r"cannot run .*tried x=1x3"),
    ],
)
def test_refusals_are_one_line(
    tmp_path: Path, nodes: list[tuple[str, list[str], list[str]]], message: str
) -> None:
    made = [helper.make_node(kind, inputs, outputs) for kind, inputs, outputs in nodes]
    path = save(tmp_path / "m.onnx", made, {"to": np.array([7, -1])}, shape=("n", 3))
    with pytest.raises(ModelError, match=message) as caught:
        probe(path)
    assert "\n" not in str(caught.value)


def test_garbage_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"garbage" * 100)
    with pytest.raises(ModelError, match="cannot load"):
        probe(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="does not exist"):
        probe(tmp_path / "none.onnx")


def test_model_that_crashes_onnxruntime_1_32(tmp_path: Path) -> None:
    node = helper.make_node("GatherND", ["x", "i"], ["y"], batch_dims=-7)
    path = save(tmp_path / "m.onnx", [node], {"i": np.array([[0]])})
    # a later onnxruntime may refuse it in an orderly way: an error in either case
    with pytest.raises(ModelError, match=r"died \(SIG|cannot load"):
        probe(path)


def test_model_that_never_ends(tmp_path: Path) -> None:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Relu", ["v"], ["w"])],
        "body",
        [
            info("i", TensorProto.INT64, []),
            info("c", TensorProto.BOOL, []),
            info("v", TensorProto.FLOAT, None),
        ],
        [info("d", TensorProto.BOOL, []), info("w", TensorProto.FLOAT, None)],
    )
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Loop", ["trips", "go", "x"], ["y"], body=body)],
        {"trips": np.array(1 << 60), "go": np.array(True)},
    )
    started = time.monotonic()
    with pytest.raises(ModelError, match=r"still running .* after 2 s"):
        probe(path, timeout_s=2)
    assert time.monotonic() - started < 10


def test_model_that_needs_more_memory_than_there_is(tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("ConstantOfShape", ["size"], ["z"]),
            helper.make_node("Neg", ["z"], ["y"]),
        ],
        {"size": np.array([1 << 45])},
    )
    with pytest.raises(ModelError, match="onnxruntime"):
        probe(path)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.kill(os.getpid(), 11)", r"died \(SIGSEGV\) while starting"),
        ("import os; os.abort()", r"died \(SIGABRT\)"),
        ("import os; os.kill(os.getpid(), 9)", r"died \(SIGKILL\) .* needs more memory"),
        ("raise ValueError('odd')", "died while starting .*ValueError: odd"),
        ("import os; os._exit(3)", "died while starting .*exit code 3"),
        (
            'import os; print(\'{"phase": "load"}\', flush=True); os.kill(os.getpid(), 11)',
            r"died \(SIGSEGV\) while loading",
        ),
        (
            'import os; print(\'{"phase": "run"}\\n{"repo\', flush=True); os.kill(os.getpid(), 8)',
            r"died \(SIGFPE\) while running",
        ),
        ("import time; time.sleep(60)", "still starting .* after 1 s"),
    ],
)
def test_every_end_of_the_child_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    child = tmp_path / "child.py"
    child.write_text(code)
    monkeypatch.setattr(isolate, "_CHILD", child)
    path = save(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])])
    with pytest.raises(ModelError, match=message) as caught:
        probe(path, timeout_s=1)
    assert "\n" not in str(caught.value)
