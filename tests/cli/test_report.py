"""compress report: a finished run is shown again, and its page rebuilt."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

SAMPLE = Path(__file__).resolve().parents[1] / "report" / "sample"

Invoke = Any


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SAMPLE, tmp_path / "out"))


def test_the_page_is_rebuilt_and_the_story_told(invoke: Invoke, out: Path) -> None:
    (out / "report.html").write_text("old")
    done = invoke("report", "out")
    assert done.exit_code == 0
    assert "1.67x as fast (1.60-1.72)" in done.stdout
    assert "report: out/report.html" in done.stdout
    assert "node_conv_4" in (out / "report.html").read_text()
    assert {path.name for path in out.iterdir()} == {"report.json", "plan.json", "report.html"}


def test_json_is_the_file(invoke: Invoke, out: Path) -> None:
    assert invoke("report", "out", "--json").stdout == (out / "report.json").read_text()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("missing folder", "cannot be read (No such file or directory)"),
        ("no plan", "plan.json cannot be read"),
        ("half a file", "report.json is damaged"),
    ],
)
def test_what_is_no_result_is_told(invoke: Invoke, out: Path, damage: str, words: str) -> None:
    folder = "elsewhere" if damage == "missing folder" else "out"
    if damage == "no plan":
        (out / "plan.json").unlink()
    if damage == "half a file":
        (out / "report.json").write_text((out / "report.json").read_text()[:100])
    done = invoke("report", folder)
    assert done.exit_code == 3
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (out / "report.html").exists()
