"""report.json and plan.json: written the same way for the same content, read with clear errors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from compress.errors import ModelError
from compress.report.memory_plan import MEMORY_PLAN_FILE, MEMORY_PLAN_VERSION, MemoryPlan
from compress.report.schema import SCHEMA_VERSION, Plan, Report

REPORT_FILE = "report.json"
PLAN_FILE = "plan.json"
LINE_WIDTH = 100

_Record = TypeVar("_Record", Report, Plan, MemoryPlan)


def to_json(record: pydantic.BaseModel) -> str:
    """A record as text: fields in the schema's order, short values on one line, one final newline.

    Numbers that JSON cannot hold are written as the strings "Infinity", "-Infinity" and "NaN".
    """
    return _format(_finite(record.model_dump(mode="json")), 0) + "\n"


def read_report(folder: Path) -> Report:
    """The report of a finished run.

    Raises:
        ModelError: the folder holds none, or it is damaged or of another version.
    """
    return _read(folder / REPORT_FILE, Report)


def read_plan(folder: Path) -> Plan:
    """The plan of a finished run.

    Raises:
        ModelError: the folder holds none, or it is damaged or of another version.
    """
    return _read(folder / PLAN_FILE, Plan)


def read_memory_plan(folder: Path) -> MemoryPlan | None:
    """The memory plan of a finished run or of `compress plan`; None if the folder has none.

    Raises:
        ModelError: it is damaged or of another version.
    """
    path = folder / MEMORY_PLAN_FILE
    return _read(path, MemoryPlan, MEMORY_PLAN_VERSION) if path.exists() else None


def is_result(folder: Path) -> bool:
    """Whether the folder looks like what a run leaves behind, of whatever version."""
    return _has_fields(folder / REPORT_FILE, {"schema_version", "compress_version"})


def is_memory_plan(folder: Path) -> bool:
    """Whether the folder looks like what `compress plan` leaves behind, of whatever version."""
    return _has_fields(folder / MEMORY_PLAN_FILE, {"schema_version", "scratchpad_bytes"})


def _has_fields(path: Path, fields: set[str]) -> bool:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and fields <= content.keys()


def _read(path: Path, kind: type[_Record], known: int = SCHEMA_VERSION) -> _Record:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror}): give a folder that `compress run` wrote"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is damaged, it is not JSON: run compress again") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != known:
        raise ModelError(
            f"{path} has schema version {version!r} and this program reads {known}: "
            "run compress again, or use the version that wrote it"
        )
    try:
        return kind.model_validate(content)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole file"
        raise ModelError(
            f"{path} is damaged at {where}: {first['msg']}; run compress again"
        ) from error


def _finite(value: Any) -> Any:
    """`value` with infinities and NaN as the strings that both Python and the schema read back."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return value


def _format(value: Any, indent: int) -> str:
    """JSON with objects and lists on one line where they fit, as people would write it."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if len(line) + indent <= LINE_WIDTH or not isinstance(value, (dict, list)) or not value:
        return line
    pad = " " * (indent + 2)
    if isinstance(value, list):
        parts = [_format(part, indent + 2) for part in value]
        return "[\n" + ",\n".join(pad + part for part in parts) + "\n" + " " * indent + "]"
    parts = [f"{_format(key, 0)}: {_format(part, indent + 2)}" for key, part in value.items()]
    return "{\n" + ",\n".join(pad + part for part in parts) + "\n" + " " * indent + "}"
