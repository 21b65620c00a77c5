"""Merge, as a Technique: one operator, or none, in place of whole spans of layers."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.errors import DeviceError
from compress.evidence.store import EvidenceStore
from compress.execute.memory import give_back
from compress.execute.runtime import Samples
from compress.execute.session import Runner, with_outputs
from compress.graph.infer_shapes import InferShapes
from compress.graph.layers import find_layers
from compress.graph.traversal import scalar
from compress.passes.base import Option, Proposal, Technique
from compress.passes.merge.algebra import LinearMap
from compress.passes.merge.reconstruct import (
    MOST_FEATURES,
    System,
    Window,
    draw_rows,
    rows_wanted,
)
from compress.passes.merge.rewrite import SUFFIX, MergeSpans, Replacement
from compress.passes.merge.spans import Span, channel_axis, find_spans, folded, outline
from compress.passes.probing import Probe, distortions
from compress.passes.quantize.cells import CellLatency, measure_cell
from compress.passes.quantize.forms import Form, possible_forms
from compress.passes.quantize.probes import WeightProbe
from compress.passes.quantize.technique import Reference

Array = npt.NDArray[Any]
Advance = Callable[[], None]
Shapes = Mapping[str, tuple[int, ...]]

KERNELS = (1, 3, 5, 7)
"""Sizes along each spatial axis that are tried, as far as the span itself sees."""

WORTHWHILE = 0.9
"""Share of the span's latency, in its fastest unmerged forms, that a merged form may keep."""

SMALLEST_GAIN_US = 2.0

FLOOR_QUANTILE = 0.1
"""Share of the values that a new floor cuts off."""


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """One way to realise a span.

    Attributes:
        window: taps of the operator; None: the layers are dropped.
        floored: whether outputs are cut off from below where they were not before.
        latencies: in the forms that the device runs it in.
    """

    span: Span
    window: Window | None
    floored: bool
    latencies: Mapping[Form, CellLatency]

    @property
    def label(self) -> str:
        if self.window is None:
            return "drop"
        return "x".join(map(str, self.window.kernel)) or "linear"


@dataclasses.dataclass(frozen=True, eq=False)
class Merge(Technique):
    """Spans as one convolution or matrix, or dropped; fitted, measured, and judged by the output.

    LayerMerge (ICML 2024) and DepthShrinker choose which activations and convolutions of
    hand-written networks go. Here spans come from the graph, kernels of every size up to what the
    span sees are options, weights are fitted by least squares to what the span computes on real
    activations instead of multiplied out (which is the prior), and the latency is that of the
    merged operator in each numeric form: a dense integer convolution may be fast where the float
    one is not. Sequences get a linear map (Jump to Conclusions; LLM-Streamline), or nothing
    (ShortGPT).

    Attributes:
        model: canonical float model.
        model_key: its content hash.
        shapes: of every value a layer reads or writes, for the typical sample.
        reference: samples and float outputs that distortion is measured on.
        samples, samples_key: what operators are fitted on.
        unmerged: layer name -> microseconds in its fastest form.
        store: evidence.
        host: fingerprint of machine and runtime.
        workers: threads that measure distortions.
    """

    name: ClassVar[str] = "merge"

    model: ir.Model
    model_key: str
    shapes: Shapes
    reference: Reference
    samples: Samples
    samples_key: str
    unmerged: Mapping[str, float]
    store: EvidenceStore
    host: str
    workers: int = 2

    # --- what there is ----------------------------------------------------------------------------

    def candidates(self, advance: Advance = lambda: None) -> list[Candidate]:
        """Forms of spans that were measured to be faster than the span in its fastest forms."""
        result = []
        for span in find_spans(self.model):
            if not any(layer.weight is not None for layer in span.layers):
                continue
            if not {str(span.source.name), str(span.target.name)} <= self.shapes.keys():
                continue
            bound = sum(self.unmerged.get(name, 0.0) for name in span.names)
            bound = min(WORTHWHILE * bound, bound - SMALLEST_GAIN_US)
            if bound <= 0:
                continue
            for window, floored in self._ways(span):
                found = self._latencies(span, window, floored)
                fast = {form: cell for form, cell in found.items() if cell.core_us < bound}
                if fast or (window is None and bound > 0):
                    result.append(Candidate(span, window, floored, fast))
            advance()
        return result

    @functools.cached_property
    def _candidates(self) -> list[Candidate]:
        """Found once: every structure that is written asks for them."""
        return self.candidates()

    def _ways(self, span: Span) -> Iterator[tuple[Window | None, bool]]:
        source = self.shapes[str(span.source.name)]
        target = self.shapes[str(span.target.name)]
        if source == target:
            yield None, False
        weighted = sum(layer.weight is not None for layer in span.layers)
        nonlinear = any(layer.op not in ("Conv", "Gemm", "MatMul", "Add") for layer in span.layers)
        if weighted < 2 and not nonlinear:
            return
        axis = -1 if _is_sequence(span, source) else 1
        if not (_countable(span.source, axis) and _countable(span.target, axis)):
            return
        # merged operators in a row would be one without anything nonlinear between them
        floored = span.layers[-1].activation is None and bool(span.activations)
        for window in _windows(span, source, target):
            channels = source[-1] if not window.kernel else source[1]
            if window.features(channels) <= MOST_FEATURES:
                yield window, floored and bool(window.kernel)

    def _latencies(
        self, span: Span, window: Window | None, floored: bool
    ) -> dict[Form, CellLatency]:
        if window is None:
            return {}
        source = self.shapes[str(span.source.name)]
        target = self.shapes[str(span.target.name)]
        axis = -1 if not window.kernel else 1
        weight = np.zeros((target[axis], source[axis], *window.kernel))
        linear = LinearMap(
            weight + 1e-3, np.zeros(target[axis]), window.start, window.stride, window.slack
        )
        cell = cut_span(self.model, span, self.shapes)
        low = -0.5 if floored else None
        item = Replacement(str(span.source.name), str(span.target.name), linear, low)
        MergeSpans((item,)).run(cell)
        layer = find_layers(cell)[0]
        result = {}
        for form in possible_forms(layer):
            try:
                found = measure_cell(cell, layer, self.shapes, form, self.store, self.host)
            except DeviceError:
                continue
            if found.fused:
                result[form] = found
        return result

    # --- fitting ----------------------------------------------------------------------------------

    def fit(
        self, candidates: Sequence[Candidate], advance: Advance = lambda: None
    ) -> dict[tuple[str, str], Replacement]:
        """(span key, label) -> the fitted operator; kept as evidence."""
        result: dict[tuple[str, str], Replacement] = {}
        by_source: dict[str, list[Candidate]] = {}
        for candidate in candidates:
            if candidate.window is None:
                span = candidate.span
                result[span.key, candidate.label] = Replacement(
                    str(span.source.name), str(span.target.name), None
                )
            else:
                by_source.setdefault(str(candidate.span.source.name), []).append(candidate)
        for source, group in by_source.items():
            result |= self._fit_source(source, group, advance)
        return result

    def _fit_source(
        self, source: str, group: Sequence[Candidate], advance: Advance
    ) -> dict[tuple[str, str], Replacement]:
        """All candidates that start from one value; rows are gathered for its largest windows."""
        result = {}
        keys = {
            (c.span.key, c.label): self.store.key(
                "merged_fit",
                self.model_key,
                self.samples_key,
                source,
                str(c.span.target.name),
                dataclasses.astuple(c.window) if c.window is not None else (),
                c.floored,
            )
            for c in group
        }
        known = {name: self.store.get_arrays(key) for name, key in keys.items()}
        missing = [c for c in group if known[c.span.key, c.label] is None]
        while missing:
            largest = max((c.window for c in missing if c.window), key=lambda w: w.features(1))
            inside = [c for c in missing if c.window is not None and largest.holds(c.window)]
            missing = [c for c in missing if c not in inside]
            raws = sorted({str(_raw(c.span).name) for c in inside})
            inputs, targets = self._rows(source, raws, largest)
            whole = System(inputs, largest, self._channels(source, largest))
            systems = {largest: whole}
            for candidate in inside:
                assert candidate.window is not None
                if candidate.window not in systems:
                    systems[candidate.window] = whole.narrowed(candidate.window)
                rows = targets[str(_raw(candidate.span).name)]
                low = _low(candidate, rows)
                prior = _prior(candidate.span, candidate.window)
                fit = systems[candidate.window].fit(rows, prior, low)
                name = candidate.span.key, candidate.label
                arrays = {
                    "weight": fit.map.weight.astype(np.float32),
                    "bias": fit.map.bias.astype(np.float32),
                    "error": np.array(fit.error),
                    "low": np.array(np.nan if low is None else low),
                }
                known[name] = arrays
                self.store.put_arrays(keys[name], arrays)
        for candidate in group:
            name = candidate.span.key, candidate.label
            kept = known[name]
            assert kept is not None
            result[name] = _replacement(candidate, kept)
            advance()
        return result

    def _channels(self, source: str, window: Window) -> int:
        return self.shapes[source][1 if window.kernel else -1]

    def _rows(
        self, source: str, targets: Sequence[str], window: Window
    ) -> tuple[Array, dict[str, Array]]:
        """Rows of the system, and of every target at the same places."""
        names = [source, *targets]
        given = {str(v.name) for v in self.model.graph.inputs}
        runner = Runner(
            with_outputs(self.model, [n for n in names if n not in given]), frugal=True, own=True
        )
        inputs: list[Array] = []
        wanted: dict[str, list[Array]] = {name: [] for name in targets}
        enough = rows_wanted(window.features(self._channels(source, window)))
        share = math.ceil(enough / len(self.samples))
        count = 0
        for sample in self.samples:
            values = {**sample, **runner(sample)}
            stacked = np.concatenate([values[n] for n in targets], axis=1 if window.kernel else -1)
            left, right = draw_rows(values[source], stacked, window, share, seed=count)
            inputs.append(left)
            splits = np.cumsum([values[n].shape[1 if window.kernel else -1] for n in targets])
            for name, part in zip(targets, np.split(right, splits[:-1], axis=1), strict=True):
                wanted[name].append(part)
            count += len(left)
            if count >= 2 * enough:
                break
        del runner
        give_back()
        return np.concatenate(inputs), {k: np.concatenate(v) for k, v in wanted.items()}

    # --- distortion -------------------------------------------------------------------------------

    def distortions(
        self,
        candidates: Sequence[Candidate],
        fitted: Mapping[tuple[str, str], Replacement],
        advance: Advance = lambda: None,
    ) -> dict[tuple[str, str, Form], float]:
        """Of the network's outputs where one span alone is replaced, in each numeric form."""
        probes: dict[tuple[str, str, Form], Probe] = {}
        for candidate in candidates:
            for form in dict.fromkeys((Form.FLOAT, *candidate.latencies)):
                name = (candidate.span.key, candidate.label, form)
                key = self.store.key(
                    "merged_distortion",
                    self.model_key,
                    self.samples_key,
                    self.reference.fingerprint,
                    *name[:2],
                    form.value,
                )
                change = _Change(candidate, fitted[name[:2]], form)
                first = str(candidate.span.layers[0].node.name)
                probes[name] = Probe(key, change, node=first)
        return distortions(self.model, self.reference, self.store, probes, self.workers, advance)

    # --- options ----------------------------------------------------------------------------------

    def propose(self, advance: Advance = lambda: None) -> Proposal:
        """Options for spans; what layers are alone is left to other techniques."""
        candidates = self._candidates
        fitted = self.fit(candidates)
        lost = self.distortions(candidates, fitted, advance)
        return Proposal(tuple(self._options(candidates, lost)), {})

    def _options(
        self, candidates: Sequence[Candidate], lost: Mapping[tuple[str, str, Form], float]
    ) -> Iterator[Option]:
        for candidate in candidates:
            span = candidate.span
            source, target = str(span.source.name), str(span.target.name)
            name = (span.key, candidate.label)
            if candidate.window is None:
                yield Option(
                    self.name, candidate.label, span.names, 0.0, 0, lost[(*name, Form.FLOAT)]
                )
                continue
            shape = self.shapes[target], self.shapes[source]
            axis = 1 if candidate.window.kernel else -1
            weights = shape[0][axis] * candidate.window.features(shape[1][axis])
            for form, cell in candidate.latencies.items():
                integer = form is not Form.FLOAT
                yield Option(
                    self.name,
                    f"{candidate.label}{' ' + form.value if integer else ''}",
                    span.names,
                    cell.core_us,
                    weights if integer else 4 * weights,
                    lost[(*name, form)],
                    reads_uint8=frozenset({source}) if form.reads_uint8 else frozenset(),
                    reads_float=frozenset() if form.reads_uint8 else frozenset({source}),
                    writes_uint8=frozenset({target}) if form is Form.INT8 else frozenset(),
                )

    def apply(self, model: ir.Model, chosen: Mapping[str, Option]) -> ir.Model:
        """A copy of `model` with the chosen spans as fitted operators, in float."""
        options = {id(o): o for o in chosen.values() if o.technique == self.name}
        candidates = self._candidates
        by_name = {(c.span.names, c.label): c for c in candidates}
        wanted = [by_name[o.layers, o.form.split(" ")[0]] for o in options.values()]
        fitted = self.fit(wanted)
        result = model.clone()
        MergeSpans(tuple(fitted[c.span.key, c.label] for c in wanted)).run(result)
        return result


@dataclasses.dataclass(frozen=True, eq=False)
class _Change:
    """The merge as a change of a tail, weights rounded where the form does so."""

    candidate: Candidate
    replacement: Replacement
    form: Form

    def __call__(self, model: ir.Model) -> None:
        MergeSpans((self.replacement,)).run(model)
        if self.form is Form.FLOAT:
            return
        name = f"{self.candidate.span.layers[-1].name}{SUFFIX}"
        layer = next(x for x in find_layers(model) if x.name == name)
        WeightProbe.of(layer, self.form, {}).run(model)


def _replacement(candidate: Candidate, kept: Mapping[str, Array]) -> Replacement:
    window, span = candidate.window, candidate.span
    assert window is not None
    linear = LinearMap(
        kept["weight"].astype(np.float64),
        kept["bias"].astype(np.float64),
        window.start,
        window.stride,
        window.slack,
        exact=False,
    )
    low = float(kept["low"]) if candidate.floored else None
    return Replacement(str(span.source.name), str(span.target.name), linear, low)


def _is_sequence(span: Span, source: tuple[int, ...]) -> bool:
    """Whether features are on the last axis."""
    return channel_axis(span.source) == -1 or len(source) < 3


def _countable(value: ir.Value, axis: int) -> bool:
    """Whether a value has a fixed number of features; scores of attention have one per position."""
    if value.shape is None or len(value.shape) < 2:
        return False
    return isinstance(value.shape.dims[axis], int)


def _raw(span: Span) -> ir.Value:
    """What the merged operator itself has to give: before the activation at the span's end."""
    last = span.layers[-1]
    raw = last.output if last.activation is None else last.activation.inputs[0]
    assert raw is not None
    return raw


def _low(candidate: Candidate, targets: Array) -> float | None:
    """Where outputs are cut off from below, if they are: by the span's last activation, or anew.

    A new floor lies where few values are, so that little is lost at first; training moves what
    has to be bent across it.
    """
    if candidate.floored:
        return float(np.quantile(targets, FLOOR_QUANTILE))
    last = candidate.span.layers[-1].activation
    if last is None or last.op_type not in ("Relu", "Clip"):
        return None
    if last.op_type == "Relu":
        return 0.0
    return scalar(last.inputs[1]) if len(last.inputs) > 1 else None


def _prior(span: Span, window: Window) -> LinearMap | None:
    """What the span multiplies out to, where it does and is not much larger than the window."""
    shape = outline(span)
    if shape is None or len(shape.kernel) != len(window.kernel):
        return None
    if any(k > 2 * w + 1 for k, w in zip(shape.kernel, window.kernel, strict=True)):
        return None
    return folded(span)


def cut_span(model: ir.Model, span: Span, shapes: Shapes) -> ir.Model:
    """The span as a model of its own with fixed input shapes."""
    inputs = [span.source, *span.sides]
    graph = ir.convenience.extract(model.graph, inputs, [span.target])
    for value in graph.inputs:
        if str(value.name) in shapes:
            value.shape = ir.Shape(shapes[str(value.name)])
    for node in graph:
        for value in node.outputs:
            value.shape = None
    result = ir.Model(graph, ir_version=model.ir_version)
    InferShapes().run(result)
    return result


def _windows(span: Span, source: tuple[int, ...], target: tuple[int, ...]) -> Iterator[Window]:
    """Windows that could stand in for the span, smallest first."""
    if _is_sequence(span, source):
        if source[:-1] == target[:-1]:
            yield Window((), (), (), ())
        return
    if len(source) != len(target) or source[0] != target[0]:
        return
    linear = outline(span)
    axes = len(source) - 2
    if linear is not None:
        stride, slack = linear.stride, linear.slack
        full = linear.kernel
        middle = [s + (k - 1) // 2 for s, k in zip(linear.start, full, strict=True)]
    else:
        if any(n % m for n, m in zip(source[2:], target[2:], strict=True)):
            return
        stride = tuple(n // m for n, m in zip(source[2:], target[2:], strict=True))
        slack = (-1,) * axes
        full, middle = (max(KERNELS),) * axes, [0] * axes
    seen = set()
    for size in itertools.chain(KERNELS):
        kernel = tuple(min(size, k) for k in full)
        if kernel not in seen and all(k >= 1 for k in kernel):
            seen.add(kernel)
            start = tuple(m - (k - 1) // 2 for m, k in zip(middle, kernel, strict=True))
            if all(k >= s or k == 1 for k, s in zip(kernel, stride, strict=True)):
                yield Window(kernel, start, stride, slack)
