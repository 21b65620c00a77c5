"""Writes docs/report.md from the schema: `python -m compress.report.document > docs/report.md`."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

import pydantic

from compress.report.memory_plan import MemoryPlan
from compress.report.schema import SCHEMA_VERSION, Bench, LayerInfo, Plan, Report

INTRODUCTION = f"""\
# report.json and plan.json

What `compress run MODEL -o OUT` writes beside `OUT/model.onnx`, schema version {SCHEMA_VERSION}.
This page is written from `compress/report/schema.py` by
`python -m compress.report.document > docs/report.md`; a test holds the two together.

- `report.json` tells what was shipped, how it was measured, and what else was tried.
- `plan.json` tells for every layer what it could become, what it became and why.
- Names ending in `_us`, `_ms` and `_s` are times, `bytes` are bytes; a latency says whether it was
  measured or predicted.
- Numbers that JSON cannot hold are written as the strings `"Infinity"`, `"-Infinity"` and `"NaN"`.
- `compress inspect --json` and `compress bench --json` are described at the end.
- `schema_version` grows whenever a field changes its meaning or goes away. Fields may be added
  without that.

`compress run ... --json` prints the content of `report.json` on standard output; `compress report
OUT` shows both files again and rebuilds `OUT/report.html`. In Python:

```python
from pathlib import Path

from compress.report.write_json import read_plan, read_report

report, plan = read_report(Path("out")), read_plan(Path("out"))
```

## Exit codes

| code | meaning |
|---|---|
| 0 | done, within the budget |
| 1 | done, but the budget is not met; what was found is written, and never worse than the input |
| 2 | the call is wrong, or a file cannot be read or written |
| 3 | the input cannot be read or is not supported |
| 5 | the device or a measurement failed |
| 70 | an error of this program; `--debug` shows the traceback |
| 130 | interrupted |
"""

ROOTS: tuple[tuple[str, str, type[pydantic.BaseModel]], ...] = (
    ("report.json", "What became of a model.", Report),
    ("plan.json", "How its layers were chosen.", Plan),
    (
        "compress inspect --json",
        "A list of objects, one per layer, in the model's order.",
        LayerInfo,
    ),
    (
        "memory_plan.json",
        "What `compress plan MODEL --sram SIZE -o OUT` writes, and `run` for a device with a "
        "scratchpad: what lies where, when, and how good that is. Addresses and sizes are bytes; a "
        "buffer is occupied from its first step to its last one, both included. `memory_plan.h` "
        "has the same for firmware, `memory_plan.svg` as a picture.",
        MemoryPlan,
    ),
    ("compress bench --json", "Models timed in turns on the same inputs.", Bench),
)


def document() -> str:
    """The page, in Markdown."""
    sections = [INTRODUCTION]
    told: set[type[pydantic.BaseModel]] = set()
    for title, introduction, root in ROOTS:
        sections.append(f"## {title}\n\n{introduction}\n")
        for record in _records(root):
            heading = "" if record is root else f"### {record.__name__}\n\n{_summary(record)}\n\n"
            if record not in told:
                sections.append(heading + _table(record))
            told.add(record)
    return "\n".join(sections)


def _records(root: type[pydantic.BaseModel]) -> list[type[pydantic.BaseModel]]:
    """The record and all records its fields consist of, each once, in order of first use."""
    found: list[type[pydantic.BaseModel]] = []
    waiting = [root]
    while waiting:
        record = waiting.pop(0)
        if record not in found:
            found.append(record)
            for field in record.model_fields.values():
                waiting += _records_in(field.annotation)
    return found


def _records_in(annotation: Any) -> Iterator[type[pydantic.BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _records_in(part)


def _table(record: type[pydantic.BaseModel]) -> str:
    lines = ["| field | type | meaning |", "|---|---|---|"]
    for name, field in record.model_fields.items():
        meaning = field.description or _meaning(field.annotation)
        lines.append(f"| `{name}` | {_type(field.annotation)} | {_cell(meaning)} |")
    return "\n".join(lines) + "\n"


def _meaning(annotation: Any) -> str:
    """What a field without a description of its own is: the first line about its record."""
    records = list(_records_in(annotation))
    return _summary(records[0]) if records else ""


def _summary(record: type[pydantic.BaseModel]) -> str:
    return (record.__doc__ or "").strip().partition("\n\n")[0].replace("\n", " ")


def _type(annotation: Any) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " or ".join(f'`"{part}"`' for part in parts)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_type, parts))
    if origin is list:
        return f"list of {_type(parts[0])}"
    if origin is dict:
        return f"object of {_type(parts[1])}"
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return {str: "string", int: "integer", float: "number", bool: "boolean"}[annotation]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(document())
