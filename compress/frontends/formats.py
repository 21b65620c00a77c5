"""What kind of model a file holds, judged by its content; the suffix is only the last resort."""

from __future__ import annotations

import enum
import struct
from pathlib import Path

from compress.errors import ModelError, UsageError
from compress.frontends.archive import Archive, open_archive


class Format(enum.Enum):
    ONNX = "ONNX model"
    PT2 = "torch.export archive"
    TORCHSCRIPT = "TorchScript archive"
    CHECKPOINT = "torch.save file"
    SAFETENSORS = "safetensors file"


_ZIP = b"PK\x03\x04"
_HEAD_BYTES = 16

# (offset, magic, what it is, what to do)
_FOREIGN: tuple[tuple[int, bytes, str, str], ...] = (
    (4, b"TFL3", "a TensorFlow Lite model", "convert it with `python -m tf2onnx.convert --tflite`"),
    (4, b"ORTM", "an onnxruntime ORT-format model", "use the .onnx file it was made from"),
    (0, b"\x89HDF", "a Keras HDF5 file", "convert it with tf2onnx"),
    (0, b"GGUF", "a GGUF file", "use the model's PyTorch or ONNX form"),
    (4, b"ET12", "an ExecuTorch program", "use the .pt2 file it was made from"),
    (0, b"\x93NUMPY", "a NumPy array", "give a model"),
    (0, b"version https://gi", "a Git LFS pointer", "run `git lfs pull` to fetch the model itself"),
)


def detect(path: Path) -> Format:
    """The format of the file at `path`.

    Raises:
        UsageError: missing, a directory, no regular file, unreadable, or an archive of arrays.
        ModelError: empty, a damaged archive, or a model of another framework.
    """
    head = _head(path)
    if head.startswith(_ZIP):
        with open_archive(path) as archive:
            return _detect_archive(archive)
    for offset, magic, what, remedy in _FOREIGN:
        if head[offset : offset + len(magic)] == magic[: max(0, len(head) - offset)] != b"":
            raise ModelError(f"{path} is {what}, which is not read: {remedy}")
    if _is_safetensors(head, path.stat().st_size):
        return Format.SAFETENSORS
    if head[:1] == b"\x80" and head[1] in range(2, 6):
        return Format.CHECKPOINT
    suffix = path.suffix.lower()
    if suffix in (".pt2", ".pt", ".pth", ".safetensors", ".ckpt", ".bin"):
        raise ModelError(f"{path} is truncated or damaged: it is no {suffix} file")
    # protobuf has no magic number: the ONNX reader decides
    return Format.ONNX


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise UsageError(f"{path} is a directory: give the model file in it")
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    if not path.is_file():
        raise UsageError(f"{path} is not a regular file")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    if not head:
        raise ModelError(f"{path} is empty")
    return head


def _detect_archive(archive: Archive) -> Format:
    path = archive.path
    if "serialized_exported_program.json" in archive:
        return Format.PT2
    if "archive_format" in archive and archive.read("archive_format") == b"pt2":
        return Format.PT2
    if "constants.pkl" in archive:
        return Format.TORCHSCRIPT
    if "data.pkl" in archive:
        return Format.CHECKPOINT
    if all(name.endswith(".npy") for name in archive.names):
        raise UsageError(f"{path} holds NumPy arrays, not a model: data goes to --data")
    raise ModelError(f"{path} is a zip archive, but not one that PyTorch wrote")


def _is_safetensors(head: bytes, file_size: int) -> bool:
    if len(head) < 9 or head[8:9] != b"{":
        return False
    header_size: int = struct.unpack("<Q", head[:8])[0]
    return 2 <= header_size <= file_size - 8
