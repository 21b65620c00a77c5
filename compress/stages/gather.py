"""Third stage: evidence, from which every option gets its latency and its distortion."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from compress.evidence.statistics import TensorStatistics, collect, pack, unpack
from compress.evidence.store import EvidenceStore
from compress.execute.arithmetic import adds_pairs_in_16_bits
from compress.execute.runtime import Samples
from compress.execute.session import value_shapes
from compress.graph.identity import model_hash
from compress.graph.layers import Layer, find_layers
from compress.passes.base import Option
from compress.passes.quantize.equalize import Equalize
from compress.passes.quantize.forms import Form, observed
from compress.passes.quantize.technique import Quantize, Reference
from compress.passes.select import Problem
from compress.progress import Progress
from compress.stages.calibration import REFERENCE_SAMPLES, Calibration
from compress.stages.subject import Subject

SHAPE_VALUES_AT_ONCE = 48

PROBE_MACS = 4e9
"""Multiply-accumulates that one probe may cost; about a tenth of a second."""

FEWEST_SAMPLES = 2

SHORTEST_US = 5.0
"""Below, the profiler's clock tells too little for a ratio."""

FEWEST_RATIOS = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """What is known before anything is chosen.

    Attributes:
        layers: of the float model.
        shapes: of every value a layer reads or writes, for the typical sample.
        technique: quantize, with its range estimator settled.
        problem: options and boundaries.
        range_scores: distortion of the fully quantized network per range estimator.
        integers: whether layers may be computed in integers at all.
    """

    layers: tuple[Layer, ...]
    shapes: Mapping[str, tuple[int, ...]]
    technique: Quantize
    problem: Problem
    range_scores: Mapping[str, float]
    integers: bool = True

    def options(self) -> tuple[Option, ...]:
        return self.problem.options


def float_only(evidence: Evidence) -> Evidence:
    """The evidence without integer forms, for runs that are not to quantize."""
    problem = without_integers(evidence.problem)
    return dataclasses.replace(evidence, problem=problem, integers=False)


def without_integers(problem: Problem) -> Problem:
    """The problem without options that compute in integers, whoever proposes them."""
    options = tuple(o for o in problem.options if not o.integer)
    return dataclasses.replace(problem, options=options)


def gather(
    subject: Subject,
    calibration: Calibration,
    store: EvidenceStore,
    host: str,
    progress: Progress,
    *,
    workers: int,
) -> Evidence:
    """Observes, measures and probes; everything is found again by content in a later run."""
    layers = tuple(find_layers(subject.model))
    shapes = value_shapes_of(subject.model, calibration, layers)
    reference = calibration.reference(_affordable(layers, shapes))
    # what is made anew at each pass, by code of the user's, is kept instead
    samples: Samples = reference if reference.stable else tuple(reference)
    reference_outputs = Reference.of(
        subject.model, samples, store.key("reference", reference.fingerprint)
    )

    def observe(model: ir.Model, key: str) -> Quantize:
        return Quantize(
            model=model,
            model_key=key,
            shapes=shapes,
            statistics=_statistics(model, key, calibration, shapes, store, progress),
            reference=reference_outputs,
            store=store,
            host=host,
            workers=workers,
            paired=adds_pairs_in_16_bits(),
        )

    technique = observe(subject.model, subject.key)
    with progress.step("measuring layers on this machine", len(layers)) as advance:
        technique.measure(advance)
    technique, scores = _settled(technique, progress)
    equalized = subject.model.clone()
    if Equalize(technique.statistics).run(equalized):
        other, other_scores = _settled(observe(equalized, model_hash(equalized)), progress)
        if min(other_scores.values()) < min(scores.values()):
            technique, scores = other, {f"equalized, {k}": v for k, v in other_scores.items()}
            layers = tuple(find_layers(technique.model))
    probes = technique.count_probes()
    with progress.step("measuring what each rounding costs", probes) as advance:
        proposal = technique.propose(advance)
    return Evidence(
        layers, shapes, technique, Problem(proposal.options, proposal.boundaries), scores
    )


def _affordable(layers: Sequence[Layer], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Fewer reference samples for large networks: each probe runs all of them.

    Counted in multiply-accumulates and not in seconds, so that a resumed run takes the same ones.
    """
    work = sum(layer.macs(shapes) for layer in layers)
    return int(np.clip(PROBE_MACS / max(work, 1), FEWEST_SAMPLES, REFERENCE_SAMPLES))


def _settled(technique: Quantize, progress: Progress) -> tuple[Quantize, dict[str, float]]:
    """The technique with the range estimator that serves it best, and all estimators' scores."""
    forms = _everything_quantized(technique, find_layers(technique.model))
    if not forms:
        return technique, {technique.method.value: 0.0}
    with progress.step("choosing range estimators", None):
        method, scores = technique.method_by_distortion(forms)
    return dataclasses.replace(technique, method=method), scores


def scaled_by_form(
    problem: Problem, measured: Mapping[tuple[str, str], float]
) -> dict[tuple[str, str], float]:
    """Latencies of all options, scaled as those of their form that were measured in place.

    What makes one layer's cell too slow or too fast (other load while it ran, caches that are warm
    in the network) mostly holds for its whole form; uncorrected ones would compete unfairly.
    """
    ratios: dict[str, list[float]] = {}
    for option in problem.options:
        found = measured.get((option.layers[0], option.form))
        if found is not None and option.latency_us >= SHORTEST_US:
            ratios.setdefault(option.form, []).append(found / option.latency_us)
    factors = {f: float(np.median(r)) for f, r in ratios.items() if len(r) >= FEWEST_RATIOS}
    return {
        (o.layers[0], o.form): o.latency_us * factors[o.form]
        for o in problem.options
        if o.form in factors and len(o.layers) == 1
    }


def with_latencies(
    problem: Problem, measured: Mapping[tuple[str, str], float], fixed_us: float
) -> Problem:
    """The problem with latencies corrected to what (layer, form) took in the whole network."""
    options = tuple(
        dataclasses.replace(o, latency_us=measured[o.layers[0], o.form])
        if len(o.layers) == 1 and (o.layers[0], o.form) in measured
        else o
        for o in problem.options
    )
    return dataclasses.replace(problem, options=options, fixed_us=fixed_us)


def _everything_quantized(technique: Quantize, layers: Sequence[Layer]) -> dict[str, Form]:
    """The form each weighted layer has if all are static int8 (matrices: dynamic)."""
    forms = {}
    for layer in layers:
        usable = technique.usable_forms(layer)
        if layer.weight is None or layer.depthwise or len(usable) < 2:
            continue
        forms[layer.name] = Form.DYNAMIC if Form.DYNAMIC in usable else Form.INT8
    return forms


def value_shapes_of(
    model: ir.Model, calibration: Calibration, layers: Sequence[Layer]
) -> dict[str, tuple[int, ...]]:
    """Concrete shapes by running the typical sample, a bounded number of values at a time."""
    given = {str(v.name) for v in model.graph.inputs}
    names = dict.fromkeys(
        str(v.name)
        for layer in layers
        for v in (*layer.inputs, layer.node.outputs[0], layer.output)
    )
    wanted = [name for name in names if name not in given]
    shapes = {name: array.shape for name, array in calibration.typical.items()}
    for start in range(0, len(wanted), SHAPE_VALUES_AT_ONCE):
        group = wanted[start : start + SHAPE_VALUES_AT_ONCE]
        found = value_shapes(model, calibration.typical, group)
        shapes.update({name: shape for name, (shape, _) in found.items()})
    return shapes


def _statistics(
    model: ir.Model,
    model_key: str,
    calibration: Calibration,
    shapes: Mapping[str, tuple[int, ...]],
    store: EvidenceStore,
    progress: Progress,
) -> dict[str, TensorStatistics]:
    names = list(dict.fromkeys(n for layer in find_layers(model) for n in observed(layer)))
    if not names:
        return {}
    key = store.key("statistics", model_key, calibration.data.fingerprint, names)
    known = store.get_arrays(key)
    if known is not None:
        return unpack(known)
    with progress.step("observing activations", len(calibration.data)) as advance:
        statistics = collect(model, calibration.data, shapes, names, advance=advance)
    store.put_arrays(key, pack(statistics))
    return statistics
