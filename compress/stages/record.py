"""Last stage: what happened, as report and plan."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import resource
import sys
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from compress.backends.trials import Trial, Workshop
from compress.graph.layers import Layer
from compress.hardware.host import HostInfo
from compress.hardware.timing import Samples, speedup
from compress.passes.base import Budget, Option
from compress.passes.select import Problem
from compress.report import schema
from compress.stages.calibration import Calibration
from compress.stages.gather import Evidence
from compress.stages.search import Outcome, chosen_options
from compress.stages.subject import Subject

PACKAGES = ("onnxruntime", "onnx", "onnx-ir", "numpy", "pulp", "highspy", "torch")
"""Whose versions decide results."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What the user asked for, as the report repeats it."""

    command: str
    target: str
    budget: Budget
    seed: int
    objective: str


def make_report(
    request: Request,
    subject: Subject,
    calibration: Calibration,
    workshop: Workshop,
    outcome: Outcome,
    host: HostInfo,
    steps: Sequence[tuple[str, float]],
) -> schema.Report:
    """The report of a finished run."""
    source = subject.source
    return schema.Report(
        compress_version=version("compress"),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=request.command,
        model=schema.ModelInfo(
            source=subject.name,
            sha256=subject.given.sha256,
            format=str(source.producer_name or "onnx"),
            size_bytes=subject.given.size_bytes,
            parameters=_parameters(source),
            nodes=len(source.graph),
            inputs=[_describe(v) for v in source.graph.inputs],
            outputs=[_describe(v) for v in source.graph.outputs],
        ),
        target=request.target,
        device=device_facts(host),
        versions={name: found for name in PACKAGES if (found := version(name))},
        seed=request.seed,
        budget=describe_budget(request.budget, request.objective),
        data=schema.DataInfo(
            source=calibration.data.name,
            samples=len(calibration.data),
            synthetic=calibration.synthetic,
            description=calibration.description,
        ),
        exit_code=0 if outcome.met else 1,
        outcome=outcome.sentence,
        before=_candidate(outcome.given, outcome, workshop, request.budget),
        after=_candidate(outcome.shipped, outcome, workshop, request.budget),
        candidates=[_candidate(t, outcome, workshop, request.budget) for t in outcome.trials],
        warnings=list(subject.warnings),
        steps=[schema.Step(name=name, seconds=round(seconds, 3)) for name, seconds in steps],
        peak_memory_bytes=peak_memory(),
    )


def make_plan(
    subject: Subject,
    evidence: Evidence,
    outcome: Outcome,
    recoveries: Sequence[schema.Recovery] = (),
) -> schema.Plan:
    """Every layer with its options, the choice and the reason."""
    problem, selection = outcome.problem, outcome.selection
    chosen = chosen_options(problem, selection) if selection is not None else {}
    by_layer: dict[str, list[Option]] = {}
    for option in problem.options:
        for name in option.layers:
            by_layer.setdefault(name, []).append(option)
    layers = []
    rewritten = {} if outcome.shipped is outcome.given else subject.rewritten
    for layer in evidence.layers:
        options = by_layer[layer.name]
        taken = chosen.get(layer.name, next(o for o in options if o.form == "float"))
        shape = evidence.shapes.get(str(layer.output.name))
        done = rewritten.get(layer.name)
        reason = why(
            layer,
            options,
            taken,
            problem,
            shipped_float=selection is None,
            integers=evidence.integers,
        )
        layers.append(
            schema.LayerPlan(
                name=layer.name,
                kind=layer.kind,
                shape="x".join(map(str, shape)) if shape is not None else "?",
                macs=layer.macs(evidence.shapes),
                options=[_option(o) for o in options],
                chosen=taken.label,
                why="; ".join((*([done] if done else []), reason)),
            )
        )
    points = [
        schema.FrontierPoint(
            latency_us=s.latency_us,
            distortion=s.distortion,
            bytes=s.bytes,
            shipped=selection is not None and s.chosen == selection.chosen,
        )
        for s in outcome.frontier
    ]
    return schema.Plan(
        layers=layers, solver=_solver(outcome), frontier=points, recoveries=list(recoveries)
    )


def why(
    layer: Layer,
    options: Sequence[Option],
    taken: Option,
    problem: Problem,
    *,
    shipped_float: bool,
    integers: bool = True,
) -> str:
    """One sentence on why the layer has the form that it has.

    Args:
        shipped_float: whether no layer of what was shipped has another form.
        integers: whether integer forms were considered at all.
    """
    others = [o for o in options if o.form != "float"]
    base = next(o for o in options if o.form == "float")
    if not others:
        if not integers:
            return "quantize was not among the techniques"
        if layer.weight is None:
            return "no integer form of this operator is faster here"
        return "no integer form that this runtime fuses was faster here"
    if taken.form != "float":
        gain = base.latency_us - taken.latency_us
        if gain >= 0:
            return (
                f"saves {gain:.0f} of {base.latency_us:.0f} us and costs "
                f"{taken.distortion:.2g} of distortion"
            )
        return f"costs {-gain:.0f} us itself, but keeps its neighbours in int8 without conversions"
    if shipped_float:
        return "the whole network runs fastest in float within the budget"
    best = min(others, key=lambda o: o.latency_us)
    gain = base.latency_us - best.latency_us
    values = best.reads_uint8 | best.writes_uint8
    moving = sum(problem.boundaries[v].quantize_us for v in values if v in problem.boundaries)
    if gain <= 0:
        return (
            f"{best.form} itself is slower here: {best.latency_us:.0f} against "
            f"{base.latency_us:.0f} us"
        )
    if gain <= moving:
        return (
            f"{best.form} would save {gain:.0f} us, "
            f"and the conversions around it cost {moving:.0f} us"
        )
    lost = best.distortion + sum(
        problem.boundaries[v].distortion for v in values if v in problem.boundaries
    )
    return f"{best.form} would save {gain:.0f} us, but cost {lost:.2g} of distortion"


def _solver(outcome: Outcome) -> schema.Solver:
    selection, problem = outcome.selection, outcome.problem
    layers = len(problem.layers())
    if selection is None:
        return schema.Solver(
            value_us=sum(o.latency_us for o in problem.options if o.form == "float")
            + problem.fixed_us,
            bound_us=0.0,
            status="none",
            seconds=sum(s.seconds for s in outcome.frontier),
            distortion=0.0,
            options=len(problem.options),
            layers=layers,
        )
    return schema.Solver(
        value_us=selection.latency_us,
        bound_us=selection.bound_us,
        status=selection.status,
        seconds=sum(s.seconds for s in outcome.frontier),
        distortion=selection.distortion,
        options=len(problem.options),
        layers=layers,
    )


def _option(option: Option) -> schema.OptionRecord:
    return schema.OptionRecord(
        technique=option.technique,
        form=option.form,
        latency_us=option.latency_us,
        bytes=option.bytes,
        distortion=option.distortion,
        kind="measured" if option.measured else "predicted",
    )


def _candidate(
    trial: Trial, outcome: Outcome, workshop: Workshop, budget: Budget
) -> schema.Candidate:
    given = outcome.given
    latency = ratio = quality = fidelity = None
    if trial.timing is not None:
        latency = latency_record(trial.timing)
        if given.timing is not None:
            ratio = ratio_record(given.timing, trial.timing)
    if trial.quality is not None and given.quality is not None:
        drop = given.quality - trial.quality
        quality = schema.Quality(
            metric=workshop.metric,
            value=trial.quality,
            reference=given.quality,
            drop=drop,
            relative_drop=drop / abs(given.quality) if given.quality else None,
            allowed=budget.lowest_quality(given.quality),
        )
    if trial.fidelity is not None:
        found = trial.fidelity
        fidelity = schema.OutputFidelity(
            distortion=found.distortion,
            sqnr_db=found.sqnr_db,
            decision_agreement=found.agreement,
            worst_slices=[
                schema.SliceError(output=output, slice=label, relative_error=error)
                for output, label, error in found.worst
            ],
        )
    return schema.Candidate(
        name=trial.name,
        size_bytes=trial.artifact.size_bytes,
        predicted_us=trial.predicted_us,
        predicted_distortion=trial.predicted_distortion,
        latency=latency,
        speedup=ratio,
        quality=quality,
        fidelity=fidelity,
        forms=trial.forms,
        shipped=trial is outcome.shipped,
        verdict=trial.verdict,
    )


def latency_record(samples: Samples) -> schema.Latency:
    """Measured times as a record."""
    return schema.Latency(
        median_ms=float(np.median(samples.medians())),
        p10_ms=samples.percentile(10),
        p90_ms=samples.percentile(90),
        runs=samples.count,
    )


def ratio_record(reference: Samples, candidate: Samples) -> schema.Ratio:
    """How many times faster the candidate ran, as a record."""
    gain = speedup(reference, candidate)
    return schema.Ratio(median=gain.median, low=gain.low, high=gain.high, rounds=gain.processes)


def describe_budget(budget: Budget, objective: str) -> dict[str, str]:
    """The bounds in words, as the report shows them."""
    result = {"objective": objective}
    if budget.max_drop is not None:
        result["max drop"] = (
            f"{budget.max_drop:g}"
            if budget.absolute_drop
            else f"{budget.max_drop:.4g} of the quality"
        )
    if budget.max_latency_ms is not None:
        result["max latency"] = f"{budget.max_latency_ms:g} ms"
    if budget.speedup is not None:
        result["speed-up"] = f"{budget.speedup:g}x"
    if budget.max_bytes is not None:
        result["max size"] = f"{budget.max_bytes} bytes"
    return result


def device_facts(host: HostInfo) -> dict[str, str]:
    """What is known of the machine, for reports."""
    return {
        "cpu": host.cpu,
        "architecture": host.architecture,
        "isa": " ".join(host.isa),
        "cores": str(host.physical_cores),
        "os": host.os,
        "fingerprint": host.fingerprint,
    }


def _parameters(model: ir.Model) -> int:
    tensors = (v.const_value for v in model.graph.initializers.values())
    return sum(int(np.prod(t.shape.numpy())) for t in tensors if t is not None)


def _describe(value: ir.Value) -> str:
    dtype = value.dtype.name.lower() if value.dtype is not None else "?"
    return f"{value.name}: {dtype}{value.shape if value.shape is not None else ''}"


def version(package: str) -> str:
    """The installed version of a distribution, or nothing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def peak_memory() -> int | None:
    """The most memory this process has had resident, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024
