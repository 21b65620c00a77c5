"""The benchmark of covers: right results, and that wrong ones and wrong files are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import depth_tables
from benchmarks.depth_tables import figures, judge, main, read_table
from benchmarks.floored_cover import floored_cover
from compress.passes.covers import Cover, Intervals, best_cover, cover_frontier

DATA = Path(__file__).parents[1] / "data" / "depth_tables"
MEASURED = DATA / "mobilenetv2_measured.json"

SMALL = {
    "layers": 2,
    "budget": 3.0,
    "entries": [
        {"start": 0, "end": 1, "kernel": 1, "latency": 1.0, "importance": 1.0},
        {"start": 1, "end": 2, "kernel": 1, "latency": 2.5, "importance": 1.0},
        {"start": 0, "end": 2, "kernel": 3, "latency": 2.0, "importance": 0.75},
    ],
}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def write(folder: Path, content: object, name: str = "table.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def test_the_optima_of_the_files_are_found() -> None:
    result = run(DATA)
    assert result.exit_code == 0, result.output
    assert "3 files, 5 results: all ok" in result.output
    assert "NOT" not in result.output


def test_the_whole_frontier_holds_every_budget() -> None:
    result = run(DATA, "--frontier")
    assert result.exit_code == 0, result.output
    assert "3 files, 10 results: all ok" in result.output
    assert result.output.count("whole frontier") == 5


def test_one_file_and_what_the_published_recurrence_finds() -> None:
    result = run(MEASURED, "--published")
    assert result.exit_code == 0
    assert "1 file, 3 results: all ok" in result.output
    coarse = [line for line in result.output.splitlines() if "precision 10 " in line]
    assert [line.split("NOT ok: ")[1] for line in coarse] == [
        "5.26% over the budget",
        "8.01% over the budget",
        "9.09% over the budget",
    ]


@pytest.mark.parametrize("path", sorted(DATA.glob("*.json")), ids=lambda path: path.stem)
def test_limited_and_whole_frontiers_find_the_same(path: Path) -> None:
    table = read_table(path)
    for budget, optimum in table.budgets:
        cover = cover_frontier(table.intervals(), max_latency=budget).best()
        assert judge(table, cover.entries, budget, optimum) == (True, "ok")


def test_the_measured_table_takes_a_fraction_of_a_second() -> None:
    lines = [line for line in run(MEASURED, "--frontier").output.splitlines() if "31.987" in line]
    assert len(lines) == 2
    assert all(float(line.split()[-2]) < 0.2 for line in lines)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.sampled_from([0.3, 1.0, 3.0, 10.0]))
def test_never_worse_than_the_published_recurrence(data: st.DataObject, precision: float) -> None:
    length = data.draw(st.integers(2, 8))
    entries = [
        (start, end, data.draw(st.floats(0.05, 3)), -data.draw(st.floats(0, 1)))
        for start in range(length)
        for end in range(start + 1, min(start + 3, length) + 1)
    ]
    intervals = Intervals.of(length, entries)
    budget = data.draw(st.floats(0.1, 3 * length))
    ours = best_cover(intervals, budget)
    theirs = floored_cover(intervals, budget, precision)
    assert ours.latency <= budget or not ours.entries
    if theirs and sum(entries[i][2] for i in theirs) <= budget:
        assert ours.distortion <= sum(entries[i][3] for i in theirs) + 1e-12
    # even where it breaks the budget: as good with the latency that it really takes
    if theirs:
        spent = sum(entries[i][2] for i in theirs) * (1 + 1e-12)
        lookup = cover_frontier(intervals).best(spent)
        assert lookup.distortion <= sum(entries[i][3] for i in theirs) + 1e-12


def test_a_fine_recurrence_is_right_where_latencies_are_whole() -> None:
    """So it is the recurrence that is compared with, not a mistake in it."""
    intervals = Intervals.of(
        3, [(0, 1, 2.0, -1.0), (1, 3, 2.0, -1.5), (1, 2, 2.0, -1.0), (2, 3, 3.0, -1.0)]
    )
    assert floored_cover(intervals, 7.0, 1.0) == (0, 2, 3)
    assert floored_cover(intervals, 6.0, 1.0) == (0, 1)
    assert floored_cover(intervals, 3.0, 1.0) == ()
    assert floored_cover(intervals, -3.0, 1.0) == ()


def test_without_an_optimum_the_budget_alone_is_checked(tmp_path: Path) -> None:
    result = run(write(tmp_path, SMALL).parent)
    assert result.exit_code == 0
    assert "ok, optimum not in the file" in result.output
    row = result.output.splitlines()[1].split()
    assert row[1:4] == ["3", "2.000000", "0.750000000"]


def test_plain_numbers_may_be_budgets(tmp_path: Path) -> None:
    content = {k: v for k, v in SMALL.items() if k != "budget"} | {"budgets": [3.5, 1.0]}
    result = run(write(tmp_path, content))
    assert result.exit_code == 0
    assert "2.000000000" in result.output.splitlines()[1]
    assert result.output.splitlines()[2].endswith("ok, no cover fits")


@pytest.mark.parametrize(("optimum", "difference"), [(0.8, "-0.05"), (0.7, "+0.05")])
def test_another_importance_than_the_optimum_is_not_ok(
    tmp_path: Path, optimum: float, difference: str
) -> None:
    result = run(write(tmp_path, SMALL | {"optimum_importance": optimum}))
    assert result.exit_code == 1
    assert f"NOT ok: importance differs by {difference}" in result.output
    assert "1 NOT ok" in result.output


def test_the_check_is_independent_of_the_solver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = read_table(write(tmp_path, SMALL))
    assert figures(table, (0, 1)) == (3.5, 2.0)
    assert judge(table, (0, 1), 3.0, None) == (False, "NOT ok: 16.67% over the budget")
    assert judge(table, (0,), 3.0, None)[1] == "NOT ok: the cover ends at 1 of 2"
    assert judge(table, (1,), 3.0, None)[1] == (
        "NOT ok: an entry starts at 1, the one before ends at 0"
    )
    assert judge(table, (), 3.0, None) == (False, "NOT ok: nothing found")
    assert judge(table, (), 3.0, 0.75) == (False, "NOT ok: nothing found")

    def too_slow(intervals: Intervals, max_latency: float) -> Cover:
        return Cover((0, 1), 0.0, -9.0, "optimal")

    monkeypatch.setattr(depth_tables, "best_cover", too_slow)
    assert run(tmp_path).exit_code == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1], "it is not an object"),
        ({}, "'entries' is missing"),
        (SMALL | {"budget": None}, "None is not a finite number"),
        (SMALL | {"budgets": []}, "there is no budget"),
        (SMALL | {"layers": 1}, "is not a run of the layers 0..0"),
        (SMALL | {"layers": 0, "entries": []}, "there are no layers"),
        (SMALL | {"layers": 2.5}, "2.5 is not a whole number"),
        (SMALL | {"entries": [{"start": 0}]}, "'end' is missing"),
        (SMALL | {"entries": [7]}, "is not a table of covers"),
        (SMALL | {"optimum_importance": "much"}, "is not a table of covers"),
    ],
)
def test_wrong_files_are_told_in_one_line(tmp_path: Path, content: object, words: str) -> None:
    path = write(tmp_path, content)
    result = run(tmp_path)
    assert result.exit_code == 3
    assert words in result.output
    assert result.output.startswith(f"Error: {path}: ")
    assert len(result.output.splitlines()) == 1


def test_what_is_no_json_is_told(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_bytes(b"\xff{")
    result = run(tmp_path)
    assert result.exit_code == 3
    assert "cannot be read as JSON" in result.output


def test_missing_folders_and_folders_without_tables(tmp_path: Path) -> None:
    missing = run(tmp_path / "none")
    assert missing.exit_code == 2
    assert "no such file or folder" in missing.output
    (tmp_path / "README.md").write_text("no table")
    empty = run(tmp_path)
    assert empty.exit_code == 2
    assert "no .json files" in empty.output
