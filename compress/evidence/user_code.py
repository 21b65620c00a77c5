"""Functions of the user's own, named as FILE.py:function: loading, calling, and their errors."""

from __future__ import annotations

import contextlib
import hashlib
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import CompressError, UsageError

_REFERENCE = re.compile(r"(?P<path>.*\.py)(?::(?P<function>\w+))?")


@dataclass(frozen=True)
class UserFunction:
    """A function of the user's, with what is needed to call it and to blame it."""

    name: str
    """As it is shown to the user: FILE.py:function."""
    function: Callable[..., Any]
    path: Path | None
    """The file that errors are located in; None for a callable without one."""
    fingerprint: str
    """SHA-256 of the file's bytes, or of the compiled code of a callable from Python."""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run code of the user's: its folder is importable, its errors become one line.

        Raises:
            UsageError: the user's code raised; the message names the file and the line.
        """
        with _importable(self.path), _blamed(self.name, self.path):
            yield

    def __call__(self, *args: Any) -> Any:
        with self.running():
            return self.function(*args)


def is_reference(source: str) -> bool:
    """Whether `source` names Python code: FILE.py:function, or FILE.py without one."""
    return _REFERENCE.fullmatch(source) is not None


def load_function(reference: str, purpose: str) -> UserFunction:
    """Execute FILE.py, in a module of its own, and return the function that `reference` names.

    While it runs, the file's folder is the first that imports are looked up in. Nothing is written
    beside it.

    Args:
        reference: FILE.py:function.
        purpose: what the function is for, as the user calls it (`--eval`), for messages.

    Raises:
        UsageError: no such file or function, or the file itself raises.
    """
    matched = _REFERENCE.fullmatch(reference)
    if matched is None:
        raise UsageError(f"{purpose} {reference}: give Python code as FILE.py:function")
    path, function_name = Path(matched["path"]), matched["function"]
    if function_name is None:
        raise UsageError(f"{purpose} {path}: name the function to call, as in {path}:function")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{purpose}: cannot read {path}: {error.strerror}") from error
    fingerprint = hashlib.sha256(source).hexdigest()
    # In sys.modules, because dataclasses and multiprocessing look modules up there by name.
    module = types.ModuleType(f"_compress_user_{path.stem}_{fingerprint[:16]}")
    module.__file__ = str(path.resolve())
    sys.modules[module.__name__] = module
    try:
        with _importable(path), _blamed(str(path), path):
            exec(compile(source, str(path), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[module.__name__]
        raise
    function = getattr(module, function_name, None)
    if not callable(function):
        others = ", ".join(
            name
            for name, value in vars(module).items()
            if isinstance(value, types.FunctionType) and value.__module__ == module.__name__
        )
        has = f"it defines {others}" if others else "it defines no function at all"
        raise UsageError(f"{purpose}: {path} has no function {function_name!r}; {has}")
    return UserFunction(f"{path}:{function_name}", function, path, fingerprint)


def wrap_callable(function: Callable[..., Any]) -> UserFunction:
    """A callable from Python as a `UserFunction`.

    The fingerprint covers its name and compiled code, not what its code refers to.
    """
    name = getattr(function, "__qualname__", type(function).__qualname__)
    code = getattr(function, "__code__", None)
    if code is None and not isinstance(function, types.BuiltinFunctionType):
        code = getattr(type(function).__call__, "__code__", None)
    if code is None:
        return UserFunction(name, function, None, hashlib.sha256(name.encode()).hexdigest())
    content = repr((name, code.co_code, code.co_names, _stable_constants(code)))
    fingerprint = hashlib.sha256(content.encode()).hexdigest()
    return UserFunction(name, function, Path(code.co_filename), fingerprint)


def _stable_constants(code: types.CodeType) -> list[object]:
    """Constants without the memory addresses that the repr of a nested code object shows."""
    return [
        (constant.co_code, constant.co_names, _stable_constants(constant))
        if isinstance(constant, types.CodeType)
        else sorted(map(repr, constant))
        if isinstance(constant, frozenset)
        else constant
        for constant in code.co_consts
    ]


@contextlib.contextmanager
def _importable(path: Path | None) -> Iterator[None]:
    if path is None or path.suffix != ".py":
        yield
        return
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


@contextlib.contextmanager
def _blamed(name: str, path: Path | None) -> Iterator[None]:
    """Turn what the user's code raises into a UsageError; our own errors pass through."""
    try:
        yield
    except CompressError:
        raise
    except (Exception, SystemExit) as error:
        what = " ".join(str(error).split())
        if len(what) > 300:
            what = what[:300] + "..."
        kind = type(error).__name__
        place = _place(error, path) or name
        shown = f"{kind}: {what}" if what else kind
        raise UsageError(f"{place}: {shown} (raised by {name})") from error


def _place(error: BaseException, path: Path | None) -> str | None:
    """FILE:LINE of the innermost frame in the user's file, or the place of a syntax error."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{error.filename}:{error.lineno}"
    if path is None:
        return None
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f"{path}:{frames[-1].lineno}" if frames else None
