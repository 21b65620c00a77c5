"""The evidence store: what was computed once, found again by content, in this run or the next."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.evidence.digest import digest

Arrays = dict[str, NDArray[Any]]

SCHEMA_VERSION = 1
"""Part of every path: raise it when entries change their format, and old ones are not read."""

DEFAULT_MAX_BYTES = 4 << 30

_log = logging.getLogger(__name__)
_KEY = re.compile(r"([a-z0-9_]+)-([0-9a-f]{64})")
_NAMES = "names"
_STALE_TEMPORARY_SECONDS = 24 * 3600


class EvidenceStore:
    """A content-addressed store of JSON values and of dicts of numpy arrays.

    An entry appears whole or not at all; one that cannot be read back counts as missing. Any number
    of processes may use one folder. A folder that cannot be written to costs one warning, after
    which nothing more is kept: callers treat every `get` as one that may return None.
    Nothing is ever pickled.
    """

    def __init__(self, folder: Path | None = None, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        """Open a store.

        Args:
            folder: where entries live; by default COMPRESS_CACHE, or else the user's cache folder.
            max_bytes: when the entries outgrow this, the least recently used ones are deleted.
        """
        self._root: Path | None = (folder or default_folder()) / f"evidence-v{SCHEMA_VERSION}"
        self._memory: dict[str, bytes] = {}
        self._max_bytes = max_bytes
        self._written_since_sweep: int | None = None
        self._writable = True

    @classmethod
    def in_memory(cls) -> EvidenceStore:
        """A store that lives and dies with the process and touches no file."""
        store = cls.__new__(cls)
        store._root = None
        store._memory = {}
        store._max_bytes = 0
        store._written_since_sweep = None
        store._writable = True
        return store

    @staticmethod
    def key(kind: str, *parts: object) -> str:
        """The name under which evidence of this `kind` about `parts` is kept.

        `kind` (lower-case letters, digits, underscores) says what is known, `parts` what it depends
        on: everything that could change the value belongs there. See `digest` for their types.
        """
        if not re.fullmatch(r"[a-z0-9_]+", kind):
            raise ValueError(f"{kind!r} is not a kind: use lower-case letters, digits, underscores")
        return f"{kind}-{digest(*parts)}"

    def get(self, key: str) -> Any | None:
        """The JSON value under `key`, or None. Tuples come back as lists."""
        data = self._read(key, ".json")
        if data is None:
            return None
        checksum, _, payload = data.partition(b"\n")
        if hashlib.sha256(payload).hexdigest().encode() != checksum:
            _log.debug("evidence %s is damaged and counts as missing", key)
            return None
        return json.loads(payload)

    def put(self, key: str, value: Any) -> None:
        """Keep a JSON-able `value`; numpy scalars become Python numbers.

        Raises:
            TypeError: `value` holds something JSON has no form for.
        """
        payload = json.dumps(value, default=_plain).encode()
        checksum = hashlib.sha256(payload).hexdigest().encode()
        self._write(key, ".json", checksum + b"\n" + payload)

    def get_arrays(self, key: str) -> Arrays | None:
        """The arrays under `key`, by name, or None."""
        data = self._read(key, ".npz")
        if data is None:
            return None
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                names = json.loads(archive[_NAMES].tobytes())
                return {name: archive[f"a{i}"] for i, name in enumerate(names)}
        except Exception:  # whatever way in which a damaged archive fails, it counts as missing
            _log.debug("evidence %s is damaged and counts as missing", key, exc_info=True)
            return None

    def put_arrays(self, key: str, arrays: Arrays) -> None:
        """Keep a dict of numpy arrays (numpy's own dtypes; no objects).

        Raises:
            TypeError: a dtype that an .npz cannot hold without pickling or would forget.
        """
        for name, array in arrays.items():
            if array.dtype.hasobject or array.dtype.kind == "V":
                raise TypeError(f"array {name!r} of dtype {array.dtype} cannot be kept")
        # Members get numbers: names of tensors need not be legal or distinct as file names.
        names = np.frombuffer(json.dumps(list(arrays)).encode(), dtype=np.uint8)
        members: dict[str, Any] = {f"a{i}": array for i, array in enumerate(arrays.values())}
        buffer = io.BytesIO()
        np.savez(buffer, **members | {_NAMES: names})
        self._write(key, ".npz", buffer.getvalue())

    def memo(self, kind: str, parts: Sequence[object], compute: Callable[[], Any]) -> Any:
        """The JSON value of `kind` about `parts`: found, or else computed and kept.

        The first call returns exactly what later ones will (tuples as lists, for instance), so a
        resumed run sees the same values as one that computed them.
        """
        key = self.key(kind, *parts)
        found = self.get(key)
        if found is not None:
            return found
        value = compute()
        self.put(key, value)
        return json.loads(json.dumps(value, default=_plain))

    def memo_arrays(
        self, kind: str, parts: Sequence[object], compute: Callable[[], Arrays]
    ) -> Arrays:
        """As `memo`, for a dict of arrays."""
        key = self.key(kind, *parts)
        found = self.get_arrays(key)
        if found is not None:
            return found
        value = compute()
        self.put_arrays(key, value)
        return value

    def _path(self, root: Path, key: str, suffix: str) -> Path:
        matched = _KEY.fullmatch(key)
        if matched is None:
            raise ValueError(f"{key!r} is not a key of the evidence store")
        kind, content = matched.groups()
        return root / kind / content[:2] / f"{content}{suffix}"

    def _read(self, key: str, suffix: str) -> bytes | None:
        if self._root is None:
            return self._memory.get(key + suffix)
        path = self._path(self._root, key, suffix)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the time of last use decides what is deleted first
        return data

    def _write(self, key: str, suffix: str, data: bytes) -> None:
        if self._root is None:
            self._memory[key + suffix] = data
            return
        if not self._writable:
            return
        path = self._path(self._root, key, suffix)
        try:
            _write_whole(path, data)
            self._bound_size(self._root, len(data))
        except OSError as error:
            self._writable = False
            reason = error.strerror or str(error)
            _log.warning(
                "Nothing more is cached: %s cannot be written to (%s). "
                "Set COMPRESS_CACHE to another folder to keep what is measured.",
                self._root.parent,
                reason,
            )

    def _bound_size(self, root: Path, new_bytes: int) -> None:
        """Sweep at the first write of a process, then each time 1/16 of the bound was written."""
        if self._written_since_sweep is not None:
            self._written_since_sweep += new_bytes
            if self._written_since_sweep < self._max_bytes // 16:
                return
        self._written_since_sweep = 0
        entries = []
        for entry in _files(root):
            try:
                status = entry.stat()
            except OSError:
                continue  # another process was faster
            if entry.name.endswith(".tmp"):
                if time.time() - status.st_mtime > _STALE_TEMPORARY_SECONDS:
                    _delete(entry.path)
                continue
            entries.append((status.st_mtime, status.st_size, entry.path))
        total = sum(size for _, size, _ in entries)
        if total <= self._max_bytes:
            return
        for _, size, path in sorted(entries):
            _delete(path)
            total -= size
            if total <= self._max_bytes * 9 // 10:
                break


def default_folder() -> Path:
    """COMPRESS_CACHE, or the folder for caches that the user's system prescribes."""
    if named := os.environ.get("COMPRESS_CACHE"):
        return Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("compress", appauthor=False))


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot be kept as JSON")


def _write_whole(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because a rename is atomic only within one file system.
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        _delete(temporary)
        raise


def _delete(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    pending = [os.fspath(folder)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        yield entry
        except OSError:
            continue
