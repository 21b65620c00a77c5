"""The shipped example is what its README says, and its training script works on other data."""

from __future__ import annotations

import gzip
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime as ort
import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "fashion_mnist"


def load_eval() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fashion_mnist_eval", EXAMPLE / "eval.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def session() -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(EXAMPLE / "model.onnx", options, providers=["CPUExecutionProvider"])


def run_in(session: ort.InferenceSession, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def test_accuracy_is_what_the_readme_states(session: ort.InferenceSession) -> None:
    stated = re.search(r"([\d.]+) % on the 2000", (EXAMPLE / "README.md").read_text())
    assert stated is not None
    measured = load_eval().evaluate(lambda feeds: run_in(session, feeds))
    # Another CPU may round two nearly equal logits the other way.
    assert measured == pytest.approx(float(stated[1]) / 100, abs=0.001)
    assert measured >= 0.91


def test_evaluation_does_not_depend_on_the_batch(session: ort.InferenceSession) -> None:
    evaluation, batches = load_eval(), set()

    def run(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        batches.add(len(feeds["image"]))
        return run_in(session, feeds)

    by_hundreds = evaluation.evaluate(run)
    assert batches == {100}
    assert evaluation.evaluate_singly(run) == pytest.approx(by_hundreds, abs=0.001)
    assert batches == {100, 1}


def test_evaluation_counts_right_answers() -> None:
    with np.load(EXAMPLE / "test.npz") as test:
        sevens = float((test["labels"] == 7).mean())

    def always_seven(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"logits": np.eye(10, dtype=np.float32)[np.full(len(feeds["image"]), 7)]}

    assert load_eval().evaluate(always_seven) == pytest.approx(sevens)


def test_model_leaves_the_compiler_work_and_takes_any_batch() -> None:
    model = onnx.load(EXAMPLE / "model.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("Conv") == operators.count("BatchNormalization") == 13
    assert not any(tensor.data_location for tensor in model.graph.initializer)
    (image,), (logits,) = model.graph.input, model.graph.output
    assert (image.name, logits.name) == ("image", "logits")
    for value, rest in ((image, [1, 28, 28]), (logits, [10])):
        batch, *others = value.type.tensor_type.shape.dim
        assert batch.dim_param == "batch"
        assert [dimension.dim_value for dimension in others] == rest


def test_test_set_is_labelled_and_roughly_balanced() -> None:
    with np.load(EXAMPLE / "test.npz") as test:
        images, labels = test["image"], test["labels"]
    assert images.shape == (2000, 1, 28, 28)
    assert labels.shape == (2000,)
    assert images.dtype == np.float32
    assert labels.dtype == np.int64
    per_class = np.bincount(labels, minlength=10)
    assert len(per_class) == 10
    assert per_class.min() >= 150
    assert per_class.max() <= 250
    assert len(np.unique(images, axis=0)) >= 1990


def test_calibration_images_are_pixels_the_test_does_not_contain() -> None:
    with np.load(EXAMPLE / "calib.npz") as calibration, np.load(EXAMPLE / "test.npz") as test:
        assert calibration.files == ["image"]
        images, tested = calibration["image"], test["image"]
    assert images.shape == (512, 1, 28, 28)
    assert images.dtype == np.float32
    assert images.min() == 0.0
    assert images.max() == 1.0
    assert np.allclose(images * 255, np.rint(images * 255), atol=1e-4)
    seen = {image.tobytes() for image in images}
    assert not any(image.tobytes() in seen for image in tested)


@pytest.mark.parametrize(
    ("name", "megabytes"),
    [("model.onnx", 1.0), ("model.pt2", 1.0), ("calib.npz", 1.5), ("test.npz", 3.0)],
)
def test_files_are_small_and_name_no_folder_of_the_machine(name: str, megabytes: float) -> None:
    content = (EXAMPLE / name).read_bytes()
    assert len(content) <= megabytes * 1e6
    for trace in (b"/home/", b"/root/", b"/usr/", b"site-packages", b'File "', b"train.py"):
        assert trace not in content


def test_pt2_and_onnx_agree(session: ort.InferenceSession) -> None:
    torch = pytest.importorskip("torch")
    network = torch.export.load(EXAMPLE / "model.pt2").module()
    with np.load(EXAMPLE / "test.npz") as test:
        images = test["image"][:64]
    for batch in (images, images[:1]):
        with torch.no_grad():
            expected = network(torch.from_numpy(batch)).numpy()
        (logits,) = session.run(["logits"], {"image": batch})
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)


def write_idx(path: Path, values: np.ndarray, pack: bool) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
    raw = header + values.astype(np.uint8).tobytes()
    if pack:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(raw))
    else:
        path.write_bytes(raw)


def run_training(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-B", str(EXAMPLE / "train.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_training_script_works_on_any_idx_folder(tmp_path: Path) -> None:
    """Three classes of 16x16 images, packed and plain files: it trains, exports and agrees."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    rng = np.random.default_rng(0)
    for split, count in (("train", 256), ("t10k", 40)):
        labels = rng.integers(0, 3, count)
        images = rng.integers(0, 60, (count, 16, 16)) + 80 * labels[:, None, None]
        write_idx(data / f"{split}-images-idx3-ubyte", images, pack=split == "train")
        write_idx(data / f"{split}-labels-idx1-ubyte", labels, pack=split == "t10k")
    options = ["--data", str(data), "--out", str(out), "--epochs", "1", "--threads", "1"]
    done = run_training(*options)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir()} == {
        "model.onnx",
        "model.pt2",
        "calib.npz",
        "test.npz",
    }
    with np.load(out / "test.npz") as test, np.load(out / "calib.npz") as calibration:
        assert test["image"].shape == (40, 1, 16, 16)
        assert np.array_equal(test["labels"], labels)
        assert np.array_equal(np.rint(test["image"][:, 0] * 255), images)
        assert calibration["image"].shape == (256, 1, 16, 16)
        session = ort.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
        (logits,) = session.run(["logits"], {"image": test["image"]})
    assert logits.shape == (40, 3)


def test_training_script_says_which_file_is_missing(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    done = run_training("--data", str(tmp_path))
    assert done.returncode != 0
    assert "train-images-idx3-ubyte" in done.stderr
    assert "--data" in done.stderr
    assert "Traceback" not in done.stderr
