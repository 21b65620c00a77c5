"""Calibration data: what the user gives as `--data`, checked once and read as often as needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import UsageError
from compress.evidence.digest import digest
from compress.evidence.sources import Sample, Source, as_array, check_names, open_source

_FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class InputSpec:
    """An input of the model, as its calibration samples must be."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...] | None
    """A dimension is fixed (int), symbolic (its name) or unknown (None); None: any rank."""

    def __post_init__(self) -> None:
        if self.shape is not None:
            # Some exporters write -1 for a dimension that they do not know.
            known = tuple(None if isinstance(d, int) and d < 0 else d for d in self.shape)
            object.__setattr__(self, "shape", known)

    @property
    def rank(self) -> int | None:
        return None if self.shape is None else len(self.shape)

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype} of any shape"
        dims = ", ".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.dtype} of shape ({dims})"


@dataclass(frozen=True)
class _Record:
    """What is remembered of a sample after it was checked."""

    index: int
    """Its place in the source."""
    digest: str
    shapes: dict[str, tuple[int, ...]]


class CalibrationData:
    """Checked samples, each a dict of complete model inputs; read anew at each iteration.

    At most one sample (in `batches`: two batches) is in memory at a time.
    """

    def __init__(self, source: Source, inputs: Sequence[InputSpec], records: list[_Record]) -> None:
        self._source = source
        self._records = records
        self.inputs = tuple(inputs)

    @property
    def name(self) -> str:
        """Where the samples come from, for messages and the report."""
        return self._source.name

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the content of the samples, whatever kind of source they come from."""
        return digest("calibration", [record.digest for record in self._records])

    @property
    def stable(self) -> bool:
        """Whether reading the samples again runs no code of the user's."""
        return self._source.stable

    @property
    def sample_shapes(self) -> list[dict[str, tuple[int, ...]]]:
        """The shapes of each sample's inputs, in order."""
        return [record.shapes for record in self._records]

    @property
    def places(self) -> list[int]:
        """Where each sample is in its source, in order."""
        return [record.index for record in self._records]

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Sample]:
        """Go through the samples in order.

        Raises:
            UsageError: the source has changed since it was opened.
        """
        indices = [record.index for record in self._records]
        samples = self._source.read(indices)
        for record in self._records:
            raw = next(samples, None)
            if raw is None:
                raise UsageError(
                    f"{self.name} gave {record.index} samples this time and more the first time: "
                    "it must give the same samples each time"
                )
            sample = conform(raw, self.inputs, self._source.where(record.index))
            if not self._source.stable and digest(sample) != record.digest:
                raise UsageError(
                    f"{self._source.where(record.index)} is another one than the first time: it "
                    "must give the same samples each time, so fix its random seed and order"
                )
            yield sample

    def batches(self, max_batch: int) -> Iterator[Sample]:
        """Go through the samples, up to `max_batch` of equal shapes joined along the first axis.

        Samples are joined only if the first axis of every input is dynamic in the model and 1 in
        the sample. Each sample comes exactly once; joining may change their order, always in the
        same way.
        """
        if max_batch <= 1 or not self._batch_is_dynamic():
            yield from self
            return
        waiting: dict[object, list[Sample]] = {}
        for record, sample in zip(self._records, self, strict=True):
            if any(shape[0] != 1 for shape in record.shapes.values()):
                yield sample
                continue
            shapes = tuple(record.shapes.values())
            group = waiting.setdefault(shapes, [])
            group.append(sample)
            if len(group) == max_batch:
                yield _join(waiting.pop(shapes))
            elif sum(map(len, waiting.values())) >= 2 * max_batch:
                yield _join(waiting.pop(next(iter(waiting))))
        for group in waiting.values():
            yield _join(group)

    def take(self, n: int, seed: int = 0) -> CalibrationData:
        """`n` samples spread evenly over these, one drawn from each n-th part; all if n >= len."""
        if n >= len(self):
            return self
        if n < 1:
            raise ValueError("take at least one sample")
        places = _spread(len(self), n, seed)
        return CalibrationData(self._source, self.inputs, [self._records[i] for i in places])

    def _batch_is_dynamic(self) -> bool:
        first = {spec.shape[0] if spec.shape else 0 for spec in self.inputs}
        return len(first) == 1 and not isinstance(next(iter(first)), int)


def open_calibration(
    source: object,
    inputs: Sequence[InputSpec],
    *,
    limit: int | None = None,
    on_sample: Callable[[int, int | None], None] | None = None,
) -> CalibrationData:
    """Open calibration data, and check all of it in one pass.

    Args:
        source: one of
            - FILE.npz or a dict of arrays: one array per input, the first axis counts the samples.
              Sample i is `array[i:i+1]`, or `array[i]` if the array has one axis more than the
              input; if the model fixes its batch size to B, it is `array[i*B:(i+1)*B]`, and rows
              that fill no batch are left out. An array `labels` that is no input is passed over;
            - a folder of .npz files, each one sample with its batch axis, in the order of names;
            - FILE.py:function or a callable, called anew for each pass: returns or yields dicts,
              each one sample with its batch axis (or returns one dict of arrays as above);
            - an iterable of such dicts. One that can be gone through only once (a generator) is
              copied to a temporary folder.
        inputs: the model's inputs.
        limit: use at most this many samples: spread evenly if their number is known beforehand,
            else the first.
        on_sample: called with (samples checked, number of samples if known) after each sample.

    Raises:
        UsageError: the data is missing, unreadable or does not fit the model; one line says where.
    """
    if isinstance(source, CalibrationData):
        return source if limit is None else source.take(limit)
    if limit is not None and limit < 1:
        raise UsageError(f"calibration needs at least one sample, and the limit is {limit}")
    opened = open_source(source, {spec.name: spec.shape for spec in inputs}, limit)
    indices: Iterable[int] | None = None
    total = opened.length
    if limit is not None and total is not None and limit < total:
        indices, total = _spread(total, limit, seed=0), limit
    records = []
    for count, (index, raw) in enumerate(_numbered(opened, indices, limit), start=1):
        sample = conform(raw, inputs, opened.where(index))
        shapes = {name: array.shape for name, array in sample.items()}
        records.append(_Record(index, digest(sample), shapes))
        if on_sample is not None:
            on_sample(count, total)
    if not records:
        raise UsageError(f"{opened.name} holds no samples: give at least one")
    return CalibrationData(opened, inputs, records)


def _numbered(
    source: Source, indices: Iterable[int] | None, limit: int | None
) -> Iterator[tuple[int, Mapping[str, object]]]:
    if indices is not None:
        chosen = list(indices)
        yield from zip(chosen, source.read(chosen), strict=True)
        return
    for index, sample in enumerate(source.read(None)):
        yield index, sample
        if index + 1 == limit:
            return


def _spread(total: int, n: int, seed: int) -> list[int]:
    """n ascending places in range(total), one drawn from each of n equal parts."""
    drawn = (np.arange(n) + np.random.default_rng(seed).random(n)) * (total / n)
    edges = np.arange(n + 1) * total // n
    return [int(place) for place in np.clip(drawn.astype(np.int64), edges[:-1], edges[1:] - 1)]


def _join(samples: list[Sample]) -> Sample:
    return {name: np.concatenate([sample[name] for sample in samples]) for name in samples[0]}


def conform(raw: Mapping[str, object], inputs: Sequence[InputSpec], where: str) -> Sample:
    """The sample in the order, dtypes and memory layout of the model's inputs.

    Args:
        raw: arrays, or what converts to them, by input name.
        inputs: the model's inputs.
        where: how to call the sample in a message.

    Raises:
        UsageError: a name, shape, dtype or value is not one that the model takes.
    """
    check_names(raw, [spec.name for spec in inputs], where)
    return {spec.name: _conform_array(raw[spec.name], spec, where) for spec in inputs}


def _conform_array(value: object, spec: InputSpec, where: str) -> NDArray[Any]:
    array = as_array(value, spec.name, where)
    _check_shape(array.shape, spec, where)
    if not _casts_safely(array.dtype, spec.dtype):
        to_float = _is_float(spec.dtype) and array.dtype.kind in "iub"
        hint = " (scale it as in training)" if to_float else ""
        raise UsageError(
            f"{where}: {spec.name!r} is {array.dtype}, and the model's input is {spec.dtype}: "
            f"convert it{hint}"
        )
    if _is_float(array.dtype) and not np.isfinite(array).all():
        bad = "NaN" if np.isnan(array).any() else "Inf"
        raise UsageError(f"{where}: {spec.name!r} holds {bad}")
    if spec.dtype.hasobject:  # onnxruntime's name for strings; numpy's own can be hashed and saved
        return array
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(array, dtype=spec.dtype).reshape(array.shape)
    if _is_float(spec.dtype) and cast.dtype != array.dtype and not np.isfinite(cast).all():
        raise UsageError(f"{where}: {spec.name!r} holds values too large for {spec.dtype}")
    return cast


def _check_shape(shape: tuple[int, ...], spec: InputSpec, where: str) -> None:
    if spec.shape is None:
        return
    if _fits(shape, spec.shape):
        # Elsewhere zero is a legitimate size: a key-value cache before its first token.
        if shape and shape[0] == 0:
            raise UsageError(f"{where}: {spec.name!r} is empty (shape {shape})")
        return
    hint = ": an axis of size 1 is missing in front" if _fits((1, *shape), spec.shape) else ""
    raise UsageError(
        f"{where}: {spec.name!r} has shape {shape}, and the model's input is {spec}{hint}"
    )


def _fits(shape: tuple[int, ...], wanted: tuple[int | str | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        not isinstance(want, int) or want == dim for dim, want in zip(shape, wanted, strict=True)
    )


def _casts_safely(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Floats become other floats and integers wider ones; anything else would change meaning."""
    if given == wanted or (_is_float(given) and _is_float(wanted)):
        return True
    if wanted.hasobject:
        return given.kind == "U"
    return given.kind in "iu" and wanted.kind in "iu" and np.can_cast(given, wanted, "safe")


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.name in _FLOATS
