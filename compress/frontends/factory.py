"""Find and call the user's own code that builds a model: 'pkg.mod:factory' or 'FILE.py:factory'."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from compress.errors import UsageError


def is_factory(source: str) -> bool:
    """Whether `source` reads 'pkg.mod:name' or 'FILE.py:name' rather than naming a file."""
    module, separator, name = source.rpartition(":")
    if not separator or not name.isidentifier() or Path(source).exists():
        return False
    return module.endswith(".py") or all(part.isidentifier() for part in module.split("."))


def build(source: str) -> tuple[object, object | None]:
    """(model, example inputs or None) that the factory `source` makes, called without arguments.

    The factory is a function or class, or a model already built. It returns a model, or a pair
    (model, example inputs). Python's search path holds the factory's folder (for a file) or the
    current folder while it runs.

    Raises:
        UsageError: not found, or it raised an exception; the message says where.
    """
    module_name, _, name = source.rpartition(":")
    if not module_name or not name:
        raise UsageError(f"'{source}' is no factory: write pkg.mod:factory or FILE.py:factory")
    file = Path(module_name) if module_name.endswith(".py") else None
    if file is not None and not file.is_file():
        raise UsageError(f"the factory's file {file} does not exist")
    with _searching(file.resolve().parent if file else Path.cwd()):
        module = _import_file(file, source) if file else _import(module_name, source)
        try:
            made = getattr(module, name)
        except AttributeError:
            raise UsageError(f"{module_name} defines no '{name}'") from None
        if _is_recipe(made):
            made = _call(made, source)
    if made is None:
        raise UsageError(f"the factory {source} returned None instead of a model")
    if isinstance(made, tuple):
        if len(made) != 2:
            raise UsageError(
                f"the factory {source} returned {len(made)} values: return the model, or the pair "
                "(model, example_inputs)"
            )
        return made[0], made[1]
    return made, None


def _is_recipe(made: object) -> bool:
    """Whether to call it: modules are callable too, but they are the model already."""
    if isinstance(made, type):
        return True
    return callable(made) and not hasattr(made, "state_dict")


def _import(name: str, source: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise UsageError(f"cannot import the factory {source}: {_told(error)}") from None


def _import_file(file: Path, source: str) -> ModuleType:
    name = f"_compress_factory_{file.stem}_{abs(hash(file.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # registered, as dataclasses and pickling look up their module by name
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"cannot import the factory {source}: {_told(error)}") from None
    return module


def _call(factory: Callable[[], Any], source: str) -> Any:
    try:
        return factory()
    except Exception as error:
        raise UsageError(f"the factory {source} failed: {_told(error)}") from None


def _told(error: Exception) -> str:
    """Kind, text and place of an exception in one line; the place is where the user's code was."""
    text = str(error).strip().splitlines()
    told = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_machinery(f.filename)]
    return f"{told} ({frames[-1].filename}:{frames[-1].lineno})" if frames else told


def _is_machinery(filename: str) -> bool:
    return filename.startswith("<frozen") or filename in (__file__, importlib.__file__)


@contextmanager
def _searching(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
