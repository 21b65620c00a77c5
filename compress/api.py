"""The whole flow, top to bottom, and what a user gets back."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from compress.backends.trials import Workshop
from compress.errors import UsageError
from compress.evidence.evaluation import open_evaluation
from compress.evidence.labels import labels_of
from compress.evidence.store import EvidenceStore
from compress.execute.memory import give_back
from compress.execute.runtime import Feeds
from compress.execute.session import Runner
from compress.hardware.device import Device, load_device
from compress.hardware.host import detect
from compress.passes.base import Budget
from compress.passes.schedule.alignment import DEFAULT_ALIGN
from compress.passes.select import Selection
from compress.progress import Advance, Progress, Silent
from compress.report.memory_plan import MemoryPlan
from compress.report.schema import Bench, LayerInfo, Plan, Recovery, Report
from compress.stages.calibration import open_samples, write_sample
from compress.stages.choices import STRUCTURAL
from compress.stages.gather import float_only, gather
from compress.stages.inspection import Source, bench_models, inspect_layers
from compress.stages.merging import merge_losslessly
from compress.stages.planning import Planned
from compress.stages.planning import make_plan as schedule_model
from compress.stages.record import Request, make_plan, make_report
from compress.stages.run_context import Context
from compress.stages.search import search
from compress.stages.structures import restructure
from compress.stages.subject import check_loads, check_runs, open_subject
from compress.stages.widening import widen

DEFAULT_MAX_DROP = 0.01
"""Of the quality, where the user sets no bound at all."""

OBJECTIVES = ("latency", "size")
TECHNIQUES = ("quantize", "merge", "prune")


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What `run` found.

    Attributes:
        model: the model that was shipped.
        report, plan: see docs/report.md.
        frontier: the optimal trade-offs it was chosen from, fastest first.
        memory: how the device's scratchpad is used, if it has one.
        exit_code: 0 within the budget, 1 not.
    """

    model: ir.Model
    report: Report
    plan: Plan
    frontier: tuple[Selection, ...]
    memory: MemoryPlan | None = None

    @property
    def exit_code(self) -> int:
        return self.report.exit_code

    def save(self, folder: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Writes model.onnx, report.json, report.html and plan.json, and for a device with a
        scratchpad memory_plan.json, .h and .svg; the folder appears whole.

        Args:
            folder: new, empty, or the result of an earlier run.
            force: replace whatever else it holds.
        """
        from compress.report.folder import save

        return save(Path(folder), self.model, self.report, self.plan, self.memory, force=force)


def run(
    model: Any,
    *,
    target: str | os.PathLike[str] = "host",
    data: Any = None,
    evaluate: Any = None,
    budget: Budget | None = None,
    factory: str | None = None,
    example_inputs: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    fixed_inputs: Mapping[str, object] | None = None,
    objective: str = "latency",
    techniques: Sequence[str] = ("quantize",),
    labels: bool = False,
    time_limit_s: float | None = None,
    seed: int = 0,
    resume: bool = True,
    trust_pickle: bool = False,
    progress: Progress | None = None,
    command: str | None = None,
) -> Result:
    """Compresses a model for a device: the fastest form within the budget, verified and measured.

    Args:
        model: anything `compress.frontends.load` takes.
        target: name of a device profile, or a TOML file.
        data: calibration inputs (see `open_calibration`); None: they are made up.
        evaluate: quality, higher is better (see `open_evaluation`); None: agreement with the model
            as given, on the calibration data.
        budget: bounds; without any the quality may drop by 1 %.
        shapes, fixed_inputs: input dimensions and inputs that never change.
        objective: "latency" or "size": what is made small within the budget.
        techniques: which may propose options: "quantize", "merge", "prune".
        labels: whether networks with other layers learn from the array `labels` of the data, too.
        time_limit_s: no new candidate is tried after this many seconds.
        seed: of everything that is drawn at random.
        resume: whether evidence of earlier runs is used, and kept for later ones.
        progress: who is told how far the work is.
        command: what reproduces the run, for the report.

    Raises:
        UsageError, ModelError, DeviceError: with one line that says what to do.
    """
    started = time.monotonic()
    _check_choices(objective, techniques, labels)
    device = _measurable(target)
    budget = budget or Budget()
    if budget == Budget():
        budget = Budget(max_drop=DEFAULT_MAX_DROP)
    host = detect()
    store = EvidenceStore() if resume else EvidenceStore.in_memory()
    told = _Timed(progress or Silent())

    with tempfile.TemporaryDirectory(prefix="compress-") as scratch:
        folder = Path(scratch)
        with told.step("reading the model", None):
            subject = open_subject(
                model,
                folder,
                factory=factory,
                example_inputs=example_inputs,
                shapes=shapes,
                fixed_inputs=fixed_inputs,
                trust_pickle=trust_pickle,
            )
        if data is None:
            # samples are made up by trying them out in this process: crashes come to light before
            with told.step("loading the model, apart", None):
                check_loads(subject)
        calibration = open_samples(subject, data, seed, told)
        if labels:
            labels_of(data, calibration.data)  # what is missing comes to light before the work
        with told.step("running the model once, apart", None):
            check_runs(subject, write_sample(calibration.typical, folder / "typical.npz"))
        subject = merge_losslessly(subject, calibration, store, host.fingerprint, told)
        if objective == "latency" and budget.max_bytes is None:
            # wide weights are mostly zeros: wrong where bytes count
            subject = widen(subject, calibration, store, host.fingerprint, told)
        workshop = Workshop(
            folder=folder,
            store=store,
            evaluation=None
            if evaluate is None
            else open_evaluation(evaluate, subject.inputs, subject.outputs),
            samples=calibration.fidelity,
            expected=_Kept(subject.given.path, calibration.fidelity, folder),
            kinds=subject.kinds,
            data_key=calibration.data.fingerprint,
            feeds=calibration.typical,
            host=host.fingerprint,
            cores=host.physical_cores,
        )
        evidence = gather(subject, calibration, store, host.fingerprint, told, workers=host.threads)
        if "quantize" not in techniques:
            evidence = float_only(evidence)
        deadline = None if time_limit_s is None else started + time_limit_s
        outcome = search(
            subject, evidence, workshop, budget, told, objective=objective, deadline=deadline
        )
        recoveries: tuple[Recovery, ...] = ()
        if STRUCTURAL & set(techniques):
            context = Context(
                workshop=workshop,
                calibration=calibration,
                store=store,
                budget=budget,
                objective=objective,
                progress=told,
                host=host.fingerprint,
                cores=host.physical_cores,
                seed=seed,
                techniques=frozenset(techniques),
                labels=labels,
                time_limit_s=time_limit_s,
                deadline=deadline,
            )
            found = restructure(context, subject, evidence, outcome, data)
            subject, evidence, outcome = found.subject, found.evidence, found.outcome
            recoveries = found.recoveries
        memory = None
        if device.scratchpad_bytes is not None:
            shapes_run = {name: array.shape for name, array in calibration.typical.items()}
            memory = schedule_model(
                outcome.shipped.model,
                Source(shapes=shapes_run),
                target=target,
                seed=seed,
                progress=told,
            ).plan
        request = Request(
            command or _as_python(model, target), device.name, budget, seed, objective
        )
        report = make_report(request, subject, calibration, workshop, outcome, host, told.steps)
        plan = make_plan(subject, evidence, outcome, recoveries)
        shipped = outcome.shipped.model
        return Result(shipped, report, plan, outcome.frontier, memory)


def inspect(
    model: Any,
    *,
    target: str | os.PathLike[str] = "host",
    measure: bool = False,
    factory: str | None = None,
    example_inputs: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    fixed_inputs: Mapping[str, object] | None = None,
    trust_pickle: bool = False,
    progress: Progress | None = None,
) -> list[LayerInfo]:
    """The layers of a model with what they cost and could become; `measure` times every form.

    Raises:
        UsageError, ModelError, DeviceError: with one line that says what to do.
    """
    _measurable(target)
    source = Source(factory, example_inputs, shapes, fixed_inputs, trust_pickle)
    return inspect_layers(model, source, detect(), progress or Silent(), measure=measure)


def plan(
    model: Any,
    *,
    sram: int | None = None,
    target: str | os.PathLike[str] | None = None,
    align: int = DEFAULT_ALIGN,
    factory: str | None = None,
    example_inputs: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    fixed_inputs: Mapping[str, object] | None = None,
    trust_pickle: bool = False,
    time_limit_s: float = 60.0,
    seed: int = 0,
    verify: bool = True,
    progress: Progress | None = None,
) -> Planned:
    """Schedules a model on a scratchpad with the least traffic on and off the chip.

    Args:
        model: anything `compress.frontends.load` takes.
        sram: bytes of the scratchpad; None: those of the target.
        target: name of a device profile, or a TOML file; None: any device of that scratchpad.
        align: bytes that addresses are multiples of, a power of two.
        shapes, fixed_inputs: input dimensions and inputs that never change.
        time_limit_s: for the search.
        verify: whether the plan is executed, in one buffer of the scratchpad's size, and its
            outputs compared with onnxruntime's.

    Raises:
        UsageError, ModelError, DeviceError: with one line that says what to do.
    """
    source = Source(factory, example_inputs, shapes, fixed_inputs, trust_pickle)
    return schedule_model(
        model,
        source,
        sram=sram,
        target=target,
        align=align,
        time_limit_s=time_limit_s,
        seed=seed,
        verify=verify,
        progress=progress or Silent(),
    )


def bench(
    model: Any,
    *,
    against: Any = None,
    data: Any = None,
    target: str | os.PathLike[str] = "host",
    threads: int = 1,
    factory: str | None = None,
    example_inputs: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    fixed_inputs: Mapping[str, object] | None = None,
    trust_pickle: bool = False,
    progress: Progress | None = None,
) -> Bench:
    """Times a model, alone or in turns with another one that has the same inputs.

    Raises:
        UsageError, ModelError, DeviceError: with one line that says what to do.
    """
    device = _measurable(target)
    source = Source(factory, example_inputs, shapes, fixed_inputs, trust_pickle)
    models = [model] if against is None else [model, against]
    return bench_models(
        models, source, data, detect(), device.name, progress or Silent(), threads=threads
    )


def _measurable(target: str | os.PathLike[str]) -> Device:
    device = load_device(target if isinstance(target, str) else Path(target))
    if not device.measurable:
        advice = "run this on the device with --target host"
        if device.runtime == "scratchpad":
            advice = "compress plan schedules its scratchpad without measuring"
        raise UsageError(f"{device.name} cannot be measured from here: {advice}")
    return device


def _check_choices(objective: str, techniques: Sequence[str], labels: bool) -> None:
    if objective not in OBJECTIVES:
        raise UsageError(f"unknown objective {objective!r}: use one of {', '.join(OBJECTIVES)}")
    for name in techniques:
        if name not in TECHNIQUES:
            raise UsageError(f"unknown technique {name!r}: there is {', '.join(TECHNIQUES)}")
    if labels and not STRUCTURAL & set(techniques):
        raise UsageError("labels are learned where layers are merged or pruned: add a technique")


class _Kept(Sequence[Mapping[str, Any]]):
    """The model's outputs for every sample, in files: they may be large."""

    def __init__(self, model: Path, samples: Iterable[Feeds], folder: Path) -> None:
        runner = Runner(model, frugal=True)
        self._samples: list[dict[str, Any]] = []
        for index, sample in enumerate(samples):
            outputs: dict[str, Any] = {}
            for number, (name, array) in enumerate(runner(sample).items()):
                outputs[name] = array
                # strings are never compared, and stay as they are
                if not array.dtype.hasobject:
                    outputs[name] = folder / f"expected-{index}-{number}.npy"
                    np.save(outputs[name], array)
            self._samples.append(outputs)
        del runner
        give_back()

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return {
            name: np.load(kept) if isinstance(kept, Path) else kept
            for name, kept in self._samples[index].items()
        }


def _as_python(model: Any, target: object) -> str:
    name = os.fspath(model) if isinstance(model, (str, os.PathLike)) else type(model).__name__
    return f"compress.run({shlex.quote(str(name))}, target={str(target)!r})"


class _Timed:
    """Hands progress on and keeps how long every step took."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Advance]:
        start = time.monotonic()
        with self._progress.step(title, total) as advance:
            yield advance
        self.seconds[title] = self.seconds.get(title, 0.0) + time.monotonic() - start

    @property
    def steps(self) -> list[tuple[str, float]]:
        """(title, seconds), a step that was repeated once."""
        return list(self.seconds.items())

    def note(self, text: str) -> None:
        self._progress.note(text)
