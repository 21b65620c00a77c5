"""Evaluations: functions, files and labelled arrays; what goes wrong is told in one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.errors import DeviceError, UsageError
from compress.evidence.data import InputSpec
from compress.evidence.evaluation import Evaluation, open_evaluation

F32 = np.dtype(np.float32)
SPECS = [InputSpec("x", F32, ("N", 3))]


def identity(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {"logits": inputs["x"]}


def opened(source: object, specs: list[InputSpec] = SPECS) -> Evaluation:
    return open_evaluation(source, specs, ["logits"])


def labelled(path: Path, n: int = 40, wrong: int = 10) -> Path:
    x = np.eye(3, dtype=np.float32)[np.arange(n) % 3]
    labels = np.arange(n) % 3
    labels[:wrong] = (labels[:wrong] + 1) % 3
    np.savez(path, x=x, labels=labels)
    return path


def test_a_function_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "eval.py"
    file.write_text(
        "import numpy as np\n"
        "def evaluate(run):\n"
        "    return run({'x': np.ones((1, 3), np.float32)})['logits'].sum()\n"
    )
    evaluation = opened(f"{file}:evaluate")
    assert evaluation(identity) == 3.0
    assert evaluation.name == f"{file}:evaluate"
    assert evaluation.per_sample is None
    assert evaluation.fingerprint == opened(f"{file}:evaluate").fingerprint
    before = evaluation.fingerprint
    file.write_text(file.read_text() + "# changed\n")
    assert opened(f"{file}:evaluate").fingerprint != before


def test_a_callable_from_python() -> None:
    def evaluate(run: Any) -> float:
        return float(run({"x": np.ones((1, 3))})["logits"].mean())

    class Metric:
        def __call__(self, run: Any) -> float:
            return 0.5

    assert opened(evaluate)(identity) == 1.0
    assert opened(Metric())(identity) == 0.5
    assert opened(evaluate).fingerprint == opened(evaluate).fingerprint
    assert opened(evaluate).fingerprint != opened(Metric()).fingerprint
    assert opened(lambda run: 1.0).fingerprint != opened(lambda run: 2.0).fingerprint


@pytest.mark.parametrize("value", ["nan", "float('inf')", "None", "'high'", "[1, 2]"])
def test_the_result_must_be_a_finite_number(tmp_path: Path, value: str) -> None:
    (tmp_path / "e.py").write_text(f"nan = float('nan')\ndef evaluate(run): return {value}\n")
    with pytest.raises(UsageError, match="number, higher is better"):
        opened(f"{tmp_path}/e.py:evaluate")(identity)


def test_errors_in_the_users_code_are_located(tmp_path: Path) -> None:
    (tmp_path / "e.py").write_text(
        "def evaluate(run):\n    return helper(run)\n\n"
        "def helper(run):\n    return run({})['none']\n"
    )
    with pytest.raises(UsageError, match=r"e\.py:5: KeyError: 'none'") as caught:
        opened(f"{tmp_path}/e.py:evaluate", [])(lambda inputs: {})
    assert "\n" not in str(caught.value)

    def evaluate(run: Any) -> float:
        raise RuntimeError("no luck")

    with pytest.raises(UsageError, match=r"test_evaluation\.py:\d+: RuntimeError: no luck"):
        opened(evaluate)(identity)


def test_errors_of_the_model_are_not_blamed_on_the_user() -> None:
    def broken(inputs: Any) -> dict[str, Any]:
        raise DeviceError("the board is gone")

    with pytest.raises(DeviceError, match="the board is gone"):
        opened(lambda run: run({})["x"], [])(broken)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"y": np.ones((1, 3), np.float32)}, "gives to run has no array for the model's input 'x'"),
        ({"x": np.ones((1, 4), np.float32)}, "has shape (1, 4)"),
        ({"x": np.ones((1, 3), np.uint8)}, "is uint8"),
        (np.ones((1, 3), np.float32), "calls run with a ndarray"),
    ],
)
def test_what_the_model_is_given_is_checked(given: Any, part: str) -> None:
    with pytest.raises(UsageError) as caught:
        opened(lambda run: run(given)["logits"].sum())(identity)
    assert part in str(caught.value)


def test_what_the_model_is_given_is_cast() -> None:
    seen = []

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        seen.append(inputs["x"].dtype)
        return identity(inputs)

    assert opened(lambda run: run({"x": np.ones((2, 3))})["logits"].sum())(run) == 6
    assert seen == [F32]


def test_labelled_npz_is_top1_with_the_score_of_each_sample(tmp_path: Path) -> None:
    evaluation = opened(labelled(tmp_path / "test.npz"))
    assert evaluation.per_sample is None
    assert evaluation(identity) == 0.75
    assert evaluation.per_sample == [0.0] * 10 + [1.0] * 30
    assert evaluation(lambda inputs: {"logits": -inputs["x"]}) != 0.75


def test_labels_count_in_the_fingerprint(tmp_path: Path) -> None:
    a = opened(labelled(tmp_path / "a.npz"))
    assert a.fingerprint != opened(labelled(tmp_path / "b.npz", wrong=11)).fingerprint
    assert a.fingerprint == opened(labelled(tmp_path / "c.npz")).fingerprint


def test_labelled_npz_for_a_fixed_batch_size(tmp_path: Path) -> None:
    evaluation = opened(labelled(tmp_path / "t.npz", n=43), [InputSpec("x", F32, (8, 3))])
    assert evaluation(identity) == 30 / 40


def test_labelled_npz_for_a_model_without_batch_axis(tmp_path: Path) -> None:
    evaluation = opened(labelled(tmp_path / "t.npz"), [InputSpec("x", F32, (3,))])
    assert evaluation(identity) == 0.75


def test_trailing_axes_of_one_are_dropped_and_nan_is_no_answer(tmp_path: Path) -> None:
    evaluation = opened(labelled(tmp_path / "t.npz", wrong=0))
    assert evaluation(lambda inputs: {"logits": inputs["x"][:, :, None, None]}) == 1.0
    assert evaluation(lambda inputs: {"logits": np.full_like(inputs["x"], np.nan)}) == 0.0


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({"x": np.zeros((4, 3))}, "has no array 'labels'"),
        ({"x": np.zeros((4, 3)), "labels": np.zeros(3, int)}, "4 samples and 3 labels"),
        ({"x": np.zeros((4, 3)), "labels": np.zeros(5, int)}, "4 samples and 5 labels"),
        ({"x": np.zeros((4, 3)), "labels": np.zeros(4)}, "whole number per sample"),
        ({"x": np.zeros((4, 3)), "labels": np.zeros((4, 3), int)}, "whole number per sample"),
        ({"x": np.zeros((4, 3)), "labels": np.full(4, -1)}, "negative"),
        ({"y": np.zeros((4, 3)), "labels": np.zeros(4, int)}, "'y'"),
        ({"x": np.zeros((0, 3)), "labels": np.zeros(0, int)}, "holds no samples"),
    ],
)
def test_labelled_npz_must_fit(tmp_path: Path, arrays: dict[str, Any], part: str) -> None:
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(UsageError, match=part):
        opened(tmp_path / "t.npz")


def test_outputs_must_be_class_scores(tmp_path: Path) -> None:
    evaluation = opened(labelled(tmp_path / "t.npz"))
    with pytest.raises(UsageError, match="needs \\(samples, classes\\)"):
        evaluation(lambda inputs: {"logits": np.zeros((len(inputs["x"]), 3, 2))})
    with pytest.raises(UsageError, match="label 2 is outside the 2 classes"):
        evaluation(lambda inputs: {"logits": inputs["x"][:, :2]})
    with pytest.raises(UsageError, match="rows for 40 labels"):
        evaluation(lambda inputs: {"logits": inputs["x"][:1]})


def test_other_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        opened(tmp_path / "none.npz")
    with pytest.raises(UsageError, match="cannot be a int"):
        opened(3)
