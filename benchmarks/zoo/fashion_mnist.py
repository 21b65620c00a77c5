"""The shipped example network on its labelled test images: top-1 accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.zoo.case import Arrays, Case, Run, Scores

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "fashion_mnist"
BATCH = 100


def model_path() -> Path:
    """The residual network: image (batch, 1, 28, 28) in [0, 1] -> logits (batch, 10)."""
    return EXAMPLE / "model.onnx"


def calibration() -> Iterator[Arrays]:
    """The example's calibration images, one by one."""
    images = _file("calib.npz")["image"]
    return ({"image": images[index : index + 1]} for index in range(len(images)))


def scores(run: Run) -> Scores:
    """1 where the largest logit is the right class, else 0; shape (2000,)."""
    test = _file("test.npz")
    images, labels = test["image"], test["labels"]
    batches = [
        np.asarray(run({"image": images[start : start + BATCH]})["logits"]).argmax(axis=1)
        for start in range(0, len(labels), BATCH)
    ]
    right: Scores = (np.concatenate(batches) == labels).astype(np.float64)
    return right


def latency_inputs() -> Arrays:
    """One image."""
    return {"image": _file("calib.npz")["image"][:1]}


@cache
def _file(name: str) -> dict[str, npt.NDArray[np.generic]]:
    with np.load(EXAMPLE / name, allow_pickle=False) as content:
        return dict(content)


CASE = Case(
    name="fashion_mnist",
    metric="top-1 accuracy",
    model_path=model_path,
    calibration=calibration,
    scores=scores,
    latency_inputs=latency_inputs,
    max_drop="0.005",
    goal=1.5,
    secondary={},
)
evaluate = CASE.evaluate
