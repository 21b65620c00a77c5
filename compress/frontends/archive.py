"""Zip archives from outside, with limits: what is in them, and members one at a time."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from compress.errors import ModelError, UsageError

MAX_MEMBERS = 200_000
MAX_TEXT_BYTES = 512 << 20
"""No program text of an exporter comes near this."""

MAX_RATIO = 100
"""PyTorch stores weights as they are; code shrinks about tenfold, a bomb a thousandfold."""

FREE_BYTES = 1 << 20
"""Compressed members up to this size are not worth an argument."""


class Archive:
    """A zip file whose members lie in one folder named after the model, as PyTorch writes them.

    Names are given and returned without that folder. Use `open_archive`.
    """

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self.path = path
        self._file = file
        members = [info for info in file.infolist() if not info.is_dir()]
        self._check(members)
        self.root = _common_folder([info.filename for info in members])
        self._members = {info.filename[len(self.root) :]: info for info in members}

    @property
    def names(self) -> list[str]:
        return list(self._members)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def size(self, name: str) -> int:
        """Bytes of the member when expanded."""
        return self._info(name).file_size

    def read(self, name: str) -> bytes:
        """A member that is text or small; weights are copied with `copy`."""
        if self.size(name) > MAX_TEXT_BYTES:
            raise ModelError(f"{self.path}: member {name} is too large for what it should hold")
        with self._damage_is_model_error():
            return self._file.read(self._info(name))

    def copy(self, name: str, target: IO[bytes]) -> None:
        with self._damage_is_model_error(), self._file.open(self._info(name)) as source:
            shutil.copyfileobj(source, target, 1 << 20)

    def _info(self, name: str) -> zipfile.ZipInfo:
        if name not in self._members:
            raise ModelError(f"{self.path} is damaged: it has no member {name}")
        return self._members[name]

    def _check(self, members: list[zipfile.ZipInfo]) -> None:
        """Refuse archives that expand to far more than their size, or hold a name twice."""
        if not members:
            raise ModelError(f"{self.path} is an empty archive")
        if len(members) > MAX_MEMBERS:
            raise ModelError(f"{self.path} has {len(members)} members: it is no model")
        if len({info.filename for info in members}) != len(members):
            raise ModelError(f"{self.path} holds two members of one name: it is damaged")
        available = self.path.stat().st_size
        packed = sum(info.compress_size for info in members)
        bomb = packed > available or any(
            info.file_size > max(FREE_BYTES, MAX_RATIO * info.compress_size) for info in members
        )
        if bomb:
            raise ModelError(
                f"{self.path} expands to far more than its size: save the model again with PyTorch"
            )

    @contextmanager
    def _damage_is_model_error(self) -> Iterator[None]:
        try:
            yield
        except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
            raise ModelError(f"{self.path} is damaged: {error}") from None


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """The zip archive at `path`.

    Raises:
        UsageError: the file cannot be opened.
        ModelError: it is no zip archive, truncated, or expands without bounds.
    """
    try:
        file = zipfile.ZipFile(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        reason = str(error) or "no zip archive"
        raise ModelError(f"{path} is truncated or damaged: {reason}") from None
    with file:
        yield Archive(path, file)


def _common_folder(names: list[str]) -> str:
    """The folder, with its slash, that holds every member; empty if there is none."""
    folder = names[0].partition("/")[0] + "/"
    return folder if all(name.startswith(folder) for name in names) else ""
