"""Between the second and the third stage: layers that are one without loss become one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from compress.errors import DeviceError
from compress.evidence.store import EvidenceStore
from compress.graph.identity import model_hash
from compress.graph.infer_shapes import InferShapes
from compress.graph.layers import Layer, find_layers
from compress.passes.merge.algebra import LinearMap
from compress.passes.merge.lossless import MergeTransposed, lossless_spans, transposed_pairs
from compress.passes.merge.rewrite import SUFFIX, MergeSpans, Replacement
from compress.passes.merge.spans import Span
from compress.passes.merge.technique import cut_span
from compress.passes.quantize.cells import measure_cell, time_cell
from compress.passes.quantize.forms import Form, possible_forms
from compress.progress import Progress
from compress.stages.calibration import Calibration
from compress.stages.gather import value_shapes_of
from compress.stages.subject import Subject

WORTHWHILE = 0.97
"""Share of the latency that a merge may keep: figures are not more certain than that."""

Shapes = Mapping[str, tuple[int, ...]]


def merge_losslessly(
    subject: Subject,
    calibration: Calibration,
    store: EvidenceStore,
    host: str,
    progress: Progress,
) -> Subject:
    """The subject with those spans merged that were measured to be faster as one operator.

    A merge has to be faster in float, and in its fastest form faster than the parts in theirs.
    """
    spans = lossless_spans(subject.model)
    pairs = transposed_pairs(subject.model)
    if not spans and not pairs:
        return subject
    layers = [x for span, _ in spans for x in span.layers] + [x for pair in pairs for x in pair]
    shapes = value_shapes_of(subject.model, calibration, layers)
    model = subject.model.clone()
    reasons: dict[str, str] = {}
    total = 0
    with progress.step("merging layers without loss", len(spans) + len(pairs)) as advance:
        chosen = _best(subject.model, spans, shapes, store, host, advance)
        for span, _, before, after in chosen:
            reasons[f"{span.layers[-1].name}{SUFFIX}"] = (
                f"takes the place of {len(span.layers)} layers without loss "
                f"({before:.0f} -> {after:.0f} us in float)"
            )
            total += len(span.layers)
        MergeSpans(
            tuple(
                Replacement(str(s.source.name), str(s.target.name), linear)
                for s, linear, _, _ in chosen
            )
        ).run(model)
        joined = set()
        for first, second in pairs:
            if _transposed_gain(subject.model, first, second, shapes):
                joined.add(first.name if first.op == "ConvTranspose" else second.name)
            advance()
        if joined and MergeTransposed(frozenset(joined)).run(model):
            reasons |= dict.fromkeys(joined, "took in a 1x1 convolution without loss")
            total += 2 * len(joined)
    if not reasons:
        return subject
    InferShapes().run(model)
    progress.note(f"{total} layers became {len(reasons)} without loss")
    return dataclasses.replace(
        subject,
        model=model,
        key=model_hash(model),
        rewritten={**subject.rewritten, **reasons},
    )


Measured = tuple[Span, LinearMap, float, float]


def _best(
    model: ir.Model,
    spans: Sequence[tuple[Span, LinearMap]],
    shapes: Shapes,
    store: EvidenceStore,
    host: str,
    advance: Callable[[], None],
) -> list[Measured]:
    """Spans that gain, those that gain most first; none overlaps another."""
    gains: list[tuple[float, Measured]] = []
    for span, linear in spans:
        advance()
        if str(span.source.name) not in shapes:
            continue
        cell = cut_span(model, span, shapes)
        MergeSpans((Replacement(str(span.source.name), str(span.target.name), linear),)).run(cell)
        merged = find_layers(cell)[0]
        before = [_forms(model, layer, shapes, store, host) for layer in span.layers]
        after = _forms(cell, merged, shapes, store, host)
        float_before = sum(found[Form.FLOAT] for found in before)
        best_before = sum(min(found.values()) for found in before)
        faster = after[Form.FLOAT] < WORTHWHILE * float_before
        if faster and min(after.values()) < WORTHWHILE * best_before:
            gain = best_before - min(after.values())
            gains.append((gain, (span, linear, float_before, after[Form.FLOAT])))
    taken: set[str] = set()
    result = []
    for _, measured in sorted(gains, key=lambda item: -item[0]):
        names = set(measured[0].names)
        if not names & taken:
            taken |= names
            result.append(measured)
    return result


def _forms(
    model: ir.Model, layer: Layer, shapes: Shapes, store: EvidenceStore, host: str
) -> dict[Form, float]:
    """Microseconds of a layer in the forms that fuse; float always, conversions left out."""
    result: dict[Form, float] = {}
    for form in possible_forms(layer):
        try:
            cell = measure_cell(model, layer, shapes, form, store, host)
        except DeviceError:
            if form is Form.FLOAT:
                raise
            continue
        if cell.fused:
            result[form] = cell.core_us
    return result


def _transposed_gain(model: ir.Model, first: Layer, second: Layer, shapes: Shapes) -> bool:
    """Whether the pair is faster as one transposed convolution, measured in float."""
    span = Span((first, second), first.inputs[0], second.output)
    apart = cut_span(model, span, shapes)
    together = cut_span(model, span, shapes)
    if not MergeTransposed(frozenset({first.name, second.name})).run(together):
        return False
    times = [sum(us for _, _, us in time_cell(cell, shapes)) for cell in (apart, together)]
    return times[1] < WORTHWHILE * times[0]
