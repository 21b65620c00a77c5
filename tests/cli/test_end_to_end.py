"""The real command line on real files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
FILES = {"model.onnx", "report.json", "report.html", "plan.json"}
EVALUATION = """
import numpy as np

def evaluate(run):
    print("evaluating")
    x = np.random.default_rng(1).standard_normal((8, 8, 16, 16), dtype=np.float32)
    scores = [run({"image": part[np.newaxis]})["logits"] for part in x]
    return float(np.isfinite(scores).mean())
"""


def network() -> onnx.ModelProto:
    """Two convolutions and a classifier over the mean."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((16, 8, 3, 3)) / 8,
        "w2": rng.standard_normal((16, 16, 3, 3)) / 12,
        "w3": rng.standard_normal((16, 4)) / 4,
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["logits"], name="third"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 8, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, samples for it, an evaluation and damaged files."""
    folder = tmp_path_factory.mktemp("project")
    content = network().SerializeToString()
    (folder / "net.onnx").write_bytes(content)
    (folder / "half.onnx").write_bytes(content[: len(content) // 2])
    (folder / "noise.onnx").write_bytes(np.random.default_rng(2).bytes(5000))
    (folder / "empty.onnx").write_bytes(b"")
    rng = np.random.default_rng(3)
    np.savez(folder / "calib.npz", image=rng.standard_normal((16, 8, 16, 16), dtype=np.float32))
    np.savez(folder / "other.npz", picture=np.zeros((16, 8, 16, 16), dtype=np.float32))
    (folder / "measure.py").write_text(EVALUATION)
    return folder


def environment(folder: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "COLUMNS")}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "COMPRESS_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }


def compress(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "compress", *arguments],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.fixture(scope="module")
def finished(folder: Path) -> subprocess.CompletedProcess[str]:
    arguments = ("--data", "calib.npz", "--eval", "measure.py:evaluate", "--json", "-o", "out")
    return compress(folder, "run", "net.onnx", *arguments)


def test_a_run_leaves_what_it_prints(
    folder: Path, finished: subprocess.CompletedProcess[str]
) -> None:
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    assert finished.stdout == (folder / "out" / "report.json").read_text()
    assert "evaluating" in finished.stderr
    assert report["command"] == (
        "compress run net.onnx --data calib.npz --eval measure.py:evaluate --json -o out"
    )
    assert {path.name for path in (folder / "out").iterdir()} == FILES
    onnx.checker.check_model(onnx.load(folder / "out" / "model.onnx"))
    layers = json.loads((folder / "out" / "plan.json").read_text())["layers"]
    assert {"first", "second", "third"} <= {layer["name"] for layer in layers}


def test_the_result_can_be_shown_again(
    folder: Path, finished: subprocess.CompletedProcess[str]
) -> None:
    page = (folder / "out" / "report.html").read_bytes()
    done = compress(folder, "report", "out")
    assert done.returncode == 0
    assert done.stderr == ""
    assert json.loads(finished.stdout)["outcome"] in done.stdout
    assert (folder / "out" / "report.html").read_bytes() == page


def test_the_layers_of_a_model(folder: Path) -> None:
    done = compress(folder, "inspect", "net.onnx", "--json")
    assert done.returncode == 0, done.stderr
    layers = {layer["name"]: layer for layer in json.loads(done.stdout)}
    assert layers["first"]["macs"] == 16 * 16 * 16 * 8 * 9
    assert layers["third"]["weight_bytes"] == 16 * 4 * 4
    assert [form["form"] for form in layers["second"]["forms"]][:2] == ["float", "int8"]


def test_two_models_in_turns(folder: Path, finished: subprocess.CompletedProcess[str]) -> None:
    done = compress(folder, "bench", "net.onnx", "--against", "out/model.onnx", "--json")
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)["models"]
    assert first["speedup"] is None
    assert second["speedup"]["low"] <= second["speedup"]["median"] <= second["speedup"]["high"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("run", "half.onnx"), 3, "half.onnx"),
        (("run", "noise.onnx"), 3, "noise.onnx"),
        (("run", "empty.onnx"), 3, "empty.onnx is empty"),
        (("run", "missing.onnx"), 2, "missing.onnx does not exist"),
        (("run", "net.onnx", "--data", "other.npz"), 2, "picture"),
        (("run", "net.onnx", "--data", "missing.npz"), 2, "missing.npz"),
        (("run", "net.onnx", "--shape", "picture=1x8x16x16"), 2, "no input 'picture'"),
        (("run", "net.onnx", "--shape", "image=1x9x16x16"), 2, "does not fit"),
        (("run", "net.onnx", "--target", "abacus"), 2, "no device 'abacus'"),
        (("run", "net.onnx", "--techniques", "magic"), 2, "magic"),
        (("run", "net.onnx", "--model", "net.py:build"), 2, "--model is for weights only"),
        (("inspect", "noise.onnx"), 3, "noise.onnx"),
        (("bench", "net.onnx", "--against", "half.onnx"), 3, "half.onnx"),
    ],
)
def test_bad_input_is_one_line(
    folder: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    out = ("-o", "bad", "--quiet") if arguments[0] == "run" else ("--json",)
    done = compress(folder, *arguments, *out)
    assert done.returncode == code
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert not (folder / "bad").exists()


def test_an_interrupted_run_leaves_nothing(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "compress", "run", "net.onnx", "--no-resume", "-o", "interrupted"],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell that runs the suite in the background has its children ignore the signal
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    while process.stderr.readline().strip() != "measuring layers on this machine":
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert printed == ""
    assert errors.splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors
    assert not [path for path in folder.iterdir() if "interrupted" in path.name]
