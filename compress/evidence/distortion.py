"""How far a candidate's outputs are from the float model's: per output slice, and by decisions."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.graph.traversal import attribute_int, is_op, rank

Array = npt.NDArray[Any]

LARGEST_SLICE_ERROR = 4.0
"""A slice that is worse than this is simply dead; more would drown all other slices."""

FLOOR_SHARE = 1e-3
"""Slices of less variance than this share of the output's mean are judged against that."""

MOST_OVER_MEDIAN = 100.0
"""The mean counts as at most this many times the median slice: a few slices of another unit (boxes
in pixels before many scores) would otherwise set a floor under which all others may die unseen."""

OWN_SHARE = 1e-6
"""Slices that are constant are judged against this share of their own square."""

MAX_SLICES = 4096
KEPT_SLICES = 5


class OutputKind(enum.Enum):
    """What an output means, as far as the graph tells."""

    PROBABILITIES = "probabilities"
    """Behind a Softmax over the last axis: compared by Jensen-Shannon divergence."""
    GATES = "gates"
    """Behind a Sigmoid: compared in slices; decided by one half."""
    VALUES = "values"
    """Anything else: compared in slices; decided by arg max over the last axis if it is rank 2."""
    IGNORED = "ignored"
    """Not float: must be equal where that is possible at all; not part of the distortion."""


def output_kind(value: ir.Value) -> OutputKind:
    """Looks back through operators that only move values."""
    if value.dtype is not None and not value.dtype.is_floating_point():
        return OutputKind.IGNORED
    moved = False
    node = value.producer()
    while is_op(node, "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"):
        assert node is not None
        moved |= not is_op(node, "Identity")
        source = node.inputs[0]
        node = source.producer() if source is not None else None
    if node is not None and is_op(node, "Softmax") and not moved:
        axis, ndim = attribute_int(node, "axis", -1), rank(value)
        if axis == -1 or (ndim is not None and axis == ndim - 1):
            return OutputKind.PROBABILITIES
    return OutputKind.GATES if is_op(node, "Sigmoid") else OutputKind.VALUES


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """The comparison of one candidate with the float model.

    Attributes:
        distortion: 0 for identical outputs; the mean over outputs of either the mean relative
            squared error of the slices or the divergence of the probabilities. Additive over
            layers to first order.
        sqnr_db: signal to quantization-noise ratio over all float outputs together.
        agreement: share of equal decisions, None if no output decides anything.
        worst: (output, slice, relative squared error), worst first.
    """

    distortion: float
    sqnr_db: float
    agreement: float | None
    worst: tuple[tuple[str, str, float], ...] = ()


def slice_axis(shape: Sequence[int]) -> int | None:
    """The axis whose indices are judged one by one: channels of images, columns of a matrix.

    For rank 3 the last axis, features: slices over time would mix every feature.
    """
    if len(shape) < 2:
        return None
    axis = 1 if len(shape) >= 4 else len(shape) - 1
    return axis if 1 < shape[axis] <= MAX_SLICES else None


class Comparison:
    """Sums over samples; samples may differ in shape."""

    def __init__(self, kinds: Mapping[str, OutputKind]) -> None:
        self._kinds = {n: k for n, k in kinds.items() if k is not OutputKind.IGNORED}
        self._noise: dict[str, Array] = {}
        self._first: dict[str, Array] = {}
        self._second: dict[str, Array] = {}
        self._count: dict[str, float] = {}
        self._divergence: dict[str, list[float]] = {}
        self._equal = self._decisions = 0.0

    def add(self, reference: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Adds one sample's outputs: those of the float model and those of the candidate."""
        for name, kind in self._kinds.items():
            expected = np.asarray(reference[name])
            actual = np.asarray(outputs[name])
            if expected.shape != actual.shape:
                raise ValueError(f"output {name}: {actual.shape} instead of {expected.shape}")
            self._decide(kind, np.nan_to_num(expected), np.nan_to_num(actual))
            if kind is OutputKind.PROBABILITIES:
                usable = np.nan_to_num(actual, posinf=0.0, neginf=0.0)
                self._divergence.setdefault(name, []).append(divergence(expected, usable))
            self._add_slices(name, *_finite(expected, actual))

    def _add_slices(self, name: str, expected: Array, actual: Array) -> None:
        axis = slice_axis(expected.shape)
        size = expected.shape[axis] if axis is not None else 1
        if axis is None:
            rows_expected, rows_actual = expected.reshape(-1, 1), actual.reshape(-1, 1)
        else:
            rows_expected = np.moveaxis(expected, axis, -1).reshape(-1, size)
            rows_actual = np.moveaxis(actual, axis, -1).reshape(-1, size)
        noise = np.square(rows_expected - rows_actual).sum(axis=0, dtype=np.float64)
        first = rows_expected.sum(axis=0, dtype=np.float64)
        second = np.square(rows_expected).sum(axis=0, dtype=np.float64)
        if name in self._noise and self._noise[name].shape != noise.shape:
            # the sliced axis varies between samples: judge the output as a whole
            noise, first, second = (np.array([x.sum()]) for x in (noise, first, second))
            for store in (self._noise, self._first, self._second):
                store[name] = np.array([store[name].sum()])
        for store, value in ((self._noise, noise), (self._first, first), (self._second, second)):
            store[name] = store.get(name, 0.0) + value
        self._count[name] = self._count.get(name, 0.0) + expected.size

    def _decide(self, kind: OutputKind, expected: Array, actual: Array) -> None:
        if kind is OutputKind.GATES:
            union = np.logical_or(expected > 0.5, actual > 0.5)
            both = np.logical_and(expected > 0.5, actual > 0.5)
            # gates are mostly shut: agreement on the open ones is what tells
            self._equal += float(both.sum())
            self._decisions += float(union.sum())
        elif kind is OutputKind.PROBABILITIES or (expected.ndim == 2 and expected.shape[1] > 1):
            same = expected.argmax(axis=-1) == actual.argmax(axis=-1)
            self._equal += float(same.sum())
            self._decisions += float(same.size)

    def _errors(self, name: str) -> Array:
        """The relative squared error of every slice, at most `LARGEST_SLICE_ERROR`."""
        noise, first, second = self._noise[name], self._first[name], self._second[name]
        if self._count[name] < 2 * noise.size:
            # one value per slice varies with nothing: judge the output as a whole
            noise, first, second = (np.array([x.sum()]) for x in (noise, first, second))
        per_slice = self._count[name] / noise.size
        variance = second - np.square(first) / per_slice if per_slice > 1 else second
        varying = variance[variance > OWN_SHARE * second]
        typical = min(variance.mean(), MOST_OVER_MEDIAN * np.median(varying)) if varying.size else 0
        floor = np.maximum(FLOOR_SHARE * typical, np.maximum(OWN_SHARE * second, 1e-30))
        return np.asarray(np.minimum(noise / np.maximum(variance, floor), LARGEST_SLICE_ERROR))

    def result(self) -> Fidelity:
        """The figures over all samples added so far."""
        parts, worst = [], []
        noise_total = signal_total = 0.0
        for name, kind in self._kinds.items():
            if name not in self._noise:
                continue
            errors = self._errors(name)
            noise_total += float(self._noise[name].sum())
            signal_total += float(self._second[name].sum())
            if kind is OutputKind.PROBABILITIES:
                parts.append(float(np.mean(self._divergence[name])))
            else:
                parts.append(float(errors.mean()))
            order = np.argsort(-errors, kind="stable")[:KEPT_SLICES]
            label = [str(int(i)) for i in order] if errors.size > 1 else ["all"]
            worst += [(name, s, float(errors[i])) for s, i in zip(label, order, strict=False)]
        sqnr = 10 * np.log10(max(signal_total, 1e-30) / max(noise_total, 1e-30))
        return Fidelity(
            distortion=float(np.mean(parts)) if parts else 0.0,
            sqnr_db=float(min(sqnr, 300.0)),
            agreement=self._equal / self._decisions if self._decisions else None,
            worst=tuple(sorted(worst, key=lambda item: -item[2])[:KEPT_SLICES]),
        )


def _finite(expected: Array, actual: Array) -> tuple[Array, Array]:
    """Both without NaN and infinity: zeros where they agree on one, a large error where not."""
    off = ~(np.isfinite(expected) & np.isfinite(actual))
    if not off.any():
        return expected, actual
    agree = off & ((expected == actual) | (np.isnan(expected) & np.isnan(actual)))
    usable = expected[np.isfinite(expected)]
    large = 1e3 * (1.0 + (float(np.abs(usable).max()) if usable.size else 0.0))
    return (
        np.where(np.isfinite(expected), expected, 0.0),
        np.where(agree, 0.0, np.where(off, large, actual)),
    )


def divergence(expected: Array, actual: Array) -> float:
    """Mean Jensen-Shannon divergence of rows of probabilities, in nats (at most ln 2).

    Bounded on purpose: a single confident flip would dominate a Kullback-Leibler mean over few
    samples, and layers would be ranked by whose rounding happened to meet that sample.
    """
    p = np.maximum(expected, 1e-12)
    q = np.maximum(actual, 1e-12)
    middle = (p + q) / 2
    rows = (p * np.log(p / middle) + q * np.log(q / middle)).sum(axis=-1) / 2
    return float(np.maximum(rows, 0.0).mean())


def output_kinds(model: ir.Model) -> dict[str, OutputKind]:
    """The kind of every output of the model by name."""
    return {str(value.name): output_kind(value) for value in model.graph.outputs}
