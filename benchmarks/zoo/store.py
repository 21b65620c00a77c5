"""Data sets that are rendered once and kept on disk under a key of what they were made from."""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import overload

import numpy as np
import numpy.typing as npt

from benchmarks.zoo import fetch

Sample = Mapping[str, npt.NDArray[np.generic]]


def key_of(*parts: str | bytes | ModuleType) -> str:
    """A content key (16 hex digits). A module stands for its source text, so that editing a
    recipe renders anew; name the versions of the libraries that draw among the parts."""
    digest = hashlib.sha256()
    for part in parts:
        text = inspect.getsource(part) if isinstance(part, ModuleType) else part
        data = text.encode() if isinstance(text, str) else text
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


def samples(name: str, key: str, build: Callable[[], Iterable[Sample]]) -> Sequence[Sample]:
    """The data set `name`, built on first use; every sample is read from disk when it is asked for.

    Arrays may differ in shape from sample to sample. Written whole or not at all.
    """
    path = fetch.zoo_folder() / "data" / f"{name}-{key}.npz"
    if not path.is_file():
        flat = {
            f"{index:05d}/{field}": array
            for index, sample in enumerate(build())
            for field, array in sample.items()
        }
        _write_whole(path, flat)
    return _Stored(path)


def folder_of_samples(name: str, build: Callable[[], Iterable[Sample]]) -> Path:
    """A folder with one .npz per sample (`00000.npz`, ...), named by the samples' content."""
    digest = hashlib.sha256()
    root = fetch.zoo_folder() / "calibration"
    root.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=root))
    try:
        for index, sample in enumerate(build()):
            for field in sorted(sample):
                array = np.ascontiguousarray(sample[field])
                digest.update(f"{field} {array.dtype} {array.shape}".encode() + array.tobytes())
            np.savez(scratch / f"{index:05d}.npz", **dict(sample))
        home = root / f"{name}-{digest.hexdigest()[:16]}"
        if not home.is_dir():
            scratch.chmod(0o755)
            try:
                scratch.rename(home)
            except OSError:
                if not home.is_dir():
                    raise
        return home
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_whole(path: Path, arrays: Sample) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        np.savez_compressed(file, **dict(arrays))
    os.replace(file.name, path)


class _Stored(Sequence[Sample]):
    """The samples of a file that `samples` wrote. They may be many times what a run may hold."""

    def __init__(self, path: Path) -> None:
        self._content = np.load(path, allow_pickle=False)
        grouped: dict[str, dict[str, str]] = {}
        for full in self._content.files:
            index, field = full.split("/", 1)
            grouped.setdefault(index, {})[field] = full
        self._members = [grouped[index] for index in sorted(grouped)]

    def __len__(self) -> int:
        return len(self._members)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return {field: self._content[full] for field, full in self._members[index].items()}
