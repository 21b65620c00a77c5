"""The operator that comes closest to a span: least squares on the span's own activations."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.passes.merge.algebra import LinearMap, Offsets

Array = npt.NDArray[Any]

RIDGE = 1e-3
"""Of the mean diagonal: keeps directions that the samples hardly show near the prior."""

ROUNDS = 6
"""Of imputation behind a rectifier; errors fall monotonously, the first few do nearly all."""

MOST_FEATURES = 1700
"""Columns of the largest system that is solved; beyond, spans are not fitted."""

ROWS_PER_FEATURE = 5
FEWEST_ROWS, MOST_ROWS = 4096, 12288


@dataclasses.dataclass(frozen=True)
class Window:
    """Which taps an operator has: a LinearMap without its numbers."""

    kernel: Offsets
    start: Offsets
    stride: Offsets
    slack: Offsets

    @classmethod
    def of(cls, linear: LinearMap) -> Window:
        return cls(linear.kernel, linear.start, linear.stride, linear.slack)

    def holds(self, other: Window) -> bool:
        """Whether the other one's taps are among these, at the same steps."""
        if (self.stride, self.slack) != (other.stride, other.slack):
            return False
        spots = zip(self.start, self.kernel, other.start, other.kernel, strict=True)
        return all(a <= c and c + m <= a + k for a, k, c, m in spots)

    def features(self, channels: int) -> int:
        return channels * int(np.prod(self.kernel))


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """A fitted operator and how well it does on the samples.

    Attributes:
        error: mean squared error over the target's variance; 0 is perfect, 1 is the mean.
    """

    map: LinearMap
    error: float


def rows_wanted(features: int) -> int:
    return int(np.clip(ROWS_PER_FEATURE * features, FEWEST_ROWS, MOST_ROWS))


def draw_rows(
    source: Array, target: Array, window: Window, most: int, *, seed: int = 0
) -> tuple[Array, Array]:
    """At most so many rows of inputs and targets of one sample, drawn evenly.

    Args:
        source, target: batch axis first, (N, C, *S) and (N, M, *P); for a window without axes,
            features last: (..., C) and (..., M).

    Returns:
        (rows, C * taps) and (rows, M) float32; taps vary fastest.
    """
    if window.kernel:
        inputs = patches(source, window, target.shape[2:])
        targets = np.moveaxis(target, 1, -1)
    else:
        inputs = source.reshape(-1, source.shape[-1])
        targets = target.reshape(-1, target.shape[-1])
    places = targets.shape[:-1]
    chosen = np.unravel_index(_draw(math.prod(places), most, seed), places)
    rows = inputs[chosen]
    return rows.reshape(len(rows), -1).astype(np.float32), targets[chosen].astype(np.float32)


def _draw(count: int, most: int, seed: int) -> npt.NDArray[np.int64]:
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def patches(source: Array, window: Window, output: Sequence[int]) -> Array:
    """View (N, *P, C, *kernel) of what every output position sees of (N, C, *S)."""
    axes = source.ndim - 2
    pads, steps = [(0, 0), (0, 0)], []
    for i in range(axes):
        before = max(0, -window.start[i])
        last = window.start[i] + (output[i] - 1) * window.stride[i] + window.kernel[i]
        pads.append((before, max(0, last - source.shape[2 + i])))
        steps.append(window.start[i] + before)
    padded = np.pad(source, pads)
    view = np.lib.stride_tricks.sliding_window_view(
        padded, window.kernel, axis=tuple(range(2, 2 + axes))
    )
    picked: list[slice] = []
    for i in range(axes):
        stop = steps[i] + (output[i] - 1) * window.stride[i] + 1
        picked.append(slice(steps[i], stop, window.stride[i]))
    view = view[(slice(None), slice(None), *picked)]
    return np.moveaxis(view, 1, 1 + axes)


class System:
    """One source and window, factored once for any number of targets."""

    def __init__(
        self, inputs: Array, window: Window, channels: int, gram: Array | None = None
    ) -> None:
        """Takes (rows, channels * taps) float32 as from `draw_rows`, with a column of ones or not.

        Args:
            gram: the second moments of all columns and the ones, where they are known.
        """
        self.window, self.channels = window, channels
        if inputs.shape[1] == window.features(channels):
            inputs = np.concatenate([inputs, np.ones((len(inputs), 1), np.float32)], axis=1)
        self._inputs = inputs
        if gram is None:
            gram = (inputs.T @ inputs).astype(np.float64) / len(inputs)
        self._gram = gram
        # never nothing: channels that are always zero keep what the prior has for them
        damped = np.eye(len(gram)) * max(RIDGE * float(np.mean(np.diag(gram)[:-1])), 1e-9)
        damped[-1, -1] = 0.0
        self._factor = np.linalg.inv(gram + damped)
        self._damped = damped

    def narrowed(self, window: Window) -> System:
        """The system of a window inside of this one, of the same stride."""
        every = np.arange(self._inputs.shape[1] - 1)
        places = every.reshape(self.channels, *self.window.kernel)
        spots = zip(window.start, self.window.start, window.kernel, strict=True)
        inner = tuple(slice(a - b, a - b + k) for a, b, k in spots)
        columns = np.append(places[(slice(None), *inner)].reshape(-1), len(every))
        gram = self._gram[np.ix_(columns, columns)]
        return System(self._inputs[:, columns], window, self.channels, gram)

    def fit(self, targets: Array, prior: LinearMap | None, low: float | None) -> Fit:
        """The operator nearest to (rows, M) targets.

        Args:
            prior: what it is drawn to where the samples say nothing; None: zeros.
            low: where a rectifier max(y, low) follows: what lies below is right wherever the
                operator gives anything below, so that targets there are replaced by its own
                output where that is below as well (least squares with censored observations).
        """
        start = self._flat(prior, targets.shape[1])
        wanted = targets
        solution = start
        for round_number in range(1 if low is None else ROUNDS):
            if low is not None and round_number:
                found = (self._inputs @ solution).astype(np.float32)
                wanted = np.where(targets <= low, np.minimum(found, low), targets)
            right = (self._inputs.T @ wanted).astype(np.float64) / len(targets)
            solution = self._factor @ (right + self._damped @ start)
        found = self._inputs @ solution.astype(np.float32)
        if low is not None:
            found, targets = np.maximum(found, low), np.maximum(targets, low)
        variance = float(np.mean(np.square(targets - targets.mean(axis=0))))
        error = float(np.mean(np.square(found - targets))) / max(variance, 1e-30)
        weight = solution[:-1].T.reshape(-1, self.channels, *self.window.kernel)
        window = self.window
        return Fit(
            LinearMap(weight, solution[-1], window.start, window.stride, window.slack, exact=False),
            error,
        )

    def _flat(self, prior: LinearMap | None, outputs: int) -> npt.NDArray[np.float64]:
        flat = np.zeros((self._inputs.shape[1], outputs))
        if prior is not None:
            weight = np.zeros((outputs, self.channels, *self.window.kernel))
            source: list[Any] = [slice(None), slice(None)]
            target: list[Any] = [slice(None), slice(None)]
            for i, (size, kernel) in enumerate(zip(prior.kernel, self.window.kernel, strict=True)):
                shift = prior.start[i] - self.window.start[i]
                low, high = max(0, shift), min(kernel, shift + size)
                target.append(slice(low, high))
                source.append(slice(low - shift, high - shift))
            weight[tuple(target)] = prior.weight[tuple(source)]
            flat[:-1] = weight.reshape(outputs, -1).T
            flat[-1] = prior.bias
        return flat
