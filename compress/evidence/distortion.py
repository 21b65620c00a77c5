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

    For rank 3 the shorter of the last two axes: sequences are longer than features only sometimes,
    but slices over time would mix every feature.
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
            if not np.isfinite(actual).all():
                actual = np.nan_to_num(actual, nan=0.0, posinf=3e38, neginf=-3e38)
            self._add_slices(name, expected, actual)
            if kind is OutputKind.PROBABILITIES:
                self._divergence.setdefault(name, []).append(divergence(expected, actual))
            self._decide(kind, expected, actual)

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

    def result(self) -> Fidelity:
        """The figures over all samples added so far."""
        parts, worst = [], []
        noise_total = signal_total = 0.0
        for name, kind in self._kinds.items():
            if name not in self._noise:
                continue
            per_slice = self._count[name] / self._noise[name].size
            variance = self._second[name] - np.square(self._first[name]) / per_slice
            floor = max(FLOOR_SHARE * float(variance.mean()), 1e-30)
            errors = np.minimum(
                self._noise[name] / np.maximum(variance, floor), LARGEST_SLICE_ERROR
            )
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
