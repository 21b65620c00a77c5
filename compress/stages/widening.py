"""Between the second and the third stage: narrow convolutions are widened where that is faster."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from compress.errors import DeviceError
from compress.evidence.store import EvidenceStore
from compress.graph.identity import model_hash
from compress.graph.infer_shapes import InferShapes
from compress.graph.layers import Layer, find_layers
from compress.passes.quantize.cells import cut_out, measure_cell, signature, time_cell
from compress.passes.quantize.forms import Form
from compress.passes.widen import WidenConvolutions, Widening, possible_widenings
from compress.progress import Progress
from compress.stages.calibration import Calibration
from compress.stages.gather import value_shapes_of
from compress.stages.subject import Subject

WORTHWHILE = 0.85
"""Share of the latency that a widened layer may keep: it also moves values, which costs others."""

SHORTEST_US = 30.0
"""Layers that take less are left alone."""

Shapes = Mapping[str, tuple[int, ...]]


def widen(
    subject: Subject,
    calibration: Calibration,
    store: EvidenceStore,
    host: str,
    progress: Progress,
) -> Subject:
    """The subject with those convolutions widened that were measured to gain by it."""
    layers = [layer for layer in find_layers(subject.model) if possible_widenings(layer)]
    if not layers:
        return subject
    shapes = value_shapes_of(subject.model, calibration, layers)
    chosen: dict[str, Widening] = {}
    reasons: dict[str, str] = {}
    total_before = total_after = 0.0
    with progress.step("widening narrow convolutions", len(layers)) as advance:
        for layer in layers:
            best = _best(subject, layer, shapes, store, host)
            if best is not None:
                chosen[layer.name], before, after = best
                total_before, total_after = total_before + before, total_after + after
                reasons[layer.name] = (
                    f"computes {chosen[layer.name].factor} neighbours as channels "
                    f"({before:.0f} -> {after:.0f} us in float)"
                )
            advance()
    if not chosen:
        return subject
    progress.note(
        f"{len(chosen)} narrow convolutions compute several neighbours as channels: "
        f"{total_before / 1e3:.3g} -> {total_after / 1e3:.3g} ms in float"
    )
    model = subject.model.clone()
    WidenConvolutions(chosen).run(model)
    InferShapes().run(model)
    return dataclasses.replace(subject, model=model, key=model_hash(model), rewritten=reasons)


def _best(
    subject: Subject, layer: Layer, shapes: Shapes, store: EvidenceStore, host: str
) -> tuple[Widening, float, float] | None:
    """The fastest widening with the latency before and after; None if none is worth it.

    It has to be faster than the layer in float with its conversions, and in int8 without.
    """
    plain = measure_cell(subject.model, layer, shapes, Form.FLOAT, store, host)
    before = plain.entry_us + plain.core_us + plain.exit_us
    if before < SHORTEST_US:
        return None
    integer = measure_cell(subject.model, layer, shapes, Form.INT8, store, host)
    bound = min(before, integer.core_us) if integer.fused else before
    timed = [
        (_latency(subject, layer, widening, shapes, store, host), widening)
        for widening in possible_widenings(layer)
    ]
    after, best = min(timed, key=lambda pair: pair[0])
    return (best, before, after) if after < WORTHWHILE * bound else None


def _latency(
    subject: Subject,
    layer: Layer,
    widening: Widening,
    shapes: Shapes,
    store: EvidenceStore,
    host: str,
) -> float:
    """Microseconds of the widened layer with everything around it, once per signature."""
    key = store.key(
        "widened_latency",
        signature(layer, shapes, Form.FLOAT),
        widening.axis,
        widening.factor,
        host,
    )
    known = store.get(key)
    if isinstance(known, float):
        return known
    cell = cut_out(subject.model, layer, shapes)
    WidenConvolutions({layer.name: widening}).run(cell)
    try:
        found = sum(us for _, _, us in time_cell(cell, shapes))
    except DeviceError as error:
        raise DeviceError(f"layer {layer.name} cannot be measured widened: {error}") from error
    store.put(key, found)
    return found
