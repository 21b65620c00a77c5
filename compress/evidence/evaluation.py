"""The task quality of a model: what the user gives as `--eval`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compress.errors import UsageError
from compress.evidence.data import InputSpec, conform, open_calibration
from compress.evidence.digest import digest
from compress.evidence.labels import read_labels, rows_per_sample
from compress.evidence.npz import open_npz
from compress.evidence.user_code import UserFunction, is_reference, load_function, wrap_callable

Arrays = dict[str, NDArray[Any]]
Run = Callable[[Arrays], Mapping[str, NDArray[Any]]]
"""Runs a model once: a dict of complete inputs in, the dict of its outputs out."""


class Evaluation(Protocol):
    """A measure of quality, higher is better."""

    @property
    def name(self) -> str:
        """As the user gave it, for messages and the report."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the measure consists of; see `open_evaluation`."""

    @property
    def per_sample(self) -> list[float] | None:
        """The scores of single samples in the last call, whose mean it returned, if known."""

    def __call__(self, run: Run) -> float:
        """The quality of the model behind `run`.

        Raises:
            UsageError: the user's code raised or returned no finite number.
        """


def open_evaluation(
    source: object, inputs: Sequence[InputSpec], outputs: Sequence[str], *, max_batch: int = 32
) -> Evaluation:
    """Open a measure of quality.

    Args:
        source: FILE.py:function or a callable, `def evaluate(run) -> float`; or a labelled .npz:
            the model's inputs as for calibration and `labels`, whose top-1 accuracy over the first
            output is the quality.
        inputs: the model's inputs. What user code gives to `run` is checked against them, and cast
            as calibration data is.
        outputs: the names of the model's outputs, in order.
        max_batch: how many samples of a labelled .npz are run at once, where the model allows it.

    The fingerprint covers the bytes of FILE.py, the compiled code of a callable, or the content of
    a labelled .npz. It does not cover what the code reads or imports: if a data file that it
    reads changes, use `--no-resume`.

    Raises:
        UsageError: there is no such file or function, or the .npz does not fit the model.
    """
    if isinstance(source, (_FunctionEvaluation, _Top1)):
        return source
    if isinstance(source, str) and is_reference(source):
        return _FunctionEvaluation(load_function(source, "--eval"), inputs)
    if isinstance(source, (str, Path)):
        return _Top1(Path(source), inputs, outputs, max_batch)
    if callable(source):
        return _FunctionEvaluation(wrap_callable(source), inputs)
    raise UsageError(
        f"--eval cannot be a {type(source).__name__}: give FILE.py:function, a labelled .npz, "
        "or a function"
    )


class _FunctionEvaluation:
    per_sample: list[float] | None = None

    def __init__(self, function: UserFunction, inputs: Sequence[InputSpec]) -> None:
        self._function = function
        self._inputs = tuple(inputs)
        self.name = function.name
        self.fingerprint = function.fingerprint

    def __call__(self, run: Run) -> float:
        def checked(given: Mapping[str, Any]) -> Mapping[str, NDArray[Any]]:
            if not isinstance(given, Mapping):
                raise UsageError(
                    f"{self.name} calls run with a {type(given).__name__}: "
                    "it takes a dict from input name to array"
                )
            return run(conform(given, self._inputs, f"what {self.name} gives to run"))

        value = self._function(checked)
        try:
            quality = float(value)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"{self.name} returned a {type(value).__name__}: it must return one number, "
                "higher is better"
            ) from error
        if not math.isfinite(quality):
            raise UsageError(
                f"{self.name} returned {quality}: it must return a finite number, higher is better"
            )
        return quality


class _Top1:
    """Top-1 accuracy over the first output: the share of labels that the largest value hits."""

    def __init__(
        self, path: Path, inputs: Sequence[InputSpec], outputs: Sequence[str], max_batch: int
    ) -> None:
        if not outputs:
            raise UsageError(f"{path}: the model has no output to compare with the labels")
        self.name = str(path)
        arrays = open_npz(path)
        labels = read_labels(self.name, arrays, "give --eval a labelled .npz or FILE.py:function")
        self._data = open_calibration(path, inputs)
        samples = arrays[inputs[0].name].shape[0]
        if len(labels) != samples:
            raise UsageError(f"{path} has {samples} samples and {len(labels)} labels")
        # A model with a fixed batch size leaves out the rows that fill no batch.
        self._labels = labels[: len(self._data) * rows_per_sample(arrays, inputs[0])]
        self._output = outputs[0]
        self._max_batch = max_batch
        self.fingerprint = digest(self._data.fingerprint, self._labels, self._output)
        self.per_sample: list[float] | None = None

    def __call__(self, run: Run) -> float:
        scores: list[float] = []
        for batch in self._data.batches(self._max_batch):  # equal shapes: the order stays
            scores.extend(self._hits(run(batch), len(scores)))
        if len(scores) != len(self._labels):
            raise UsageError(
                f"{self.name}: output {self._output!r} gives {len(scores)} rows for "
                f"{len(self._labels)} labels; use --eval FILE.py:function for this model"
            )
        self.per_sample = scores
        return math.fsum(scores) / len(scores)

    def _hits(self, outputs: Mapping[str, NDArray[Any]], start: int) -> list[float]:
        logits = np.asarray(outputs[self._output])
        while logits.ndim > 2 and logits.shape[-1] == 1:
            logits = logits[..., 0]
        if logits.ndim == 1:
            logits = logits[np.newaxis]
        if logits.ndim != 2:
            raise UsageError(
                f"{self.name}: output {self._output!r} has shape {logits.shape}, and top-1 needs "
                "(samples, classes); use --eval FILE.py:function for this model"
            )
        wanted = self._labels[start : start + len(logits)]
        if len(wanted) and int(wanted.max()) >= logits.shape[1]:
            raise UsageError(
                f"{self.name}: label {int(wanted.max())} is outside the {logits.shape[1]} classes "
                f"of output {self._output!r}"
            )
        predicted = logits.argmax(axis=1)[: len(wanted)]
        # A model that answers NaN has not answered: argmax would count its first NaN as a class.
        answered = ~np.isnan(logits).any(axis=1)[: len(wanted)]
        return [float(hit) for hit in (predicted == wanted) & answered]
