"""Every error is one line with the right exit code; help is quick."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from compress.errors import DeviceError, ModelError, UsageError

ROOT = Path(__file__).resolve().parents[2]

Invoke = Any


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("no such input"), 2, "error: no such input"),
        (ModelError("model.onnx is damaged"), 3, "error: model.onnx is damaged"),
        (DeviceError("it died"), 5, "error: it died"),
        (ModelError("two\nlines \x1b[2J"), 3, "error: two lines \\x1b[2J"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 3, "error: out of memory; a smaller --shape or fewer samples need less"),
        (FileNotFoundError(2, "No such file", "x.npz"), 2, "error: x.npz: No such file"),
        (
            ZeroDivisionError("division by zero"),
            70,
            "internal error: ZeroDivisionError: division by zero; "
            "run with --debug for the traceback",
        ),
    ],
)
def test_an_error_is_one_line(
    invoke: Invoke, api: Any, error: BaseException, code: int, line: str
) -> None:
    api.answer = error
    done = invoke("run", "model.onnx", "-o", "out", "--quiet")
    assert done.exit_code == code
    assert done.stderr.splitlines() == [line]
    assert done.stdout == ""
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--debug", "run", "m.onnx", "-o", "out", "-q"),
        ("run", "m.onnx", "-o", "out", "-q", "--debug"),
    ],
)
def test_debug_shows_the_traceback(invoke: Invoke, api: Any, arguments: tuple[str, ...]) -> None:
    api.answer = ModelError("damaged")
    done = invoke(*arguments)
    assert done.exit_code == 3
    lines = done.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "error: damaged"


@pytest.mark.parametrize(
    "arguments",
    [
        ("explain", "model.onnx"),
        ("run",),
        ("run", "model.onnx"),
        ("run", "model.onnx", "-o", "out", "--max-drop", "much"),
        ("run", "model.onnx", "-o", "out", "--max-sram", "4MB"),
        ("run", "model.onnx", "-o", "out", "--objective", "sram"),
        ("run", "model.onnx", "-o", "out", "--seed", "-1"),
        ("run", "model.onnx", "-o", "out", "--shape", "x=1x2", "--shape", "x=1x3"),
        ("run", "model.onnx", "-o", "out", "--set", "x"),
        ("run", "model.onnx", "-o", "out", "--quiet", "--verbose"),
    ],
)
def test_wrong_usage_is_told(invoke: Invoke, api: Any, arguments: tuple[str, ...]) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert "Error: " in done.stderr
    assert api.calls == []


def test_every_verb_has_help(invoke: Invoke) -> None:
    done = invoke("--help")
    assert done.exit_code == 0
    from compress.cli import VERBS

    for verb in VERBS:
        assert f"  {verb} " in done.stdout
        assert "Usage: compress" in invoke(verb, "-h").stdout


def test_version(invoke: Invoke) -> None:
    assert invoke("--version").stdout.startswith("compress ")


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "compress", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_takes_less_than_0_4_seconds() -> None:
    def seconds() -> float:
        started = time.perf_counter()
        assert command("--help").returncode == 0
        return time.perf_counter() - started

    assert min(seconds() for _ in range(5)) < 0.4


def test_a_reader_that_leaves_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "compress", "devices"],
        cwd=ROOT,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr


def test_an_error_of_the_real_command() -> None:
    done = command("devices", "show", "no-such-device")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: there is no device 'no-such-device'")
