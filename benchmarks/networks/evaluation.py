"""`--eval` file of the trained networks: top-1 accuracy on the 10 000 test images."""

import sys
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

# The command line loads this file by its path, from any working directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.networks.data import data_files
from benchmarks.zoo.case import Run

BATCH = 100


def evaluate(run: Run) -> float:
    """The share of test images whose largest logit is the right class, in [0, 1].

    `run` takes {"image": (100, 1, 28, 28) float32 in [0, 1]} and returns one output, (100, 10),
    whatever its name. Nothing is drawn at random: equal models get equal numbers.
    """
    images, labels = _test()
    right = 0
    for start in range(0, len(labels), BATCH):
        part = slice(start, start + BATCH)
        (logits,) = run({"image": images[part]}).values()
        right += int((np.asarray(logits).argmax(axis=1) == labels[part]).sum())
    return right / len(labels)


@cache
def _test() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    with np.load(data_files().test, allow_pickle=False) as content:
        return content["image"], content["labels"]
