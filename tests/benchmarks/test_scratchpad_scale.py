"""Growing graphs: one small run of each kind, and the page."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.scratchpad_scale import Row, in_a_process, main, page

ROW = Row("random", 50, 0, 4096, 2048, 1024, 0.5, "made up", True, 2.0, 3.0, 2**20, ())


def test_every_kind_is_scheduled_in_a_process_of_its_own(tmp_path: Path) -> None:
    output = tmp_path / "scale.md"
    arguments = ["--sizes", "14", "--seconds", "5", "--threads", "1", "-o", str(output)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    records = json.loads(output.with_suffix(".json").read_text())
    assert [(r["kind"], r["operators"]) for r in records] == [("random", 14), ("NAS-like", 14)]
    for record in records:
        assert record["bound"] <= record["extra_bytes"]
        assert record["memory"] > 10 * 2**20
        assert record["packed"]
    assert output.read_text().strip() in result.output


def test_a_process_that_dies_is_told() -> None:
    with pytest.raises(RuntimeError, match="other, 5 operators: KeyError: 'other'"):
        in_a_process("other", 5, 0, 1.0, 1)


def test_bars_are_relative_to_the_largest() -> None:
    more = dataclasses.replace(ROW, operators=100, seconds=4.0, gap=0.25, problems=("it is wrong",))
    text = page([ROW, more], 60, 2)
    assert "| random | 50 | 4 | 2 | 1 | 50.0% | 2.0 | 3.0 | 1 | yes | made up | ok |" in text
    assert "| it is wrong |" in text
    small, large = text.splitlines()[-3:-1]
    assert small.split()[2:] == ["#" * 10, "#" * 20, "#" * 20]
    assert large.split()[2:] == ["#" * 20, "#" * 20, "#" * 10]
