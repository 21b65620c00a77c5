"""Everything a user can hand in -> `onnx_ir.Model` (not yet canonical)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from compress.errors import UsageError
from compress.frontends import factory as factories
from compress.frontends.formats import Format, detect

__all__ = ["load"]


def load(
    source: Any,
    *,
    factory: str | None = None,
    example_inputs: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    trust_pickle: bool = False,
) -> ir.Model:
    """Read a model of any supported kind; nothing in it is executed beyond what it computes.

    source: a path (.onnx, .pt2, TorchScript .pt, or .pt/.pth/.safetensors weights together with
        `factory`), a factory ('pkg.mod:name' or 'FILE.py:name'), an `onnx.ModelProto`, an
        `onnx_ir.Model`, a `torch.nn.Module` or a `torch.export.ExportedProgram`. What is handed in
        alive stays as it is. Files are told apart by content.
    factory: builds the module for weights; returns a module, or (module, example inputs).
    example_inputs: for modules and TorchScript: a tuple (positional), a dict (by name) or a tensor.
    shapes: input name -> shape, to trace modules and TorchScript without example inputs; other
        formats keep the shapes they declare.
    trust_pickle: unpickle what the file holds, which runs code of its author.

    Raises:
        UsageError: missing file, factory, shapes or packages.
        ModelError: the model is damaged, unsafe or of an unsupported kind.
    """
    if isinstance(source, str) and factories.is_factory(source):
        if factory is not None:
            raise UsageError("the model is a factory already: --model goes with a file of weights")
        built, built_inputs = factories.build(source)
        return _load_live(built, _first(example_inputs, built_inputs), shapes, copy_weights=False)
    if isinstance(source, (str, os.PathLike)):
        return _load_file(
            Path(source), factory, example_inputs, shapes or {}, trust_pickle=trust_pickle
        )
    if factory is not None:
        raise UsageError("a factory goes with a file of weights, not with a live model")
    return _load_live(source, example_inputs, shapes, copy_weights=True)


def _load_file(
    path: Path,
    factory: str | None,
    example_inputs: Any,
    shapes: Mapping[str, Sequence[int]],
    *,
    trust_pickle: bool,
) -> ir.Model:
    kind = detect(path)
    if kind in (Format.CHECKPOINT, Format.SAFETENSORS):
        return _load_weights(path, kind, factory, example_inputs, shapes, trust_pickle)
    if factory is not None:
        raise UsageError(f"{path} is a whole model ({kind.value}): --model is for weights only")
    if kind is Format.ONNX:
        from compress.frontends.onnx_file import load_onnx

        return load_onnx(path)
    if kind is Format.PT2:
        from compress.frontends.pt2 import load_pt2

        return load_pt2(path, trust_pickle=trust_pickle)
    from compress.frontends.torchscript import load_torchscript

    return load_torchscript(path, example_inputs, shapes)


def _load_weights(
    path: Path,
    kind: Format,
    factory: str | None,
    example_inputs: Any,
    shapes: Mapping[str, Sequence[int]],
    trust_pickle: bool,
) -> ir.Model:
    from compress.frontends import state_dict
    from compress.frontends.module import load_module, require_torch

    require_torch()
    if kind is Format.SAFETENSORS:
        weights: Any = state_dict.read_safetensors(path)
    else:
        weights = state_dict.read_checkpoint(path, trust_pickle=trust_pickle)
    if hasattr(weights, "forward"):
        return load_module(weights, example_inputs, shapes, copy_weights=False)
    if factory is None:
        raise UsageError(
            f"{path} holds weights only: give --model pkg.mod:factory or FILE.py:factory, which "
            "builds the module they belong to"
        )
    module, built_inputs = factories.build(factory)
    if not _is_torch(module, "nn.Module"):
        raise UsageError(f"the factory {factory} returned {_kind(module)}, not a torch module")
    state_dict.fill(module, weights, path)
    inputs = _first(example_inputs, built_inputs)
    return load_module(module, inputs, shapes, copy_weights=False)


def _load_live(
    source: Any,
    example_inputs: Any,
    shapes: Mapping[str, Sequence[int]] | None,
    *,
    copy_weights: bool,
) -> ir.Model:
    from compress.frontends import onnx_file

    if isinstance(source, onnx.ModelProto):
        return onnx_file.load_proto(source)
    if isinstance(source, ir.Model):
        return onnx_file.own_copy(source)
    if _is_torch(source, "export.ExportedProgram"):
        from compress.frontends.module import load_exported_program

        return load_exported_program(source)
    if _is_torch(source, "nn.Module"):
        from compress.frontends.module import load_module

        return load_module(source, example_inputs, shapes, copy_weights=copy_weights)
    raise UsageError(
        f"{_kind(source)} is no model: give a path, an onnx.ModelProto, an onnx_ir.Model or a "
        "torch.nn.Module with example inputs"
    )


def _is_torch(source: Any, name: str) -> bool:
    """Whether `source` is an instance of torch's class `name`, without importing torch for it."""
    if not any(base.__module__.partition(".")[0] == "torch" for base in type(source).__mro__):
        return False
    import torch

    owner: Any = torch
    for part in name.split("."):
        owner = getattr(owner, part)
    return isinstance(source, owner)


def _kind(source: Any) -> str:
    return f"an object of type {type(source).__name__}"


def _first(given: Any, other: Any) -> Any:
    return other if given is None else given
