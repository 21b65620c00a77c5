"""Activation statistics: what values every tensor takes on the calibration data, in one pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.errors import UsageError
from compress.execute.session import Runner, with_outputs

Array = npt.NDArray[Any]

BINS = 4096
HISTOGRAM_SAMPLES = 1 << 15
"""Elements per tensor and sample that enter the histogram; extremes come from all of them."""

CHUNK_BYTES = 48 * 2**20
"""Intermediate values held at once while collecting."""

MAX_CHANNELS = 1 << 14


@dataclasses.dataclass
class TensorStatistics:
    """One tensor's values over the calibration data.

    `counts` is a histogram over [-half_width, half_width] in `BINS` equal bins, of an even sample
    of the elements. `absmax` and `mean` are per channel: index 1 for tensors of rank 3 and more
    with a fixed number of channels there, `last_absmax` along the last axis; None where that
    dimension varied.
    """

    low: float = np.inf
    high: float = -np.inf
    half_width: float = 0.0
    counts: Array = dataclasses.field(default_factory=lambda: np.zeros(BINS, np.int64))
    absmax: Array | None = None
    last_absmax: Array | None = None
    mean: Array | None = None
    last_mean: Array | None = None
    elements: int = 0
    samples: int = 0

    def update(self, array: Array) -> None:
        """Adds one sample's tensor, float of any shape."""
        if array.size == 0:
            return
        low, high = float(array.min()), float(array.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise UsageError("the model produces NaN or infinity on the calibration data")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(abs(low), abs(high)))
        flat = array.reshape(-1)
        if flat.size > HISTOGRAM_SAMPLES:
            # an odd stride does not lock onto channels or rows of a power-of-two size
            flat = flat[:: (flat.size // HISTOGRAM_SAMPLES) | 1]
        if self.half_width > 0:
            position = (flat + self.half_width) * (BINS / (2 * self.half_width))
            self.counts += np.bincount(
                np.clip(position.astype(np.int32), 0, BINS - 1), minlength=BINS
            )
        self._update_channels(array)
        self.elements += array.size
        self.samples += 1

    def _widen(self, magnitude: float) -> None:
        """Doubles the histogram's range until `magnitude` fits, merging pairs of bins."""
        if self.half_width == 0.0:
            # a power of two, so that runs that see samples in another order agree
            self.half_width = float(2.0 ** np.ceil(np.log2(magnitude))) if magnitude > 0 else 0.0
            return
        while magnitude > self.half_width:
            inner = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(BINS, np.int64)
            self.counts[BINS // 4 : BINS // 4 + BINS // 2] = inner
            self.half_width *= 2

    def _update_channels(self, array: Array) -> None:
        for axis, largest, mean in ((1, "absmax", "mean"), (-1, "last_absmax", "last_mean")):
            if array.ndim < 2 or (axis == 1 and array.ndim < 3):
                continue
            if array.shape[axis] > MAX_CHANNELS:
                continue
            moved = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])
            extremes = np.maximum(moved.max(axis=0), -moved.min(axis=0))
            means = moved.mean(axis=0, dtype=np.float64)
            old = getattr(self, largest)
            if self.samples == 0:
                setattr(self, largest, extremes)
                setattr(self, mean, means)
            elif old is not None and old.shape == extremes.shape:
                setattr(self, largest, np.maximum(old, extremes))
                setattr(
                    self,
                    mean,
                    getattr(self, mean) + (means - getattr(self, mean)) / (self.samples + 1),
                )
            else:
                setattr(self, largest, None)
                setattr(self, mean, None)

    def centers(self) -> Array:
        """The middle of every histogram bin, (BINS,) float64."""
        width = 2 * self.half_width / BINS
        return (np.arange(BINS) + 0.5) * width - self.half_width

    def arrays(self) -> dict[str, Array]:
        """As arrays, for the evidence store."""
        result: dict[str, Array] = {
            "scalars": np.array(
                [self.low, self.high, self.half_width, self.elements, self.samples], np.float64
            ),
            "counts": self.counts,
        }
        for name in ("absmax", "last_absmax", "mean", "last_mean"):
            value = getattr(self, name)
            if value is not None:
                result[name] = value
        return result

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> TensorStatistics:
        low, high, half_width, elements, samples = (float(x) for x in arrays["scalars"])
        return cls(
            low,
            high,
            half_width,
            np.asarray(arrays["counts"]),
            arrays.get("absmax"),
            arrays.get("last_absmax"),
            arrays.get("mean"),
            arrays.get("last_mean"),
            int(elements),
            int(samples),
        )


def pack(statistics: Mapping[str, TensorStatistics]) -> dict[str, Array]:
    """All statistics as one dict of arrays, keys `<number>/<field>` and the names in order."""
    result: dict[str, Array] = {"names": np.array(list(statistics), dtype=np.str_)}
    for number, item in enumerate(statistics.values()):
        result.update({f"{number}/{key}": array for key, array in item.arrays().items()})
    return result


def unpack(arrays: Mapping[str, Array]) -> dict[str, TensorStatistics]:
    """The inverse of `pack`."""
    result = {}
    for number, name in enumerate(arrays["names"]):
        prefix = f"{number}/"
        fields = {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}
        result[str(name)] = TensorStatistics.from_arrays(fields)
    return result


def chunks(sizes: Mapping[str, int], limit: int = CHUNK_BYTES) -> Iterator[list[str]]:
    """Groups of names whose values together stay below `limit` bytes (or stand alone)."""
    group: list[str] = []
    total = 0
    for name, size in sizes.items():
        if group and total + size > limit:
            yield group
            group, total = [], 0
        group.append(name)
        total += size
    if group:
        yield group


def collect(
    model: ir.Model,
    samples: Iterable[Mapping[str, Array]],
    names: Sequence[str],
    sizes: Mapping[str, int],
    *,
    advance: object = None,
) -> dict[str, TensorStatistics]:
    """Statistics of the named values over the samples; memory bounded by `CHUNK_BYTES` of values.

    Args:
        model: the float model.
        samples: re-iterable; one pass per chunk.
        names: values to observe; graph inputs are allowed.
        sizes: bytes of each value for a typical sample; missing ones count as 1 MB.
        advance: called with no argument after every sample, for progress.

    Raises:
        UsageError: NaN or infinity appeared, naming the value.
    """
    inputs = {str(v.name) for v in model.graph.inputs}
    result = {name: TensorStatistics() for name in names}
    wanted = {name: sizes.get(name, 2**20) for name in names if name not in inputs}
    first = True
    for group in chunks(wanted) if wanted else [[]]:
        runner = Runner(with_outputs(model, group)) if group else None
        for sample in samples:
            arrays = dict(runner(sample)) if runner is not None else {}
            if first:
                arrays.update({k: v for k, v in sample.items() if k in result})
            for name, array in arrays.items():
                try:
                    result[name].update(np.asarray(array))
                except UsageError as error:
                    raise UsageError(f"{error} (value {name})") from None
            if callable(advance):
                advance()
        first = False
    return result
