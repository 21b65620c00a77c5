"""Rows of a comparison, as Markdown for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.environment import Environment
from benchmarks.methods import FLOAT, OURS
from benchmarks.zoo import Case

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Row:
    """One method on one model. Where `failure` is not empty there are no measurements.

    The difference is quality minus float's, with the ends of its paired 95 % interval over the
    evaluation samples. The speed-up is over float in onnxruntime, with the 10th and 90th
    percentile over the timing processes.

    Of `compile_seconds`, `latency_seconds` went into latencies, `quality_seconds` into building and
    evaluating candidates and the model as given, `rounding_seconds` into what each rounding costs.
    All three are measured on the device; other quantizers measure nothing.
    """

    model: str
    group: str
    setting: str
    runtime: str
    failure: str
    size_bytes: int
    compile_seconds: float
    peak_bytes: int
    quality: float = 0.0
    difference: float = 0.0
    difference_low: float = 0.0
    difference_high: float = 0.0
    secondary: Mapping[str, float] = field(default_factory=dict)
    within_budget: bool = False
    speedup: float = 0.0
    speedup_low: float = 0.0
    speedup_high: float = 0.0
    milliseconds: float = 0.0
    latency_seconds: float = 0.0
    quality_seconds: float = 0.0
    rounding_seconds: float = 0.0


def best_of_groups(rows: Sequence[Row]) -> list[Row]:
    """One row per group, in the groups' order: the fastest inside the budget, else the one of the
    highest quality, else a failed one. The float rows are all kept."""
    best: list[Row] = []
    for group in dict.fromkeys(row.group for row in rows):
        members = [row for row in rows if row.group == group]
        best += members if group == FLOAT else [max(members, key=_rank)]
    return best


def _rank(row: Row) -> tuple[bool, bool, float]:
    good = not row.failure
    return good, row.within_budget, row.speedup if row.within_budget else row.quality


def write(
    path: Path,
    cases: Sequence[Case],
    rows: Sequence[Row],
    environment: Environment,
    rounds: int,
) -> None:
    """Writes `path` (Markdown) and the JSON file of the same name beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(markdown(cases, rows, environment, rounds))
    figures = {
        "format_version": FORMAT_VERSION,
        "environment": asdict(environment),
        "timing_rounds": rounds,
        "models": {
            case.name: {"metric": case.metric, "max_drop": case.max_drop, "goal": case.goal}
            for case in cases
        },
        "rows": [asdict(row) for row in rows],
    }
    path.with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")


def markdown(
    cases: Sequence[Case], rows: Sequence[Row], environment: Environment, rounds: int
) -> str:
    """The whole report."""
    versions = ", ".join(f"{name} {value}" for name, value in environment.versions.items())
    lines = [
        "# Quantization: quality and speed on real models",
        "",
        f"{environment.date}; {environment.cpu}, {environment.cores} cores "
        f"({', '.join(environment.isa)}); {environment.system}; {versions}.",
        "",
        "One thread. Speed-ups are over the float model in onnxruntime: CPU time, bursts",
        f"interleaved in random order, {rounds} fresh processes, median with the 10th to 90th",
        "percentile. Differences of quality carry their paired 95 % interval over the evaluation",
        "samples. Seconds and peak memory are those of the whole program, from its start to the",
        "written artifact; for `compress run` they include measuring and evaluating. OpenVINO runs",
        "at its default precision, which is bfloat16 for float layers where the processor has it.",
        "",
        *_summary(cases, rows),
        *_costs(cases, rows),
    ]
    for case in cases:
        mine = [row for row in rows if row.model == case.name]
        lines += _section(case, mine)
    return "\n".join(lines).rstrip() + "\n"


def _summary(cases: Sequence[Case], rows: Sequence[Row]) -> list[str]:
    lines = [
        "| model | budget | goal | compress | fastest other inside the budget, in onnxruntime |",
        "|---|---|---|---|---|",
    ]
    for case in cases:
        mine = [row for row in rows if row.model == case.name]
        ours = next((row for row in mine if row.group == OURS), None)
        others = [
            row
            for row in mine
            if row.group not in (OURS, FLOAT) and row.runtime == "onnxruntime" and row.within_budget
        ]
        rival = max(others, key=lambda row: row.speedup, default=None)
        lines.append(
            f"| {case.name} | {case.metric}, at most {case.max_drop} down | {case.goal:g}x "
            f"| {_short(ours)} | {_short(rival, with_name=True)} |"
        )
    return [*lines, ""]


def _costs(cases: Sequence[Case], rows: Sequence[Row]) -> list[str]:
    """What `compress run` itself takes, beside NNCF's quantization of the same model."""
    titles = ["model", "compress run, s", "of it latencies", "quality", "roundings", "the rest"]
    titles += ["NNCF, s", "peak MB", "3 x model + 500 MB"]
    lines = []
    for case in cases:
        mine = [row for row in rows if row.model == case.name and not row.failure]
        ours = next((row for row in mine if row.group == OURS), None)
        given = next((row for row in mine if row.group == FLOAT), None)
        nncf = [row.compile_seconds for row in mine if row.group == "NNCF in onnxruntime"]
        if ours is None or given is None:
            continue
        parts = (ours.latency_seconds, ours.quality_seconds, ours.rounding_seconds)
        seconds = (ours.compile_seconds, *parts, ours.compile_seconds - sum(parts))
        cells = [case.name, *(f"{value:.0f}" for value in seconds)]
        cells += [" / ".join(f"{value:.0f}" for value in nncf) or "failed"]
        cells += [f"{ours.peak_bytes / 1e6:.0f}", f"{3 * given.size_bytes / 1e6 + 500:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    if not lines:
        return []
    head = ["## What a run takes", "", "| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return [*head, *lines, ""]


def _short(row: Row | None, with_name: bool = False) -> str:
    if row is None:
        return "none"
    if row.failure:
        return f"failed: {_cell(row.failure)}"
    name = f" ({row.group})" if with_name else ""
    budget = "" if row.within_budget else ", outside the budget"
    return f"{row.speedup:.2f}x at {row.quality:.4f}{budget}{name}"


def _section(case: Case, rows: Sequence[Row]) -> list[str]:
    best = best_of_groups(rows)
    lines = [f"## {case.name}: {case.metric}", "", *_rows(best, case)]
    if len(best) < len(rows):
        lines += ["<details><summary>every setting</summary>", "", *_rows(rows, case)]
        lines += ["</details>", ""]
    return lines


def _rows(rows: Sequence[Row], case: Case) -> list[str]:
    extra = list(case.secondary)
    titles = [
        "method",
        case.metric,
        "difference [95 %]",
        *extra,
        "in budget",
        "speed-up [p10, p90]",
    ]
    titles += ["ms", "MB", "compile s", "peak MB"]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for row in rows:
        name = f"{row.group}, {row.setting}" if row.setting else row.group
        cells = [name]
        if row.failure:
            cells += [f"failed: {_cell(row.failure)}"] + [""] * (len(titles) - 4)
            cells += [f"{row.compile_seconds:.0f}", f"{row.peak_bytes / 1e6:.0f}"]
        else:
            cells += [f"{row.quality:.4f}", _difference(row)]
            cells += [f"{row.secondary[metric]:.4f}" for metric in extra]
            cells += ["yes" if row.within_budget else "no"]
            cells += [f"{row.speedup:.2f}x [{row.speedup_low:.2f}, {row.speedup_high:.2f}]"]
            cells += [f"{row.milliseconds:.2f}", f"{row.size_bytes / 1e6:.2f}"]
            built = row.group != FLOAT
            cells += [f"{row.compile_seconds:.0f}" if built else ""]
            cells += [f"{row.peak_bytes / 1e6:.0f}" if built else ""]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _difference(row: Row) -> str:
    return f"{row.difference:+.4f} [{row.difference_low:+.4f}, {row.difference_high:+.4f}]"


def _cell(text: str) -> str:
    """`text` fit for a cell: one line without bars and without a folder of this machine."""
    return " ".join(text.split()).replace("|", "/").replace(str(Path.home()), "~")[:160]
