"""Activation statistics: what values every tensor takes on the calibration data, in one pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from compress.errors import UsageError
from compress.execute.memory import give_back
from compress.execute.session import Runner
from compress.graph.traversal import new_initializer

Array = npt.NDArray[Any]

BINS = 4096
HISTOGRAM_SAMPLES = 1 << 15
"""Elements per tensor and sample that enter the histogram; extremes come from all of them."""

CHUNK_BYTES = 48 * 2**20
"""Intermediate values fetched at once, where they are fetched at all."""

MAX_CHANNELS = 1 << 14


@dataclasses.dataclass(frozen=True)
class Summary:
    """What one tensor of one sample is boiled down to, inside the runtime.

    `sample` is an even sample of the elements, flat; `channels` and `last` are (largest magnitude,
    mean) per index of axis 1 and of the last axis, None where that axis is not told apart.
    """

    low: float
    high: float
    sample: Array
    channels: tuple[Array, Array] | None
    last: tuple[Array, Array] | None


def summarise(array: Array) -> Summary:
    """The summary of a tensor that is at hand (graph inputs); others are made by `instrumented`."""
    flat = array.reshape(-1)
    # an odd stride does not lock onto channels or rows of a power-of-two size
    stride = (flat.size // HISTOGRAM_SAMPLES) | 1

    def per_index(axis: int) -> tuple[Array, Array] | None:
        if array.ndim < 2 or array.shape[axis] > MAX_CHANNELS:
            return None
        moved = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])
        return np.abs(moved).max(axis=0), moved.mean(axis=0, dtype=np.float64)

    return Summary(
        float(array.min()),
        float(array.max()),
        flat[::stride],
        per_index(1) if array.ndim >= 3 else None,
        per_index(-1) if array.ndim in (2, 3) else None,
    )


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
    samples: int = 0

    def update(self, summary: Summary) -> None:
        """Adds one sample's tensor."""
        finite = np.isfinite(summary.low) and np.isfinite(summary.high)
        if not (finite and np.isfinite(summary.sample).all()):
            raise UsageError("the model produces NaN or infinity on the calibration data")
        self.low, self.high = min(self.low, summary.low), max(self.high, summary.high)
        self._widen(max(abs(summary.low), abs(summary.high)))
        # powers of two: the scaling is exact, so no order of samples puts a value into another bin
        scale = BINS / (2 * self.half_width) if self.half_width > 0 else 0.0
        position = np.floor(summary.sample * np.float64(scale)).astype(np.int32) + BINS // 2
        self.counts += np.bincount(np.clip(position, 0, BINS - 1), minlength=BINS)
        self._update_channels("absmax", "mean", summary.channels)
        self._update_channels("last_absmax", "last_mean", summary.last)
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

    def _update_channels(self, largest: str, mean: str, now: tuple[Array, Array] | None) -> None:
        old = getattr(self, largest)
        if now is not None and self.samples == 0:
            setattr(self, largest, now[0])
            setattr(self, mean, now[1])
        elif now is not None and old is not None and old.shape == now[0].shape:
            setattr(self, largest, np.maximum(old, now[0]))
            before = getattr(self, mean)
            setattr(self, mean, before + (now[1] - before) / (self.samples + 1))
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
            "scalars": np.array([self.low, self.high, self.half_width, self.samples], np.float64),
            "counts": self.counts,
        }
        for name in ("absmax", "last_absmax", "mean", "last_mean"):
            value = getattr(self, name)
            if value is not None:
                result[name] = value
        return result

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> TensorStatistics:
        low, high, half_width, samples = (float(x) for x in arrays["scalars"])
        return cls(
            low,
            high,
            half_width,
            np.asarray(arrays["counts"]),
            arrays.get("absmax"),
            arrays.get("last_absmax"),
            arrays.get("mean"),
            arrays.get("last_mean"),
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


def collect(
    model: ir.Model,
    samples: Iterable[Mapping[str, Array]],
    shapes: Mapping[str, tuple[int, ...]],
    names: Sequence[str],
    *,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, TensorStatistics]:
    """Statistics of the named values over the samples, in one pass.

    The tensors are summarised by nodes added to the graph, so that memory is that of an ordinary
    run and a summary, whatever the size of the network and the number of samples.

    Args:
        model: the float model.
        shapes: of each named value for a typical sample; ranks must not vary, sizes may.
        names: values to observe; graph inputs are allowed.
        advance: called after every sample, for progress.

    Raises:
        UsageError: NaN or infinity appeared, naming the value.
    """
    inputs = {str(v.name) for v in model.graph.inputs}
    inside = [name for name in names if name not in inputs]
    result = {name: TensorStatistics() for name in names}
    runner = None
    if inside:
        runner = Runner(instrumented(model, {n: shapes[n] for n in inside}), frugal=True, own=True)
    for sample in samples:
        found = {n: summarise(sample[n]) for n in names if n in inputs and sample[n].size}
        if runner is not None:
            found.update(read_summaries(runner(sample), inside))
        for name, summary in found.items():
            try:
                result[name].update(summary)
            except UsageError as error:
                raise UsageError(f"{error} (value {name})") from None
        advance()
    del runner
    give_back()
    return result


def instrumented(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> ir.Model:
    """A copy of the model whose outputs are summaries of the named values, not the values.

    Given:   v = Conv(...)                                              shape (N, C, H, W)
    Result:  v/min1, v/max1, v/mean1 = Reduce...(v, axes = (0, 2, 3)),
             v/sample = Slice(Reshape(v, [-1]), step)
    """
    clone = model.clone()
    graph = clone.graph
    values = {str(v.name): v for node in graph for v in node.outputs}
    graph.outputs.clear()
    added: list[ir.Node] = []

    def constant_of(name: str, numbers: Sequence[int]) -> ir.Value:
        return new_initializer(graph, name, np.array(numbers, np.int64))

    def output(node: ir.Node, name: str) -> None:
        node.outputs[0].name = name
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        added.append(node)
        graph.outputs.append(node.outputs[0])

    everything = constant_of("summary.flat", [-1])
    start, end = constant_of("summary.start", [0]), constant_of("summary.end", [2**62])
    axis_zero = constant_of("summary.axis", [0])
    for name, shape in shapes.items():
        value = values[name]
        added.clear()
        for label, kept in _kept_axes(shape):
            others = [i for i in range(len(shape)) if kept is None or i != kept % len(shape)]
            axes = constant_of(f"{name}/{label}/axes", others)
            for kind, operator in (
                ("min", "ReduceMin"),
                ("max", "ReduceMax"),
                ("mean", "ReduceMean"),
            ):
                node = ir.node(operator, [value, axes], {"keepdims": 0})
                output(node, f"{name}/{label}/{kind}")
        step = (int(np.prod(shape)) // HISTOGRAM_SAMPLES) | 1
        flat = ir.node("Reshape", [value, everything])
        flat.outputs[0].name = f"{name}/flat"
        added.append(flat)
        steps = constant_of(f"{name}/step", [step])
        output(ir.node("Slice", [flat.outputs[0], start, end, axis_zero, steps]), f"{name}/sample")
        producer = value.producer()
        assert producer is not None
        # right behind the value, which can then be freed as early as in an ordinary run
        graph.insert_after(producer, tuple(added))
    RemoveUnusedNodesPass()(clone)
    return clone


def _kept_axes(shape: Sequence[int]) -> list[tuple[str, int | None]]:
    """Which axes are told apart: channels of rank 3 and more, the last axis of rank 2 and 3.

    None ("all") if that is no axis at all: extremes come from every element even so.
    """
    kept = [("channels", 1)] if len(shape) >= 3 else []
    if len(shape) in (2, 3):
        kept.append(("last", -1))
    narrow = [(label, axis) for label, axis in kept if shape[axis] <= MAX_CHANNELS]
    return [*narrow] if narrow or not shape else [("all", None)]


def read_summaries(outputs: Mapping[str, Array], names: Sequence[str]) -> dict[str, Summary]:
    """The summaries in the outputs of an instrumented model; empty tensors are left out."""
    result = {}
    for name in names:
        sample = outputs[f"{name}/sample"]
        if sample.size == 0:
            continue
        low, high = float(sample.min()), float(sample.max())
        axes: dict[str, tuple[Array, Array]] = {}
        for label in ("channels", "last", "all"):
            if f"{name}/{label}/min" in outputs:
                smallest, largest = outputs[f"{name}/{label}/min"], outputs[f"{name}/{label}/max"]
                low, high = min(low, float(smallest.min())), max(high, float(largest.max()))
                mean = outputs[f"{name}/{label}/mean"].astype(np.float64)
                # a mean shows NaN that a maximum may pass over
                low = low if np.isfinite(mean).all() else float("nan")
                axes[label] = np.maximum(np.abs(smallest), np.abs(largest)), mean
        result[name] = Summary(low, high, sample, axes.get("channels"), axes.get("last"))
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
