"""The command line with a stand-in for what it calls."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import onnx
import onnx_ir as ir
import pytest

import compress
from compress.report.write_json import read_plan, read_report

SAMPLE = Path(__file__).resolve().parents[1] / "report" / "sample"

Invoke = Callable[..., click.testing.Result]


class StandIn(types.ModuleType):
    """Takes the place of compress.api: remembers how it was called, answers what it is told to."""

    def __init__(self) -> None:
        super().__init__("compress.api")
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.answer: Any = None
        self.meanwhile: Callable[[dict[str, Any]], None] = lambda options: None

    def _called(self, verb: str, *arguments: Any, **options: Any) -> Any:
        self.calls.append((verb, arguments, options))
        self.meanwhile(options)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def run(self, *arguments: Any, **options: Any) -> Any:
        return self._called("run", *arguments, **options)

    def inspect(self, *arguments: Any, **options: Any) -> Any:
        return self._called("inspect", *arguments, **options)

    def bench(self, *arguments: Any, **options: Any) -> Any:
        return self._called("bench", *arguments, **options)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "compress.api", stand_in)
    monkeypatch.setattr(compress, "api", stand_in, raising=False)
    return stand_in


@pytest.fixture
def result() -> types.SimpleNamespace:
    """What compress.run returns."""
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Relu(x) }'
    report, plan = read_report(SAMPLE), read_plan(SAMPLE)
    return types.SimpleNamespace(
        model=ir.from_proto(onnx.parser.parse_model(text)),
        report=report,
        plan=plan,
        memory=None,
        exit_code=report.exit_code,
    )


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Runs the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> click.testing.Result:
        from compress.cli import main

        return click.testing.CliRunner().invoke(main, list(arguments), prog_name="compress")

    return call
