"""The story of a run, in one screen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO

from compress.report import recoveries, summary, text
from compress.report.memory_plan import MemoryPlan
from compress.report.recoveries import Tried
from compress.report.schema import Candidate, Plan, Report
from compress.report.screen import Cell, Screen
from compress.report.summary import KeptFloat

MOST_CANDIDATES = 6
MOST_TRIED = 3
MOST_REASONS = 4
MOST_NAMES = 3
"""Lines, or names in a line, without `verbose`; half the candidates and reasons where structures
are shown as well."""

GOOD, BAD, QUIET = "green", "yellow", "dim"


def show(
    report: Report,
    plan: Plan,
    memory: MemoryPlan | None = None,
    *,
    folder: Path | None = None,
    verbose: bool = False,
    file: IO[str] | None = None,
) -> None:
    """Print what became of a model.

    Args:
        folder: where the files of the run lie; None if they were not written.
        verbose: every candidate, structure, reason and layer instead of the first few.
        file: default: standard output.
    """
    screen = Screen(file)
    _headline(screen, report)
    screen.line()
    screen.line((report.outcome, f"bold {GOOD if report.exit_code == 0 else BAD}"))
    tried = recoveries.tried(plan.recoveries, report.candidates)
    part = 2 if tried else 1
    if len(report.candidates) > 1:
        screen.line()
        most = len(report.candidates) if verbose else MOST_CANDIDATES // part
        _candidates(screen, report.candidates, most)
    if tried:
        screen.line()
        _tried(screen, tried, len(tried) if verbose else MOST_TRIED)
    kept = summary.kept_float(plan)
    if kept:
        screen.line()
        _kept(screen, kept, MOST_REASONS // part, verbose)
    if verbose and plan.layers:
        screen.line()
        _layers(screen, plan)
    if memory is not None:
        screen.line()
        screen.line(summary.scratchpad(memory))
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


def _candidates(screen: Screen, candidates: Sequence[Candidate], most: int) -> None:
    worth = sorted(candidates, key=lambda c: (not c.shipped, c.latency is None))
    kept = {id(c) for c in worth[:most]}
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
    cells = [
        candidate.name,
        _latency(candidate),
        speed,
        text.size(candidate.size_bytes),
        quality,
        candidate.verdict,
    ]
    return [(cell, style) for cell in cells]


def _latency(candidate: Candidate) -> str:
    if candidate.latency is not None:
        return text.milliseconds(candidate.latency.median_ms)
    if candidate.predicted_us is not None:
        return f"~{text.milliseconds(candidate.predicted_us / 1000)}"
    return ""


def _tried(screen: Screen, tried: Sequence[Tried], most: int) -> None:
    # what was worth a long training says more than a first look
    worth = sorted(tried, key=lambda t: (not t.recovery.shipped, -t.recovery.seconds))
    kept = {id(t) for t in worth[:most]}
    shown = [t for t in tried if id(t) in kept]
    seconds = sum(t.recovery.seconds for t in tried)
    rows: list[list[Cell]] = []
    for each in shown:
        recovery, candidate = each.recovery, each.candidate
        quality = candidate.quality if candidate is not None else None
        cells = [
            recovery.name,
            each.changes,
            f"{text.figures(recovery.before, 2)} -> {text.figures(recovery.after, 2)}",
            text.figures(quality.value, 4) if quality is not None else "",
            _latency(candidate) if candidate is not None else "",
            f"{recovery.seconds:.0f} s",
            each.outcome,
        ]
        rows.append([(cell, "bold" if each.recovery.shipped else "") for cell in cells])
    columns = ["structure", "changes", "distortion", "quality", "latency", "trained", "outcome"]
    title = f"structures tried: {len(tried)}, trained for {text.duration(seconds)}"
    screen.table(columns, rows, title=title, numbers=columns[2:6])
    if len(shown) < len(tried):
        screen.line((f"and {len(tried) - len(shown)} more in the report", QUIET))


def _kept(screen: Screen, kept: Sequence[KeptFloat], most: int, verbose: bool) -> None:
    count = sum(len(group.layers) for group in kept)
    screen.line((f"stayed float: {count} layer{'s' if count > 1 else ''}", "bold"))
    shown = kept if verbose else kept[:most]
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
