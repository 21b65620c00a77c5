"""The story of a run, in one screen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO

from compress.report import summary, text
from compress.report.schema import Candidate, Plan, Report
from compress.report.screen import Cell, Screen
from compress.report.summary import KeptFloat

MOST_CANDIDATES = 6
MOST_REASONS = 4
MOST_NAMES = 3
GOOD, BAD, QUIET = "green", "yellow", "dim"


def show(
    report: Report,
    plan: Plan,
    *,
    folder: Path | None = None,
    verbose: bool = False,
    file: IO[str] | None = None,
) -> None:
    """Print what became of a model.

    Args:
        folder: where the files of the run lie; None if they were not written.
        verbose: every candidate, every reason and every layer instead of the first few.
        file: default: standard output.
    """
    screen = Screen(file)
    _headline(screen, report)
    screen.line()
    screen.line((report.outcome, f"bold {GOOD if report.exit_code == 0 else BAD}"))
    if len(report.candidates) > 1:
        screen.line()
        _candidates(screen, report.candidates, verbose)
    kept = summary.kept_float(plan)
    if kept:
        screen.line()
        _kept(screen, kept, verbose)
    if verbose and plan.layers:
        screen.line()
        _layers(screen, plan)
    for warning in report.warnings:
        screen.line((f"warning: {warning}", BAD))
    if folder is not None:
        screen.line()
        screen.line(f"report: {folder / 'report.html'}")


def _headline(screen: Screen, report: Report) -> None:
    rows: list[list[Cell]] = []
    for row in summary.headline(report):
        style = "" if row.better is None else GOOD if row.better else BAD
        rows.append([row.label, row.before, (row.after, "bold"), (row.change, style)])
    columns = ["", "before", f"after ({_kind(report)})", "change"]
    screen.table(columns, rows, title=f"{report.model.source} for {report.target}")
    for label, words in (
        ("outputs", summary.fidelity(report.after)),
        ("layers", summary.forms(report.after)),
    ):
        if words:
            screen.line(f"{label:8} {words}")


def _kind(report: Report) -> str:
    found = report.after.latency
    return "predicted" if found is None or found.kind == "predicted" else "measured"


def _candidates(screen: Screen, candidates: Sequence[Candidate], verbose: bool) -> None:
    shown = list(candidates)
    if not verbose and len(shown) > MOST_CANDIDATES:
        worth = sorted(candidates, key=lambda c: (not c.shipped, c.latency is None))
        kept = {id(c) for c in worth[:MOST_CANDIDATES]}
        shown = [c for c in candidates if id(c) in kept]
    rows = [_candidate(candidate) for candidate in shown]
    columns = ["candidate", "latency", "speed", "size", "quality", "verdict"]
    screen.table(columns, rows, numbers=columns[1:5])
    if len(shown) < len(candidates):
        screen.line((f"and {len(candidates) - len(shown)} more in the report", QUIET))


def _candidate(candidate: Candidate) -> list[Cell]:
    style = "bold" if candidate.shipped else ""
    speed = f"{candidate.speedup.median:.2f}x" if candidate.speedup else ""
    quality = text.figures(candidate.quality.value, 4) if candidate.quality else ""
    if candidate.latency is not None:
        latency = text.milliseconds(candidate.latency.median_ms)
    elif candidate.predicted_us is not None:
        latency = f"~{text.milliseconds(candidate.predicted_us / 1000)}"
    else:
        latency = ""
    cells = [
        candidate.name,
        latency,
        speed,
        text.size(candidate.size_bytes),
        quality,
        candidate.verdict,
    ]
    return [(cell, style) for cell in cells]


def _kept(screen: Screen, kept: Sequence[KeptFloat], verbose: bool) -> None:
    count = sum(len(group.layers) for group in kept)
    screen.line((f"stayed float: {count} layer{'s' if count > 1 else ''}", "bold"))
    shown = kept if verbose else kept[:MOST_REASONS]
    for group in shown:
        names = [layer.name for layer in group.layers]
        listed = ", ".join(names if verbose else map(text.shortened, names[:MOST_NAMES]))
        more = "" if verbose or len(names) <= MOST_NAMES else f" and {len(names) - MOST_NAMES} more"
        screen.line(f"  {listed}{more}", (f": {group.why}", QUIET))
    if len(shown) < len(kept):
        screen.line((f"  and {len(kept) - len(shown)} more reasons in the report", QUIET))


def _layers(screen: Screen, plan: Plan) -> None:
    rows: list[list[Cell]] = []
    for layer in plan.layers:
        latency = summary.chosen_us(layer)
        shown = "" if latency is None else text.figures(latency)
        rows.append([layer.name, layer.kind, layer.shape, layer.chosen, shown, layer.why])
    columns = ["layer", "kind", "output", "chosen", "us", "why"]
    screen.table(columns, rows, numbers=["us"])
