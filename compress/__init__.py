"""Compress models for a device: the fastest artifact inside a budget, measured and explained.

The public Python API. Nothing heavy is imported before one of these names is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.api import Result as Result
    from compress.api import bench as bench
    from compress.api import inspect as inspect
    from compress.api import plan as plan
    from compress.api import run as run
    from compress.errors import CompressError as CompressError
    from compress.errors import DeviceError as DeviceError
    from compress.errors import ModelError as ModelError
    from compress.errors import UsageError as UsageError
    from compress.passes.base import Budget as Budget

    __version__: str

__all__ = [
    "Budget",
    "CompressError",
    "DeviceError",
    "ModelError",
    "Result",
    "UsageError",
    "__version__",
    "bench",
    "inspect",
    "plan",
    "run",
]

_HOMES = {
    "Budget": "compress.passes.base",
    "CompressError": "compress.errors",
    "DeviceError": "compress.errors",
    "ModelError": "compress.errors",
    "Result": "compress.api",
    "UsageError": "compress.errors",
    "bench": "compress.api",
    "inspect": "compress.api",
    "plan": "compress.api",
    "run": "compress.api",
}
"""Where each public name lives."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in _HOMES:
        import importlib

        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("compress")
    except metadata.PackageNotFoundError:  # run from a checkout that was not installed
        return "0+unknown"
