"""Second stage: the samples that everything is observed, compared and timed on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.errors import UsageError
from compress.evidence.data import CalibrationData, open_calibration
from compress.evidence.npz import write_npz
from compress.evidence.synthetic import synthesise
from compress.progress import Progress
from compress.stages.subject import Subject

MAX_SAMPLES = 64
"""Calibration samples that are used; more are thinned out evenly."""

REFERENCE_SAMPLES = 8
"""Samples on which every probe's distortion is measured, at the most."""

FIDELITY_SAMPLES = 32
"""Samples on which whole candidates are compared with the float model."""

SYNTHETIC_SAMPLES = 32

Array = npt.NDArray[Any]
Feeds = dict[str, Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """The samples of a run.

    Attributes:
        data: all samples that are used, read anew at each pass.
        synthetic: whether they were made up.
        description: one sentence for the report.
        typical: the sample that latencies are measured on: of median size.
        fidelity: samples for whole candidates.
        seed: of everything that is drawn from them.
    """

    data: CalibrationData
    synthetic: bool
    description: str
    typical: Feeds
    fidelity: CalibrationData
    seed: int

    def reference(self, count: int) -> CalibrationData:
        """Few samples, for probes."""
        return self.data.take(count, self.seed)


def open_samples(
    subject: Subject, source: Any, seed: int, progress: Progress, *, faithful: bool = True
) -> Calibration:
    """Opens the user's samples, or makes some up if there are none.

    Args:
        faithful: whether made-up samples should match the statistics of batch norms; where only
            shapes matter, as for timing, that would be wasted.

    Raises:
        UsageError: the samples do not fit the model; one line says where.
    """
    synthetic = source is None
    if synthetic:
        with progress.step("making up calibration data", None) as advance:
            source, description = synthesise(
                subject.source if faithful and _same_inputs(subject) else subject.model,
                subject.inputs,
                SYNTHETIC_SAMPLES,
                seed,
                on_step=lambda done, total: advance(),
            )
        if faithful:
            progress.note(description)
    else:
        place = source if isinstance(source, (str, Path)) else "Python"
        description = f"calibration samples from {place}"
    data = open_calibration(source, subject.inputs, limit=MAX_SAMPLES)
    return Calibration(
        data=data,
        synthetic=synthetic,
        description=description,
        typical=_typical(data),
        fidelity=data.take(FIDELITY_SAMPLES, seed),
        seed=seed,
    )


def write_sample(sample: Feeds, path: Path) -> Path:
    """The sample as an .npz with one array per input."""
    if any(array.dtype.hasobject for array in sample.values()):
        raise UsageError("inputs of strings cannot be compressed: give a model with tensor inputs")
    write_npz(path, sample)
    return path


def _typical(data: CalibrationData) -> Feeds:
    """The sample of median size; of equals the first."""
    sizes = [sum(int(np.prod(s)) for s in shapes.values()) for shapes in data.sample_shapes]
    wanted = int(np.argsort(sizes, kind="stable")[len(sizes) // 2])
    wanted = sizes.index(sizes[wanted])
    for index, sample in enumerate(data):
        if index == wanted:
            return sample
    raise UsageError(f"{data.name} holds no samples: give at least one")


def _same_inputs(subject: Subject) -> bool:
    names = {str(v.name) for v in subject.source.graph.inputs if not v.is_initializer()}
    return names == {spec.name for spec in subject.inputs}
