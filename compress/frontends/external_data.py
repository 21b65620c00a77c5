"""Weights beside an ONNX file: where they lie, that they are all there, and nowhere else."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

from compress.errors import ModelError


def settle_locations(path: Path, proto: onnx.ModelProto) -> str:
    """Check all external data of `proto`; the folder that their locations are relative to.

    Caches such as Hugging Face's link a model and its data into another folder side by side, so
    the folder of the file that `path` links to is as good as the folder of `path`. The locations
    in `proto` are rewritten to the files behind the links.
    """
    external = [t for t in all_tensors(proto) if t.data_location == onnx.TensorProto.EXTERNAL]
    folder = os.path.realpath(path.parent)
    homes = {folder, os.path.dirname(os.path.realpath(path))}
    files: dict[str, str] = {}
    for tensor in external:
        entries = {entry.key: entry for entry in tensor.external_data}
        location = entries["location"].value if "location" in entries else ""
        if location not in files:
            files[location] = _external_file(folder, location, homes, tensor.name, path)
        _check_extent(tensor, entries, files[location], path)
    common = next((h for h in homes if all(_lies_in(f, h) for f in files.values())), None)
    if common is None or any(os.stat(file).st_nlink > 1 for file in files.values()):
        # onnx_ir refuses hard links below a folder, but package managers install with them
        common = ""
    for tensor in external:
        for entry in tensor.external_data:
            if entry.key == "location":
                file = files[entry.value]
                entry.value = os.path.relpath(file, common) if common else file
    return common


def _external_file(folder: str, location: str, homes: set[str], name: str, path: Path) -> str:
    """The regular file, links resolved, that holds the data of tensor `name`."""
    what = f"the external data '{location}' of tensor '{name}' in {path}"
    if not location:
        raise ModelError(f"{what} has no location")
    if os.path.isabs(location) or location.startswith(("/", "\\")) or "\0" in location:
        raise ModelError(f"{what} is an absolute path, which is refused: put it beside the model")
    joined = os.path.normpath(os.path.join(folder, location))
    if not _lies_in(joined, folder):
        raise ModelError(f"{what} lies outside the model's folder, which is refused")
    real = os.path.realpath(joined)
    if not any(_lies_in(real, home) for home in homes):
        raise ModelError(f"{what} is a link out of the model's folder, which is refused")
    if not os.path.exists(real):
        raise ModelError(f"{what} is missing: put the file beside the model")
    if not os.path.isfile(real):
        raise ModelError(f"{what} is not a regular file")
    return real


def _check_extent(
    tensor: onnx.TensorProto,
    entries: dict[str, onnx.StringStringEntryProto],
    file: str,
    path: Path,
) -> None:
    what = f"the external data of tensor '{tensor.name}' in {path}"
    try:
        offset = int(entries["offset"].value) if "offset" in entries else 0
        length = int(entries["length"].value) if "length" in entries else None
    except ValueError:
        raise ModelError(f"{what} has an offset or length that is no number") from None
    dtype = ir.DataType(tensor.data_type)
    if dtype == ir.DataType.STRING:
        raise ModelError(f"{what} holds strings, which external data cannot")
    needed = math.ceil(math.prod(tensor.dims) * dtype.bitwidth / 8)
    if length is not None and length != needed:
        raise ModelError(f"{what} has {length} bytes, and its shape needs {needed}")
    size = os.path.getsize(file)
    if offset < 0 or offset + needed > size:
        raise ModelError(
            f"{what} ends at byte {offset + needed}, but '{os.path.basename(file)}' has only "
            f"{size}: the file is truncated"
        )


def _lies_in(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def all_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the model: initialisers and attributes, in subgraphs and functions too."""
    graphs = [proto.graph]
    nodes: list[Iterable[onnx.NodeProto]] = [function.node for function in proto.functions]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield sparse.values
                yield sparse.indices
            nodes.append(graph.node)
        for node in nodes.pop():
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                if attribute.HasField("g"):
                    graphs.append(attribute.g)
                graphs.extend(attribute.graphs)


def external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    """Those of `model` whose content lies in external data, wherever in the model they are."""
    for graph in (*model.graphs(), *(g for f in model.functions.values() for g in f.subgraphs())):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value.const_value
    functions = (node for f in model.functions.values() for node in f.all_nodes())
    for node in (*model.graph.all_nodes(), *functions):
        for attribute in node.attributes.values():
            held = attribute.value if attribute.type == ir.AttributeType.TENSORS else ()
            for tensor in (attribute.value, *(held or ())):
                if isinstance(tensor, ir.ExternalTensor):
                    yield tensor
