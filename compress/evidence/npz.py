"""Arrays in .npz files, read row by row: memory-mapped where they are stored, streamed where
they are compressed, and never unpickled."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from compress.errors import UsageError

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip member: magic, lengths of name and extra
_SKIP_BYTES = 1 << 20
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
)


@dataclass(frozen=True)
class NpzArray:
    """One array of an .npz file; nothing but its header has been read."""

    path: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    data_offset: int
    """Bytes from the start of the uncompressed member to its first element."""

    def blocks(self, indices: Sequence[int], size: int) -> Iterator[NDArray[Any]]:
        """Rows [i * size, (i + 1) * size) of the first axis, for each i of ascending `indices`.

        Holds one block in memory at a time (all of the array if it is compressed in Fortran order).

        Raises:
            UsageError: the file is damaged or has gone.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                info = archive.getinfo(self.member)
                if info.compress_type == zipfile.ZIP_STORED and 0 not in self.shape:
                    array = self._mapped(info)
                elif self.fortran_order or 0 in self.shape:
                    array = self._whole(archive)
                else:
                    yield from self._streamed(archive, indices, size)
                    return
            for i in indices:
                yield np.array(array[i * size : (i + 1) * size], order="C")
        except (OSError, KeyError, ValueError, *_DAMAGED) as error:
            raise _damaged(self.path, error) from error

    def read(self) -> NDArray[Any]:
        """The whole array.

        Raises:
            UsageError: the file is damaged or has gone.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                return self._whole(archive)
        except (OSError, KeyError, ValueError, *_DAMAGED) as error:
            raise _damaged(self.path, error) from error

    def _mapped(self, info: zipfile.ZipInfo) -> NDArray[Any]:
        with self.path.open("rb") as file:
            file.seek(info.header_offset)
            header = file.read(_LOCAL_HEADER.size)
        magic, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        if magic != b"PK\x03\x04":
            raise zipfile.BadZipFile(f"no member at byte {info.header_offset}")
        start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        return np.memmap(
            self.path,
            dtype=self.dtype,
            mode="r",
            offset=start + self.data_offset,
            shape=self.shape,
            order="F" if self.fortran_order else "C",
        )

    def _streamed(
        self, archive: zipfile.ZipFile, indices: Sequence[int], size: int
    ) -> Iterator[NDArray[Any]]:
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        with archive.open(self.member) as stream:
            position = 0
            for i in indices:
                start = self.data_offset + i * size * row_bytes
                while position < start:  # seek() would hold 16 MB at a time
                    position += len(_exactly(stream, min(_SKIP_BYTES, start - position)))
                data = _exactly(stream, size * row_bytes)
                position += len(data)
                yield np.frombuffer(bytearray(data), self.dtype).reshape(size, *self.shape[1:])

    def _whole(self, archive: zipfile.ZipFile) -> NDArray[Any]:
        with archive.open(self.member) as stream:
            array: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
            return array


def open_npz(path: Path) -> dict[str, NpzArray]:
    """The arrays of an .npz file by name; only headers are read.

    Raises:
        UsageError: no such file, not an .npz, damaged, or one that holds pickled objects.
    """
    try:
        with path.open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                raise UsageError(
                    f"{path} is a .npy file: save the arrays by name, "
                    "as in np.savez(file, name=array)"
                )
        with zipfile.ZipFile(path) as archive:
            arrays = {}
            for info in archive.infolist():
                if info.is_dir() or not info.filename.endswith(".npy"):
                    raise UsageError(f"{path} is not an .npz file: it holds {info.filename!r}")
                name = info.filename.removesuffix(".npy")
                with archive.open(info) as stream:
                    arrays[name] = _header(path, name, info, stream)
            return arrays
    except UsageError:
        raise
    except zipfile.BadZipFile as error:
        raise UsageError(
            f"{path} is not an .npz file, or is cut short: write it with np.savez"
        ) from error
    except (OSError, ValueError, *_DAMAGED) as error:
        raise _damaged(path, error) from error


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write `arrays` under any names, even those that are no keyword arguments of np.savez.

    Raises:
        OSError: the file cannot be written.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                npy.write_array(stream, np.asarray(array), allow_pickle=False)


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise EOFError("an array ends early")
    return data


def _header(path: Path, name: str, info: zipfile.ZipInfo, stream: IO[bytes]) -> NpzArray:
    version = npy.read_magic(stream)
    if version == (1, 0):
        shape, fortran_order, dtype = npy.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran_order, dtype = npy.read_array_header_2_0(stream)
    else:
        raise UsageError(f"{path}: {name!r} is a structured array; give one plain array per input")
    if dtype.hasobject:
        raise UsageError(
            f"{path}: {name!r} holds pickled Python objects, which are never loaded; "
            "save it with a numeric dtype"
        )
    data_offset = stream.tell()
    if data_offset + math.prod(shape) * dtype.itemsize != info.file_size:
        raise UsageError(f"{path}: {name!r} does not hold as many values as its header says")
    return NpzArray(path, info.filename, shape, dtype, fortran_order, data_offset)


def _damaged(path: Path, error: BaseException) -> UsageError:
    if isinstance(error, FileNotFoundError):
        return UsageError(f"{path}: there is no such file")
    if isinstance(error, IsADirectoryError):
        return UsageError(f"{path} is a folder, not an .npz file")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UsageError(f"{path} cannot be read: {' '.join(reason.split())}")
