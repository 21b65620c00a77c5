"""Top-1 accuracy of a Fashion-MNIST classifier on the 2000 labelled images of ``test.npz``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.generic]]

TEST_SET = Path(__file__).with_name("test.npz")


def evaluate(run: Callable[[Arrays], Arrays], batch: int = 100) -> float:
    """The share of test images whose largest logit is the right class, in [0, 1].

    ``run`` takes ``{"image": (batch, 1, 28, 28) float32 in [0, 1]}`` and returns
    one output, (batch, 10): ``logits`` in the ONNX file, ``output`` from PyTorch, which names none.
    Nothing is drawn at random: equal models get equal numbers.
    """
    with np.load(TEST_SET) as test:
        images, labels = test["image"], test["labels"]
    right = 0
    for start in range(0, len(labels), batch):
        part = slice(start, start + batch)
        (logits,) = run({"image": images[part]}).values()
        right += int((logits.argmax(axis=1) == labels[part]).sum())
    return right / len(labels)


def evaluate_singly(run: Callable[[Arrays], Arrays]) -> float:
    """``evaluate`` for models whose batch dimension is fixed to 1."""
    return evaluate(run, batch=1)
