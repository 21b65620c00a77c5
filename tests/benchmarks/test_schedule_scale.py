"""The scheduler against size: small graphs in processes of their own, the table and its plot."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from benchmarks.schedule_plot import Line, plot, rounded_up
from benchmarks.schedule_scale import Case, Outcome, cases, main, measure_apart, page

OUTCOME = Outcome(
    Case("random", 50, 0, "M_H"), 4096, 2048, 1024, 0.5, 4000, 2.0, 3.0, 2**20, ""
)  # fmt: skip


def test_every_kind_is_scheduled_and_drawn(tmp_path: Path) -> None:
    output = tmp_path / "scale.md"
    arguments = ["--sizes", "14", "--seconds", "5", "--threads", "1", "-o", str(output)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    text = output.read_text()
    assert text.strip() in result.output
    rows = [line.split(" | ") for line in text.splitlines() if line.endswith("ok |")]
    assert [row[:2] for row in rows] == [["| random", "14"], ["| NAS-like", "14"]]
    for row in rows:
        assert float(row[4]) <= float(row[3])
        assert float(row[9]) > 10
    picture = ElementTree.fromstring(output.with_suffix(".svg").read_text())
    assert len(picture.findall("{*}polyline")) == 6


def test_tight_scratchpads_are_tried_at_one_size() -> None:
    assert [(c.operators, c.budget) for c in cases([200, 500], 0)] == [
        (200, "M_H"), (200, "M_H"), (500, "M_H"), (500, "M_R"), (500, "M_H"), (500, "M_R"),
    ]  # fmt: skip


def test_what_the_replay_finds_is_shown() -> None:
    wrong = dataclasses.replace(OUTCOME, problem="it is wrong")
    text = page([OUTCOME, wrong], 60, 2, "here.svg")
    assert "| random | 50 | 4 (M_H) | 2 | 1 | 50.0% | 4 | 2.0 | 3.0 | 1 | ok |" in text
    assert "| NOT ok: it is wrong |" in text
    assert "(here.svg)" in text


def test_a_process_that_dies_is_told() -> None:
    with pytest.raises(RuntimeError, match="other, 5 operators: KeyError: 'other'"):
        measure_apart(Case("other", 5, 0, "M_H"), 1.0, 1)


def test_axes_end_above_the_largest_value() -> None:
    assert [rounded_up(v) for v in (0, 0.3, 1, 58, 100, 1000)] == [1.0, 0.4, 1.0, 100, 100, 1000]
    drawn = plot([("s", [Line("a < b", 0, [0, 10], [0, 10])])], "n")
    assert "a &lt; b" in drawn
    assert 'points="48.0,200.0 364.0,44.0"' in drawn
