"""Lowering to onnxruntime: the file that is shipped, checked before anybody relies on it."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import onnx_ir as ir

from compress.errors import DeviceError
from compress.execute.session import PROTOBUF_LIMIT, serialized
from compress.graph.order import all_graphs

EXTERNAL_DATA = "model.onnx.data"


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A lowered model on disk.

    Attributes:
        path: of model.onnx; weights over 2 GB lie beside it in model.onnx.data.
        sha256: over the file's bytes (and those of the external data).
        size_bytes: of all files together, those of weights beside the model included.
    """

    path: Path
    sha256: str
    size_bytes: int


def lower(model: ir.Model, folder: Path) -> Artifact:
    """Writes `folder`/model.onnx; the same model gives the same bytes.

    Raises:
        DeviceError: a node of the model uses an operator set that the model does not import.
    """
    missing = {n.domain for n in model.graph if n.domain not in model.opset_imports}
    if missing:
        raise DeviceError(f"operator sets are missing from the model: {', '.join(sorted(missing))}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    data = serialized(model)
    if data is not None and len(data) < PROTOBUF_LIMIT:
        path.write_bytes(data)
    else:
        ir.save(model, path, external_data=EXTERNAL_DATA)
    return describe(path)


def describe(path: Path, model: ir.Model | None = None) -> Artifact:
    """The artifact that lies at `path`.

    Args:
        path: of the ONNX file.
        model: what it holds, if somebody else wrote it: weights may lie in files of any name.
    """
    digest = hashlib.sha256()
    size = 0
    beside = {path.with_name(path.name + ".data"), *(external_files(model) if model else ())}
    for part in (path, *sorted(beside)):
        if part.is_file():
            size += part.stat().st_size
            with open(part, "rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
    return Artifact(path, digest.hexdigest(), size)


def external_files(model: ir.Model) -> set[Path]:
    """The files beside the model's own that its weights lie in."""
    tensors = (v.const_value for g in all_graphs(model.graph) for v in g.initializers.values())
    return {Path(t.path) for t in tensors if isinstance(t, ir.ExternalTensor)}
