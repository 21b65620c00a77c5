"""ONNX files and protos -> Model: weights stay on disk, and nothing outside the folder is read."""

from __future__ import annotations

import logging
import math
import mmap
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from compress.errors import ModelError, UsageError
from compress.frontends.external_data import all_tensors, external_tensors, settle_locations

OLDEST_OPSET = 7
MAX_PROTO_BYTES = 2**31 - 1
"""Limit of protobuf itself: larger models keep their weights in external data."""

_STANDARD_DOMAINS = ("", "ai.onnx")

# elements per entry of the typed fields, where it is not one
_FIELD_OF_TYPE: dict[int, tuple[str, int]] = {
    onnx.TensorProto.FLOAT: ("float_data", 1),
    onnx.TensorProto.COMPLEX64: ("float_data", 2),
    onnx.TensorProto.DOUBLE: ("double_data", 1),
    onnx.TensorProto.COMPLEX128: ("double_data", 2),
    onnx.TensorProto.INT64: ("int64_data", 1),
    onnx.TensorProto.UINT32: ("uint64_data", 1),
    onnx.TensorProto.UINT64: ("uint64_data", 1),
}


def load_onnx(path: Path) -> ir.Model:
    """The model at `path`; initialisers are read from disk (external data: mapped) when used.

    Raises:
        UsageError: the file cannot be read.
        ModelError: damaged, too old or too new, or external data that is missing, too short or
            outside the model's folder.
    """
    proto = _parse(path)
    _check_proto(proto, str(path))
    folder = settle_locations(path, proto)
    model = _deserialize(proto, str(path))
    for tensor in external_tensors(model):
        tensor.base_dir = folder
    return model


def load_proto(proto: onnx.ModelProto) -> ir.Model:
    """The model held by `proto`, which stays as it is.

    Raises:
        ModelError: as `load_onnx`; also external data, whose folder a proto does not tell.
    """
    _check_proto(proto, "the model")
    for tensor in all_tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ModelError(
                f"tensor '{tensor.name}' of the ModelProto lies in external data: give the path of "
                "the .onnx file, or load it with onnx.load(..., load_external_data=True)"
            )
    return own_copy(_deserialize(proto, "the model"))


def own_copy(model: ir.Model) -> ir.Model:
    """A copy of `model` that shares the weights' bytes, but no object that a rename would change.

    Raises:
        ModelError: the graph cannot be copied because it is malformed.
    """
    try:
        copy = model.clone()
    except Exception as error:
        raise ModelError(f"the model is malformed: {_root_cause(error)}") from None
    for graph in copy.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = _renamable(value.const_value)
    return copy


def _renamable(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    shape = ir.Shape(tensor.shape.numpy())
    if isinstance(tensor, ir.ExternalTensor):
        return ir.ExternalTensor(
            tensor.location,
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=shape,
            name=tensor.name,
            base_dir=tensor.base_dir,
        )
    return ir.LazyTensor(lambda: tensor, dtype=tensor.dtype, shape=shape, name=tensor.name)


def _parse(path: Path) -> onnx.ModelProto:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_PROTO_BYTES:
                raise ModelError(
                    f"{path} is larger than 2 GB, which no ONNX file can be: "
                    "save it with onnx.save(..., save_as_external_data=True)"
                )
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                proto = onnx.ModelProto()
                # a view saves a copy of the file; protobuf's stubs know only bytes
                proto.ParseFromString(memoryview(content))
                return proto
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    except ModelError:
        raise
    except Exception as error:
        # protobuf's DecodeError; its class is not public in every implementation
        raise ModelError(f"{path} is no ONNX model, or truncated: {_one_line(error)}") from None


def _check_proto(proto: onnx.ModelProto, where: str) -> None:
    if not proto.HasField("graph") or proto.ir_version <= 0:
        raise ModelError(f"{where} is no ONNX model: it holds no graph")
    if not proto.graph.node:
        raise ModelError(f"{where} has an empty graph: there is nothing to compress")
    _check_strings(proto, where)
    declared = {opset.domain for opset in proto.opset_import}
    if not declared.intersection(_STANDARD_DOMAINS) and any(
        node.domain in _STANDARD_DOMAINS for node in proto.graph.node
    ):
        raise ModelError(f"{where} does not say which ONNX opset it uses: export it again")
    newest = onnx.defs.onnx_opset_version()
    for opset in proto.opset_import:
        if opset.domain not in _STANDARD_DOMAINS:
            continue
        if opset.version < OLDEST_OPSET:
            raise ModelError(
                f"{where} uses ONNX opset {opset.version}, older than {OLDEST_OPSET}: export it "
                "again with a newer opset"
            )
        if opset.version > newest:
            raise ModelError(
                f"{where} uses ONNX opset {opset.version}, and the installed onnx knows up to "
                f"{newest}: upgrade onnx and onnxruntime"
            )
    for tensor in all_tensors(proto):
        _check_tensor(tensor, where)


def _check_strings(proto: onnx.ModelProto, where: str) -> None:
    """Refuse names that are no UTF-8: protobuf gives them as bytes, which no reader expects."""
    messages: list[Any] = [proto]
    while messages:
        message = messages.pop()
        if isinstance(message, onnx.TensorProto):
            # not by all its fields, which would copy the weights
            strings: Iterable[object] = (message.name, message.doc_string)
            messages.extend(message.external_data)
            messages.extend(message.metadata_props)
        else:
            strings = []
            for field, value in message.ListFields():
                single = isinstance(value, (str, bytes)) or hasattr(value, "ListFields")
                if field.type == field.TYPE_STRING:
                    strings = [*strings, *([value] if single else value)]
                elif field.type == field.TYPE_MESSAGE:
                    messages.extend([value] if single else value)
        for string in strings:
            if not isinstance(string, str):
                raise ModelError(f"{where} is damaged: the name {string!r:.80} is not UTF-8 text")


def _check_tensor(tensor: onnx.TensorProto, where: str) -> None:
    """Refuse tensors whose content does not fill their shape; later readers rely on it."""
    name = tensor.name or "without a name"
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        dtype = ir.DataType.UNDEFINED
    if dtype == ir.DataType.UNDEFINED:
        raise ModelError(f"tensor '{name}' of {where} has the unknown type {tensor.data_type}")
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"tensor '{name}' of {where} has a negative dimension")
    elements = math.prod(tensor.dims)
    if dtype == ir.DataType.STRING:
        found, expected = len(tensor.string_data), elements
    elif tensor.data_location == onnx.TensorProto.EXTERNAL:
        return
    elif tensor.HasField("raw_data"):
        found, expected = len(tensor.raw_data), math.ceil(elements * dtype.bitwidth / 8)
    else:
        field, per_element = _FIELD_OF_TYPE.get(tensor.data_type, ("int32_data", 1))
        per_entry = 1 if dtype.bitwidth >= 8 else 8 // dtype.bitwidth
        found = len(getattr(tensor, field))
        expected = math.ceil(elements * per_element / per_entry)
    if found != expected:
        raise ModelError(
            f"tensor '{name}' of {where} has shape {list(tensor.dims)} but {found} values or bytes "
            f"instead of {expected}: the file is damaged"
        )


def _deserialize(proto: onnx.ModelProto, where: str) -> ir.Model:
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    # its warnings are of things that making the graph canonical reports or repairs
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ir.from_proto(proto)
    except Exception as error:
        # onnx_ir raises many kinds for malformed protos
        raise ModelError(f"{where} is malformed: {_root_cause(error)}") from None
    finally:
        logger.setLevel(level)


def _root_cause(error: BaseException) -> str:
    """The innermost reason; onnx_ir wraps one exception per level of nesting."""
    while error.__cause__ is not None:
        error = error.__cause__
    return _one_line(error)


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
