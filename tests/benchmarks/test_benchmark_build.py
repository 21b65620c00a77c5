from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.build import Built, build, build_key, run_measured
from benchmarks.methods import FLOAT, OURS, Method, NotAvailable, all_methods, quick
from benchmarks.zoo import Case, load


def _method(code: str, **changes: object) -> Method:
    """A method that runs `code` with the folder to write to as its argument."""

    def command(case: Case, output: Path) -> list[str]:
        return [sys.executable, "-c", code, str(output)]

    fields = {"group": "stand-in", "setting": "", "runtime": "onnxruntime", "done": (0,)}
    return Method(**{**fields, "artifact": "model.onnx", "command": command, **changes})  # type: ignore[arg-type]


WRITES = """
import pathlib, sys
out = pathlib.Path(sys.argv[1])
(out / "model.onnx").write_bytes(b"12345")
"""


@pytest.fixture
def case() -> Case:
    return load("fashion_mnist")


def test_an_artifact_is_built_once(case: Case, tmp_path: Path) -> None:
    counter = tmp_path / "runs"
    method = _method(WRITES + f"open({str(counter)!r}, 'a').write('x')")
    first, again = build(method, case), build(method, case)
    assert first == again
    assert first.failure == ""
    assert first.size_bytes == 5
    assert first.seconds > 0
    assert counter.read_text() == "x"


def test_the_float_model_needs_no_program(case: Case) -> None:
    method = next(iter(all_methods()))
    assert build(method, case) == Built(case.model_path(), "", 0.0, 0)


def test_a_crash_is_a_result_and_is_kept(case: Case, tmp_path: Path) -> None:
    method = _method("raise SystemExit('unsupported model')")
    assert build(method, case).failure == "exit code 1: unsupported model"
    assert build(method, case).artifact is None


def test_retry_runs_what_failed_again(case: Case, tmp_path: Path) -> None:
    switch = tmp_path / "works-now"
    code = f"import os\nif not os.path.exists({str(switch)!r}): raise SystemExit('not yet')\n"
    method = _method(code + WRITES)
    assert build(method, case).failure
    switch.touch()
    assert build(method, case).failure
    assert build(method, case, retry=True).failure == ""


def test_a_program_that_writes_nothing_failed(case: Case) -> None:
    assert "wrote no model.onnx" in build(_method("pass"), case).failure


def test_a_killed_program_is_told_apart(case: Case) -> None:
    method = _method("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert build(method, case).failure.startswith("killed by signal 11")


def test_what_is_not_installed_is_not_kept(case: Case, zoo: Path) -> None:
    def command(case: Case, output: Path) -> list[str]:
        raise NotAvailable("install it")

    assert build(_method("", command=command), case).failure == "install it"
    assert not list((zoo / "results").iterdir())


def test_the_key_follows_options_and_sources(case: Case, tmp_path: Path) -> None:
    from benchmarks.methods import ROOT

    plain = _method(WRITES)
    assert build_key(plain, case) == build_key(_method(WRITES), case)
    assert build_key(plain, case) != build_key(_method(WRITES + "\n"), case)
    assert build_key(plain, case) != build_key(
        _method(WRITES, sources=(ROOT / "benchmarks" / "build.py",)), case
    )


def test_peak_memory_counts_children(tmp_path: Path) -> None:
    child = "x = bytearray(150_000_000); import time; time.sleep(0.8)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    failure, seconds, peak = run_measured([sys.executable, "-c", code], tmp_path)
    assert failure == ""
    assert seconds >= 0.8
    assert 150e6 < peak < 400e6


def test_peak_memory_leaves_this_process_out(tmp_path: Path) -> None:
    ballast = np.ones(60_000_000)  # 480 MB
    _, _, peak = run_measured([sys.executable, "-c", "import time; time.sleep(0.3)"], tmp_path)
    assert ballast[-1] == 1
    assert 0 < peak < 100e6


def test_methods_have_distinct_names_and_float_is_first() -> None:
    methods = list(all_methods())
    names = [method.name for method in methods]
    assert names[0] == FLOAT
    assert OURS in names
    assert len(set(names)) == len(names)
    assert {method.group for method in quick(methods)} == {method.group for method in methods}


def test_compress_run_is_called_as_its_documentation_says(case: Case, tmp_path: Path) -> None:
    ours = next(method for method in all_methods() if method.group == OURS)
    assert ours.command is not None
    command = ours.command(case, tmp_path)
    assert command[1:4] == ["-m", "compress", "run"]
    assert command[command.index("--eval") + 1] == f"{case.eval_file}:evaluate"
    assert command[command.index("--max-drop") + 1] == case.max_drop
