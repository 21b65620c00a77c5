"""The kinds of places that samples come from, behind one small interface."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compress.errors import UsageError
from compress.evidence.npz import NpzArray, open_npz, write_npz
from compress.evidence.user_code import UserFunction, is_reference, load_function, wrap_callable

Sample = dict[str, NDArray[Any]]
Shapes = Mapping[str, "tuple[int | str | None, ...] | None"]

LABELS = "labels"
"""The array of a labelled .npz that says the right class of each sample."""


class Source(Protocol):
    """Samples that can be gone through several times. Nothing about them has been checked."""

    @property
    def name(self) -> str: ...

    @property
    def length(self) -> int | None:
        """How many samples there are, if that is known without reading them."""

    @property
    def stable(self) -> bool:
        """Whether every pass is sure to give the same samples."""

    def where(self, index: int) -> str:
        """How to call sample `index` in a message."""

    def read(self, indices: Sequence[int] | None) -> Iterator[Mapping[str, object]]:
        """The samples at these ascending places, or all; fewer if the source ends early."""


def open_source(source: object, inputs: Shapes, limit: int | None = None) -> Source:
    """The source that a user's `--data` or `data=` stands for; see `open_calibration`.

    Of a source that can be gone through only once, the first `limit` samples are kept.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    if isinstance(source, str) and is_reference(source):
        return _open_function(load_function(source, "--data"), inputs)
    if isinstance(source, (str, Path)):
        path = Path(source)
        if path.is_dir():
            return _Folder(path)
        return ArraysSource(str(path), open_npz(path), inputs)
    if isinstance(source, Mapping):
        return ArraysSource("the calibration data", source, inputs)
    if callable(source):
        return _open_function(wrap_callable(source), inputs)
    if isinstance(source, Iterator):
        return _Copied(source, limit)
    if isinstance(source, Iterable):
        return _Iterable(source)
    raise UsageError(
        f"calibration data cannot come from a {type(source).__name__}: give a path, a dict of "
        "arrays, an iterable of dicts, or a function that returns one"
    )


class ArraysSource:
    """One array per input, whose first axis counts the samples: an .npz file or a dict."""

    stable = True

    def __init__(self, name: str, arrays: Mapping[str, NpzArray | Any], inputs: Shapes) -> None:
        self.name = name
        self._arrays: dict[str, tuple[NpzArray | NDArray[Any], int, bool]] = {}
        lengths: dict[str, int] = {}
        given = {key: value for key, value in arrays.items() if key in inputs or key != LABELS}
        if given:
            check_names(given, inputs, name)
        for key, value in given.items():
            array = value if isinstance(value, NpzArray) else as_array(value, key, name)
            if not array.shape:
                raise UsageError(f"{name}: {key!r} is one value; its first axis must be samples")
            size, squeeze = _block(array.shape, inputs[key])
            lengths[key] = array.shape[0] // size
            if array.shape[0] and not lengths[key]:
                raise UsageError(
                    f"{name}: {key!r} has {array.shape[0]} rows, too few for one batch of the "
                    f"{size} that the model fixes"
                )
            self._arrays[key] = (array, size, squeeze)
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{key!r} has {length}" for key, length in lengths.items())
            raise UsageError(f"{name}: the inputs differ in their number of samples: {shown}")
        self.length: int | None = next(iter(lengths.values()), 0)

    def where(self, index: int) -> str:
        return f"sample {index} of {self.name}"

    def read(self, indices: Sequence[int] | None) -> Iterator[Sample]:
        chosen = range(self.length or 0) if indices is None else indices
        columns = [
            _blocks(array, chosen, size, squeeze) for array, size, squeeze in self._arrays.values()
        ]
        for row in zip(*columns, strict=True):
            yield dict(zip(self._arrays, row, strict=True))


def _block(shape: tuple[int, ...], wanted: tuple[int | str | None, ...] | None) -> tuple[int, bool]:
    """How many rows make one sample, and whether its first axis is then dropped."""
    if wanted is not None and len(shape) == len(wanted) + 1:
        return 1, True
    if wanted and len(shape) == len(wanted) and isinstance(wanted[0], int):
        return max(wanted[0], 1), False
    return 1, False


def _blocks(
    array: NpzArray | NDArray[Any], indices: Sequence[int], size: int, squeeze: bool
) -> Iterator[NDArray[Any]]:
    if isinstance(array, NpzArray):
        blocks = array.blocks(indices, size)
    else:
        blocks = (array[i * size : (i + 1) * size] for i in indices)
    for block in blocks:
        yield block[0] if squeeze else block


class _Folder:
    """One .npz file per sample, in the order of their names."""

    stable = True

    def __init__(self, folder: Path, name: str | None = None) -> None:
        self.name = name or str(folder)
        self._label = name
        self._files = sorted(
            path
            for path in folder.iterdir()
            if path.suffix == ".npz" and not path.name.startswith(".")
        )
        if not self._files and name is None:
            raise UsageError(f"{folder} holds no .npz file: give one per sample")
        self.length: int | None = len(self._files)

    def where(self, index: int) -> str:
        return f"sample {index} of {self._label}" if self._label else str(self._files[index])

    def read(self, indices: Sequence[int] | None) -> Iterator[Sample]:
        for i in range(len(self._files)) if indices is None else indices:
            yield {name: array.read() for name, array in open_npz(self._files[i]).items()}


class _Iterable:
    """An iterable of dicts that can be gone through again and again."""

    def __init__(self, samples: Iterable[object], name: str = "the calibration data") -> None:
        self.name = name
        self._samples = samples
        self.stable = isinstance(samples, (list, tuple))
        self.length: int | None = len(samples) if isinstance(samples, (list, tuple)) else None

    def where(self, index: int) -> str:
        return f"sample {index} of {self.name}"

    def read(self, indices: Sequence[int] | None) -> Iterator[Mapping[str, object]]:
        return _picked(self._samples, indices, self.where)


class _Function:
    """A function that gives a fresh iterator of dicts each time it is called."""

    stable = False
    length: int | None = None

    def __init__(self, function: UserFunction, first: Iterable[object]) -> None:
        """`first` is what the first call gave; the first pass goes through it."""
        self.name = function.name
        self._function = function
        self._first: Iterable[object] | None = first

    def where(self, index: int) -> str:
        return f"sample {index} from {self.name}"

    def read(self, indices: Sequence[int] | None) -> Iterator[Mapping[str, object]]:
        given, self._first = self._first, None
        samples = iterate_user(self._function, self._function() if given is None else given)
        return _picked(samples, indices, self.where)


class _Copied(_Folder):
    """What a one-pass iterator gave, copied to a folder that goes away with this object."""

    def __init__(self, samples: Iterator[object], limit: int | None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="compress-calibration-")
        folder = Path(self._temporary.name)
        name = "the calibration data"
        for i, raw in enumerate(itertools.islice(samples, limit)):
            where = f"sample {i} of {name}"
            mapping = _checked(raw, where)
            sample = {key: as_array(value, key, where) for key, value in mapping.items()}
            try:
                write_npz(folder / f"{i:09}.npz", sample)
            except OSError as error:
                raise UsageError(
                    f"{name} cannot be copied to {folder} ({error.strerror}): "
                    "give a function that returns a fresh iterator instead"
                ) from error
        super().__init__(folder, name)


def _open_function(function: UserFunction, inputs: Shapes) -> Source:
    given = function()
    if isinstance(given, Mapping):
        return ArraysSource(function.name, given, inputs)
    if isinstance(given, (list, tuple)):
        return _Iterable(given, function.name)
    if not isinstance(given, Iterable):
        raise UsageError(
            f"{function.name} returned a {type(given).__name__}: it must yield dicts of arrays"
        )
    return _Function(function, given)


def iterate_user(function: UserFunction, iterable: Iterable[object]) -> Iterator[object]:
    """Go through what a user's function gave; what it raises on the way becomes a UsageError."""
    with function.running():
        iterator = iter(iterable)
    ended = object()
    while True:
        with function.running():
            item = next(iterator, ended)
        if item is ended:
            return
        yield item


def check_names(given: Iterable[str], inputs: Iterable[str], where: str) -> None:
    """Raise a UsageError unless `given` are exactly the names of the model's inputs."""
    wanted, found = list(inputs), list(given)
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted]
    if missing:
        has = f"it has {_listed(unknown)}" if unknown else "it has no other"
        raise UsageError(
            f"{where} has no array for the model's input {_listed(missing)} ({has}): "
            "name the arrays as the model's inputs"
        )
    if unknown:
        raise UsageError(
            f"{where} has an array {_listed(unknown)}, which is no input of the model; "
            f"its inputs are {_listed(wanted)}"
        )


def as_array(value: object, name: str, where: str) -> NDArray[Any]:
    """`value` as an array of numbers or strings, or a UsageError."""
    try:
        array = np.asarray(value)
    except Exception as error:  # a foreign tensor type may refuse in any way
        reason = " ".join(str(error).split())
        raise UsageError(f"{where}: {name!r} is no array: {reason}") from error
    if not array.dtype.hasobject:
        return array
    if all(isinstance(item, str) for item in array.flat):
        return array.astype(np.str_)
    raise UsageError(f"{where}: {name!r} is no array of numbers but a {type(value).__name__}")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:8])
    return shown + (", ..." if len(names) > 8 else "")


def _checked(sample: object, where: str) -> Mapping[str, object]:
    if isinstance(sample, Mapping):
        return sample
    raise UsageError(
        f"{where} is a {type(sample).__name__}: each sample is a dict from input name to array"
    )


def _picked(
    samples: Iterable[object], indices: Sequence[int] | None, where: Callable[[int], str]
) -> Iterator[Mapping[str, object]]:
    """Those of `samples` that stand at the ascending `indices`, or all; reads no further."""
    wanted = itertools.count() if indices is None else iter(indices)
    target = next(wanted, None)
    for index, sample in enumerate(samples):
        if target is None:
            return
        if index == target:
            yield _checked(sample, where(index))
            target = next(wanted, None)
