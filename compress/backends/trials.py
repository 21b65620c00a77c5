"""Candidates as files: built, evaluated and timed once each, and found again by content."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.backends.onnxruntime import Artifact, describe, lower
from compress.evidence.distortion import Comparison, Fidelity, OutputKind
from compress.evidence.evaluation import Evaluation
from compress.evidence.store import EvidenceStore
from compress.execute.memory import give_back
from compress.execute.runtime import Feeds
from compress.execute.session import Runner
from compress.hardware.timing import Samples, time_models

Array = npt.NDArray[Any]


@dataclasses.dataclass(eq=False)
class Trial:
    """One candidate and what is known of it so far.

    `reference` is the model as given, whose outputs are what others are compared with.
    """

    name: str
    artifact: Artifact
    model: ir.Model
    forms: dict[str, int] = dataclasses.field(default_factory=dict)
    predicted_us: float | None = None
    predicted_distortion: float | None = None
    chosen: tuple[int, ...] = ()
    quality: float | None = None
    per_sample: list[float] | None = None
    fidelity: Fidelity | None = None
    timing: Samples | None = None
    verdict: str = ""
    reference: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Workshop:
    """Where candidates are made and judged.

    Attributes:
        folder: for the candidates' files.
        store: evidence.
        evaluation: the user's, or None: then agreement with the float model stands in.
        samples, expected: calibration inputs and the given model's outputs for them.
        kinds: what the outputs mean.
        data_key: content hash of the samples.
        feeds: the typical input that latencies are measured on.
        host: fingerprint of machine and runtime.
        threads: of the runtime where it is measured.
        cores: threads where only results count.
    """

    folder: Path
    store: EvidenceStore
    evaluation: Evaluation | None
    samples: Iterable[Feeds]
    expected: Sequence[Mapping[str, Array]]
    kinds: Mapping[str, OutputKind]
    data_key: str
    feeds: Feeds
    host: str
    threads: int = 1
    cores: int = 1

    @property
    def metric(self) -> str:
        """The name of what quality means here."""
        if self.evaluation is not None:
            return self.evaluation.name
        return "agreement with the model as given, on calibration data"

    def build(self, name: str, model: ir.Model) -> Trial:
        """Lowers `model` into a file of its own."""
        return Trial(name, lower(model, self.folder / name), model)

    def adopt(self, name: str, model: ir.Model, path: Path) -> Trial:
        """The model as given, which already is a file."""
        return Trial(name, describe(path, model), model, reference=True)

    def judge(self, trial: Trial) -> float:
        """Runs the trial's file on the calibration samples and the evaluation; its quality."""
        if trial.fidelity is None:
            trial.fidelity = self.fidelity(trial)
        if trial.quality is None:
            if self.evaluation is None:
                trial.quality = agreement(trial.fidelity)
            else:
                trial.quality, trial.per_sample = self._evaluate(trial, self.evaluation)
        return trial.quality

    def _evaluate(self, trial: Trial, evaluation: Evaluation) -> tuple[float, list[float] | None]:
        key = self.store.key("quality", trial.artifact.sha256, evaluation.fingerprint, self.host)
        known = self.store.get(key)
        if isinstance(known, dict):
            return float(known["quality"]), known["per_sample"]
        runner = Runner(trial.artifact.path, threads=self.cores, frugal=True)
        quality = evaluation(lambda feeds: runner(feeds))
        give_back()
        self.store.put(key, {"quality": quality, "per_sample": evaluation.per_sample})
        return quality, evaluation.per_sample

    def fidelity(self, trial: Trial) -> Fidelity:
        """How far the trial's outputs are from those of the model as given."""
        key = self.store.key("fidelity", trial.artifact.sha256, self.data_key, self.host)
        known = self.store.get(key)
        if isinstance(known, dict):
            return Fidelity(**{**known, "worst": tuple(tuple(w) for w in known["worst"])})
        comparison = Comparison(self.kinds)
        if trial.reference:
            for expected in self.expected:
                comparison.add(expected, expected)
        else:
            runner = Runner(trial.artifact.path, threads=self.threads, frugal=True)
            for feeds, expected in zip(self.samples, self.expected, strict=True):
                comparison.add(expected, runner(feeds))
            del runner
        give_back()
        result = comparison.result()
        self.store.put(key, dataclasses.asdict(result))
        return result

    def time(self, trials: Sequence[Trial], advance: Callable[[], None] = lambda: None) -> None:
        """Times the trials together, interleaved; every one of them gets the result.

        The figures are kept under the contents of all of them: ratios belong to a set.
        """
        shapes = {k: [list(v.shape), str(v.dtype)] for k, v in self.feeds.items()}
        shas = [t.artifact.sha256 for t in trials]
        key = self.store.key("timing", shas, shapes, self.host, self.threads)
        known = self.store.get_arrays(key)
        if known is None:
            names = {f"{i}": t.artifact.path for i, t in enumerate(trials)}
            give_back()
            timed = time_models(names, self.feeds, threads=self.threads, advance=advance)
            known = {
                f"{name}/{process}": np.array(times)
                for name, samples in timed.items()
                for process, times in enumerate(samples.by_process)
            }
            self.store.put_arrays(key, known)
        for index, trial in enumerate(trials):
            processes = sum(k.startswith(f"{index}/") for k in known)
            trial.timing = Samples(
                tuple(tuple(map(float, known[f"{index}/{p}"])) for p in range(processes))
            )


def agreement(fidelity: Fidelity) -> float:
    """Quality where nobody gave an evaluation: 1 for the model as given."""
    if fidelity.agreement is not None:
        return fidelity.agreement
    return float(1.0 - min(1.0, np.sqrt(fidelity.distortion)))
