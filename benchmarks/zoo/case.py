"""What every model of the zoo provides."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[np.generic]]
Run = Callable[[Arrays], Arrays]
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """One model with its data and its task metric.

    Attributes:
        name: also the module's name, and that of the file in `evals/`.
        metric: what `evaluate` returns, in words.
        model_path: gives the float ONNX file, fetched or exported on first use.
        calibration: yields inputs that never occur in the evaluation, batch size 1.
        scores: runs the evaluation; one figure per sample, higher is better, shape (samples,).
            The samples and their order are the same in every call, so that two models can be
            compared in pairs.
        latency_inputs: the fixed input that latencies are measured on.
        max_drop: the quality budget, as `compress run --max-drop` takes it: `1%` of the float
            model's quality, or an absolute figure.
        goal: the speed-up over float in onnxruntime that is to be reached inside the budget.
        secondary: further metrics by name, each a function of `run`; reported, not optimised.
    """

    name: str
    metric: str
    model_path: Callable[[], Path]
    calibration: Callable[[], Iterator[Arrays]]
    scores: Callable[[Run], Scores]
    latency_inputs: Callable[[], Arrays]
    max_drop: str
    goal: float
    secondary: Mapping[str, Callable[[Run], float]]

    def evaluate(self, run: Run) -> float:
        """Task quality of the model behind `run`: the mean of `scores`."""
        return float(self.scores(run).mean())

    def allowed_quality(self, float_quality: float) -> float:
        """The lowest quality inside the budget."""
        if self.max_drop.endswith("%"):
            return float_quality * (1 - float(self.max_drop[:-1]) / 100)
        return float_quality - float(self.max_drop)

    @property
    def eval_file(self) -> Path:
        """The Python file with this case's `evaluate`, for `compress run --eval`."""
        return Path(__file__).parent / "evals" / f"{self.name}.py"

    def calibration_dir(self) -> Path:
        """The calibration samples as a folder of .npz files, written on first use."""
        from benchmarks.zoo import store

        return store.folder_of_samples(self.name, self.calibration)

    def model_digest(self) -> str:
        """SHA-256 of the float model's file."""
        return hashlib.sha256(self.model_path().read_bytes()).hexdigest()
