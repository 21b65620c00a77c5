"""Solves tables of merged runs of layers, and checks every cover from the file itself.

    python -m benchmarks.depth_tables FOLDER

A file is JSON: `layers` L; `entries` with start, end, latency and importance; `budget`, or
`budgets` (numbers, or objects with `budget`); beside a budget `optimum_importance`, if it is known.
A result is ok if it covers 0..L without gap or overlap, within the budget, and its importance is
the optimum's, to a billionth. Exit codes: 0, 1 something is not ok, 2 no files, 3 a file is wrong.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.floored_cover import floored_cover
from benchmarks.vectors import VectorError, print_rows, vector_files, verdict
from compress.passes.covers import CoverFrontier, Intervals, best_cover, cover_frontier

EQUAL = 1e-9
"""Importances that differ by this share are equal: they are sums in some order."""

PRECISIONS = (10.0, 100.0)
"""Columns per unit of latency for the published recurrence."""

TITLES = ("file", "budget", "latency", "importance", "optimum", "points", "seconds", "result")


@dataclass(frozen=True)
class Table:
    """One file.

    Attributes:
        entries: (start, end, latency, importance).
        budgets: (budget, the largest importance within it or None).
    """

    path: Path
    layers: int
    entries: tuple[tuple[int, int, float, float], ...]
    budgets: tuple[tuple[float, float | None], ...]

    def intervals(self) -> Intervals:
        return Intervals.of(self.layers, [(s, e, t, -i) for s, e, t, i in self.entries])


def read_table(path: Path) -> Table:
    """
    Raises:
        VectorError: the file is not such a table.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is not an object")
        entries = tuple(
            (
                _whole(entry["start"]),
                _whole(entry["end"]),
                _finite(entry["latency"]),
                _finite(entry["importance"]),
            )
            for entry in content["entries"]
        )
        table = Table(path, _whole(content["layers"]), entries, _budgets(content))
        if table.layers < 1:
            raise ValueError("there are no layers")
        table.intervals()
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise VectorError(path, f"cannot be read as JSON: {error}") from error
    except KeyError as error:
        raise VectorError(path, f"{error} is missing") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise VectorError(path, f"is not a table of covers: {error}") from error
    return table


def _budgets(content: Any) -> tuple[tuple[float, float | None], ...]:
    given = content.get("budgets", [content])
    if not given:
        raise ValueError("there is no budget")
    found = []
    for each in given:
        named = each if isinstance(each, dict) else {"budget": each}
        optimum = named.get("optimum_importance")
        known = optimum is not None and not math.isnan(optimum)
        found.append((_finite(named["budget"]), _finite(optimum) if known else None))
    return tuple(found)


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is not a whole number")
    return value


def figures(table: Table, chosen: Sequence[int]) -> tuple[float, float]:
    """(latency, importance) of a cover, from the file's entries. The check of every solver here.

    Raises:
        ValueError: it has a gap or an overlap.
    """
    position, latency, importance = 0, 0.0, 0.0
    for start, end, time_taken, worth in (table.entries[index] for index in chosen):
        if start != position:
            raise ValueError(f"an entry starts at {start}, the one before ends at {position}")
        position, latency, importance = end, latency + time_taken, importance + worth
    if position != table.layers:
        raise ValueError(f"the cover ends at {position} of {table.layers}")
    return latency, importance


def least_latency(table: Table) -> float:
    """Of any cover; inf if there is none."""
    least = [0.0] + [math.inf] * table.layers
    for start, end, time_taken, _ in sorted(table.entries):
        least[end] = min(least[end], least[start] + time_taken)
    return least[-1]


def judge(
    table: Table, chosen: Sequence[int], budget: float, optimum: float | None
) -> tuple[bool, str]:
    """Whether a choice is right, and what to say about it."""
    if not chosen:
        if optimum is None and least_latency(table) > budget:
            return True, "ok, no cover fits"
        return False, "NOT ok: nothing found"
    try:
        latency, importance = figures(table, chosen)
    except ValueError as error:
        return False, f"NOT ok: {error}"
    if latency > budget:
        share = f"{latency / budget - 1:.2%}" if budget > 0 else f"{latency - budget:g}"
        return False, f"NOT ok: {share} over the budget"
    if optimum is None:
        return True, "ok, optimum not in the file"
    difference = importance - optimum
    if abs(difference) > EQUAL * abs(optimum):
        return False, f"NOT ok: importance differs by {difference:+.3g}"
    return True, "ok"


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--frontier", is_flag=True, help="Also every budget looked up in the whole frontier.")
@click.option("--published", is_flag=True, help="Also what the published recurrence finds.")
@click.pass_context
def main(ctx: click.Context, path: Path, frontier: bool, published: bool) -> None:
    """Solve every table at PATH, a folder or one file. Seconds are CPU seconds.

    With --frontier the whole one is found in one run per file; its seconds stand at every budget.
    """
    tables = [read_table(file) for file in vector_files(path, ".json")]
    rows: list[Sequence[str]] = []
    failures = results = 0
    for table in tables:
        whole = _whole_frontier(table) if frontier else None
        for budget, optimum in table.budgets:
            started = time.thread_time()
            cover = best_cover(table.intervals(), budget)
            seconds = time.thread_time() - started
            found = [(table.path.name, cover, 1, seconds)]
            if whole is not None:
                points, taken = whole
                found.append(("  whole frontier", points.best(budget), len(points), taken))
            for name, cover, count, seconds in found:
                ok, text = judge(table, cover.entries, budget, optimum)
                if cover.status == "feasible":
                    text += " (labels were thinned out)"
                results += 1
                failures += not ok
                cells = _cells(table, cover.entries, budget, optimum)
                rows.append((name, *cells, str(count), f"{seconds:.3f}", text))
            if published:
                rows += [_published(table, budget, optimum, p) for p in PRECISIONS]
    print_rows(TITLES, rows)
    ctx.exit(verdict(results, failures, len(tables)))


def _whole_frontier(table: Table) -> tuple[CoverFrontier, float]:
    started = time.thread_time()
    frontier = cover_frontier(table.intervals())
    return frontier, time.thread_time() - started


def _cells(
    table: Table, chosen: Sequence[int], budget: float, optimum: float | None
) -> tuple[str, str, str, str]:
    known = "" if optimum is None else f"{optimum:.9f}"
    try:
        latency, importance = figures(table, chosen)
    except ValueError:
        return f"{budget:g}", "", "", known
    return f"{budget:g}", f"{latency:.6f}", f"{importance:.9f}", known


def _published(
    table: Table, budget: float, optimum: float | None, precision: float
) -> Sequence[str]:
    started = time.thread_time()
    chosen = floored_cover(table.intervals(), budget, precision)
    seconds = time.thread_time() - started
    _, text = judge(table, chosen, budget, optimum)
    name = f"  published, precision {precision:g}"
    return (name, *_cells(table, chosen, budget, optimum), "1", f"{seconds:.3f}", text)


if __name__ == "__main__":
    main()
