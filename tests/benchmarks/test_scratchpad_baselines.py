"""The comparison with published baselines: what is compared, how averages are taken, the page."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import scratchpad_baselines
from benchmarks.scratchpad_baselines import baseline_bytes, main, rows_of, run, sizes
from benchmarks.scratchpad_builder import Builder
from benchmarks.scratchpad_graphs import densenet_block
from benchmarks.scratchpad_report import BASELINES, Ours, Row, page, saved
from compress.passes.schedule.problem import Graph, Operator, Plan, Tensor

OURS = Ours(50, 50, "optimal", "made up", 100, True, 1.0, 2.0, ())


def row(
    theirs: tuple[int, int, int, int],
    mine: int,
    shared: int | None = None,
    placed: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> Row:
    return Row(
        "graph",
        "group",
        3,
        0,
        "M_R",
        100,
        dict(zip(BASELINES, theirs, strict=True)),
        dict(zip(BASELINES, placed, strict=True)),
        dataclasses.replace(OURS, extra_bytes=mine),
        None if shared is None else dataclasses.replace(OURS, extra_bytes=shared),
    )


def forked() -> Graph:
    """Two branches from one tensor; the branch that makes most should run first."""
    operators = (
        Operator("start", (), (0,)),
        Operator("small", (0,), (1,)),
        Operator("large", (0,), (2,)),
        Operator("shrink", (2,), (3,)),
        Operator("join", (1, 3), (4,)),
    )
    tensors = tuple(Tensor(f"t{i}", size) for i, size in enumerate((40, 30, 100, 10, 40)))
    return Graph(operators, tensors)


def test_averages_are_taken_over_baselines_then_over_pairs() -> None:
    rows = [row((200, 100, 0, 50), 50), row((0, 0, 0, 100), 0), row((0, 0, 0, 0), 0)]
    found = saved(rows, lambda r: r.plain)
    assert found.pairs == 2
    assert found.comparisons == 4
    assert found.mean == pytest.approx(((0.75 + 0.5 + 0.0) / 3 + 1.0) / 2)
    # the baseline that needs nothing where we need 50 counts in the sums, and as lost
    assert found.lost == 1
    assert found.pooled == pytest.approx(1 - 4 * 50 / (200 + 100 + 50 + 100))


def test_what_is_best_of_the_four_is_compared_apart() -> None:
    rows = [row((200, 100, 80, 60), 30, shared=15), row((0, 10, 10, 10), 0)]
    assert saved(rows, lambda r: r.plain).over_best == pytest.approx(0.5)
    assert saved(rows, lambda r: r.best).over_best == pytest.approx(0.75)


def test_without_comparisons_there_is_no_average() -> None:
    found = saved([row((0, 0, 0, 0), 0)], lambda r: r.plain)
    assert (found.pairs, found.comparisons, found.lost) == (0, 0, 0)
    assert math.isnan(found.mean)
    assert math.isnan(found.pooled)
    assert math.isnan(found.over_best)


def test_baselines_with_addresses_are_compared_apart() -> None:
    rows = [row((0, 0, 0, 0), 0, placed=(10, 10, 10, 0)), row((100,) * 4, 50, placed=(200,) * 4)]
    found = saved(rows, lambda r: r.plain, placed=True)
    assert (found.pairs, found.comparisons) == (2, 7)
    assert found.mean == pytest.approx((1.0 + 0.75) / 2)
    one = saved(rows, lambda r: r.plain, BASELINES[3:], placed=True)
    assert (one.pairs, one.mean) == (1, 0.75)


def test_three_sizes_or_one() -> None:
    assert sizes(100, 140) == {"M_R": 100, "M_H": 120, "M_P": 140}
    assert sizes(100, 100) == {"M_R = M_P": 100}


def test_baselines_by_hand() -> None:
    """With "small" before "large" 170 bytes are in use: t1 leaves and comes back. The other way
    round 150 are enough."""
    found = baseline_bytes(forked(), 150, lowest=(0, 2, 3, 1, 4))
    assert found == {
        "default, Belady": 60, "default, greedy": 60,
        "least peak, Belady": 0, "least peak, greedy": 0,
    }  # fmt: skip


def test_rows_of_a_graph() -> None:
    net = Builder()
    graph = net.graph(densenet_block(net, net.input(128, 4, 4), 4))
    rows = list(rows_of("g", "group", graph, seconds=3, threads=1, seed=0))
    assert [r.size for r in rows] == ["M_R", "M_H", "M_P"]
    for each in rows:
        assert each.shared is not None
        assert each.plain.problems == each.shared.problems == ()
        assert each.plain.packed
        assert each.shared.bound <= each.plain.extra_bytes
        assert each.plain.extra_bytes <= min(each.baselines.values())
        assert min(each.baselines.values()) <= min(each.placed.values())
    assert rows[0].plain.extra_bytes > 0
    assert rows[-1].plain.extra_bytes == 0


def test_a_wrong_plan_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = forked()

    def wrong(graph: Graph, capacity: int, **_: object) -> Plan:
        return Plan((0, 1, 2, 3, 4), (), 0, status="optimal")

    monkeypatch.setattr(scratchpad_baselines, "schedule", wrong)
    assert "not resident" in run(graph, 140, seconds=1, threads=1, seed=0).problems[0]


def vectors(folder: Path) -> Path:
    operators = [
        {"inputs": list(o.inputs), "output_bytes": forked().tensors[i].bytes}
        for i, o in enumerate(forked().operators)
    ]
    (folder / "forked.json").write_text(json.dumps({"ops": operators, "capacity": 140}))
    return folder


def test_one_command_writes_the_page_and_the_figures(tmp_path: Path) -> None:
    output = tmp_path / "results" / "scratchpad.md"
    arguments = ["--vectors", vectors(tmp_path), "--only", "forked", "--seconds", 3, "-o", output]
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    text = output.read_text()
    assert text.strip() in result.output
    records = json.loads(output.with_suffix(".json").read_text())
    assert [record["capacity"] for record in records] == [140, 145, 150]
    assert [record["plain"]["extra_bytes"] for record in records] == [60, 60, 0]
    assert "| at M_P | ideal | without | 1 | 1 | 2 | 100.0% | 100.0% |" in text


def test_a_replay_that_fails_fails_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> Ours:
        return dataclasses.replace(OURS, problems=("t1 is not resident",))

    monkeypatch.setattr(scratchpad_baselines, "run", broken)
    arguments = ["--vectors", str(vectors(tmp_path)), "--only", "forked"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "t1 is not resident |" in result.output


def test_the_page_has_a_line_per_plan() -> None:
    text = page([row((200, 100, 80, 60), 30, shared=15)], 10, 1)
    assert text.count("| graph | M_R | with") == 2
    assert "| graph | 3 | 0 | M_R | 0.1 | 0.2 |" in text
