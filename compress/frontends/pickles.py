"""Pickles from outside: they are never executed unless the caller trusts them."""

from __future__ import annotations

import os
import pickle
import pickletools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compress.errors import ModelError

HOW_TO_EXPORT = (
    "export it with torch.export.save(torch.export.export(model, example_inputs), 'model.pt2'), "
    "or pass --trust-pickle if you trust its author"
)
MAX_OPCODES = 5_000_000
"""Bounds the time that naming a refused pickle's contents may take."""

_LEADING_PICKLES = 3

# what a checkpoint of plain weights names, besides plain builtins
_WEIGHTS_PACKAGES = ("torch", "collections", "numpy", "_codecs")
_PLAIN_BUILTIN_NAMES = """
set frozenset list dict tuple int long float bool str unicode bytes bytearray complex
"""
_PLAIN_BUILTINS = frozenset(_PLAIN_BUILTIN_NAMES.split())


@contextmanager
def only_weights() -> Iterator[None]:
    """Every `torch.load` inside the block refuses pickles that hold more than tensors.

    Also the calls that torch makes with weights_only=False: its own switch overrules those.
    """
    overruling = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": None}
    before = {name: os.environ.get(name) for name in overruling}
    try:
        _set_environment(overruling)
        yield
    finally:
        _set_environment(before)


def load_checkpoint(path: Path, *, trust_pickle: bool) -> Any:
    """What `torch.save` wrote to `path`, on the CPU; memory-mapped where the format allows.

    Without `trust_pickle` only tensors, numbers, strings and containers of them.

    Raises:
        ModelError: damaged, or it holds other classes (the message names one).
    """
    import torch

    if trust_pickle:
        try:
            return torch.load(path, map_location="cpu", weights_only=False)
        except Exception as error:
            raise ModelError(f"cannot load {path}: {type(error).__name__}: {error}") from None
    with only_weights():
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
        except pickle.UnpicklingError:
            pass
        except Exception as error:
            raise ModelError(f"{path} is damaged: {first_line(error)}") from None
    found = foreign_class(path)
    what = f"a pickled object ({found})" if found else "more than weights"
    raise ModelError(f"{path} holds {what}, and unpickling runs code: {HOW_TO_EXPORT}")


def foreign_class(path: Path) -> str | None:
    """The first class or function outside torch's own that the pickle at `path` names, if any.

    Reads opcodes only; nothing is looked up or called.
    """
    from compress.frontends.archive import open_archive

    if not _is_zip(path):
        with path.open("rb") as file:
            # the older format: magic number, protocol and system come first, each a pickle
            found = (_first_foreign(file) for _ in range(_LEADING_PICKLES + 1))
            return next((name for name in found if name), None)
    with open_archive(path) as archive:
        name = "data.pkl" if "data.pkl" in archive else ""
        return _first_foreign(archive.read(name)) if name else None


def _first_foreign(source: Any) -> str | None:
    """`source`: pickle bytes, or an open file, which is read to the end of one pickle."""
    strings: list[str] = []
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(source)):
            if count > MAX_OPCODES:
                break
            if isinstance(argument, str) and opcode.name != "GLOBAL":
                strings = [*strings[-1:], argument]
            name = ""
            if opcode.name == "GLOBAL":
                name = str(argument).replace(" ", ".")
            elif opcode.name == "STACK_GLOBAL":
                name = ".".join(strings)
            if name and not _belongs_to_weights(name):
                return name
    except Exception:
        # a damaged pickle: the name only serves the message
        return None
    return None


def _belongs_to_weights(name: str) -> bool:
    package, _, rest = name.partition(".")
    if package in ("builtins", "__builtin__"):
        return rest in _PLAIN_BUILTINS
    return package in _WEIGHTS_PACKAGES and not name.startswith("torch.nn.modules.")


def first_line(error: BaseException) -> str:
    """The first line of an error's text that says something."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line), type(error).__name__)


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _set_environment(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
