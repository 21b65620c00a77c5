"""Looking without changing: layers of a model, and latencies of whole models."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.errors import UsageError
from compress.evidence.store import EvidenceStore
from compress.graph.layers import find_layers
from compress.hardware.host import HostInfo
from compress.hardware.timing import RESTARTS, time_models
from compress.passes.quantize.cells import measure_cell
from compress.passes.quantize.forms import possible_forms
from compress.progress import Progress
from compress.report import schema
from compress.stages.calibration import Calibration, open_samples, write_sample
from compress.stages.gather import value_shapes_of
from compress.stages.record import device_facts, latency_record, ratio_record
from compress.stages.subject import Subject, check_loads, check_runs, open_subject


@dataclasses.dataclass(frozen=True)
class Source:
    """How to load a model: the arguments of `compress.frontends.load`, and what is fixed."""

    factory: str | None = None
    example_inputs: Any = None
    shapes: Mapping[str, Sequence[int]] | None = None
    fixed_inputs: Mapping[str, object] | None = None
    trust_pickle: bool = False

    def open(self, model: Any, folder: Path, *, allow_quantized: bool = False) -> Subject:
        return open_subject(
            model,
            folder,
            factory=self.factory,
            example_inputs=self.example_inputs,
            shapes=self.shapes,
            fixed_inputs=self.fixed_inputs,
            trust_pickle=self.trust_pickle,
            allow_quantized=allow_quantized,
        )


def inspect_layers(
    model: Any, source: Source, host: HostInfo, progress: Progress, *, measure: bool
) -> list[schema.LayerInfo]:
    """Every layer of the canonical model with its forms; `measure` adds their latencies.

    Latencies that earlier runs measured on this machine are used again.
    """
    with tempfile.TemporaryDirectory(prefix="compress-") as scratch:
        with progress.step("reading the model", None):
            subject = source.open(model, Path(scratch))
        check_loads(subject)
        calibration = open_samples(subject, None, 0, progress, faithful=False)
        check_runs(subject, write_sample(calibration.typical, Path(scratch) / "typical.npz"))
        layers = find_layers(subject.model)
        shapes = value_shapes_of(subject.model, calibration, layers)
        store = EvidenceStore()
        result = []
        with progress.step("measuring layers on this machine", len(layers)) as advance:
            for layer in layers:
                forms = possible_forms(layer)
                latencies: dict[str, float | None] = {form.value: None for form in forms}
                if measure and len(forms) > 1:
                    for form in forms:
                        cell = measure_cell(
                            subject.model, layer, shapes, form, store, host.fingerprint
                        )
                        latencies[form.value] = cell.core_us if cell.fused else None
                advance()
                shape = shapes.get(str(layer.output.name))
                result.append(
                    schema.LayerInfo(
                        name=layer.name,
                        kind=layer.kind,
                        shape="x".join(map(str, shape)) if shape is not None else "?",
                        macs=layer.macs(shapes),
                        weight_bytes=layer.weight_bytes,
                        forms=[
                            schema.FormInfo(form=form, latency_us=us)
                            for form, us in latencies.items()
                        ],
                    )
                )
    return result


def bench_models(
    models: Sequence[Any],
    source: Source,
    data: Any,
    host: HostInfo,
    target: str,
    progress: Progress,
    *,
    threads: int,
) -> schema.Bench:
    """Times the models in turns on the same input; the first one is the baseline."""
    with tempfile.TemporaryDirectory(prefix="compress-") as scratch:
        subjects = []
        for index, model in enumerate(models):
            folder = Path(scratch) / str(index)
            folder.mkdir()
            with progress.step("reading the model", None):
                subjects.append(source.open(model, folder, allow_quantized=True))
        first = subjects[0]
        if data is None:
            check_loads(first)
        calibration = open_samples(first, data, 0, progress, faithful=False)
        for subject in subjects[1:]:
            _same_inputs(first, subject)
        for subject in subjects:
            check_runs(subject, write_sample(calibration.typical, Path(scratch) / "typical.npz"))
        with progress.step("timing", RESTARTS) as advance:
            timed = time_models(
                {str(i): s.given.path for i, s in enumerate(subjects)},
                calibration.typical,
                threads=threads,
                advance=advance,
            )
        reference = timed["0"]
        return schema.Bench(
            target=target,
            device=device_facts(host),
            threads=threads,
            inputs=_inputs(calibration),
            models=[
                schema.BenchEntry(
                    name=subject.name,
                    size_bytes=subject.given.size_bytes,
                    latency=latency_record(timed[str(i)]),
                    speedup=ratio_record(reference, timed[str(i)]) if i else None,
                )
                for i, subject in enumerate(subjects)
            ],
        )


def _same_inputs(first: Subject, other: Subject) -> None:
    wanted = {spec.name: spec.dtype for spec in first.inputs}
    found = {spec.name: spec.dtype for spec in other.inputs}
    if wanted != found:
        raise UsageError(
            f"{other.name} has other inputs ({', '.join(found)}) than {first.name} "
            f"({', '.join(wanted)}): only models with the same inputs can be compared"
        )


def _inputs(calibration: Calibration) -> str:
    shapes = ", ".join(f"{k} {'x'.join(map(str, v.shape))}" for k, v in calibration.typical.items())
    kind = "made-up sample" if calibration.synthetic else "sample of median size"
    return f"{kind}: {shapes}"
