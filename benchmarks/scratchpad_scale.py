"""The whole-tensor scheduler on graphs of growing size: value, gap, time and memory.

    python -m benchmarks.scratchpad_scale -o benchmarks/results/scratchpad_scale.md

Random graphs and graphs like NAS cells (`benchmarks.random_dags`) on M_H, the mean of what the
largest operator needs and of the least peak. Each plan is made in a process of its own, whose
largest resident memory is measured, and replayed. Exit codes: 0, 1 a replay finds a plan wrong.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from benchmarks.environment import describe
from benchmarks.random_dags import middle_capacity, nas_dag, random_dag
from compress.passes.schedule.replay import replay
from compress.passes.schedule.solve import schedule

KINDS = {"random": random_dag, "NAS-like": nas_dag}
SIZES = (50, 100, 200, 500, 1000)
PEAK_RATE = 50
"""Operators per second of looking for the least peak: too short, and M_H holds everything."""
BAR = 20
"""Characters of the longest bar."""


@dataclass(frozen=True)
class Row:
    """One plan; bytes and seconds. `memory` is the largest resident memory of its process, the
    solver's libraries included."""

    kind: str
    operators: int
    seed: int
    capacity: int
    extra_bytes: int
    bound: int
    gap: float
    method: str
    packed: bool
    seconds: float
    cpu_seconds: float
    memory: int
    problems: tuple[str, ...]


def one(kind: str, operators: int, seed: int, seconds: float, threads: int) -> Row:
    """Makes and replays one plan in this process."""
    graph = KINDS[kind](operators, seed)
    capacity = middle_capacity(graph, seconds=operators / PEAK_RATE)
    started, cpu = time.monotonic(), sum(os.times()[:4])
    plan = schedule(graph, capacity, seconds=seconds, threads=threads, seed=seed)
    taken, cpu = time.monotonic() - started, sum(os.times()[:4]) - cpu
    checked = replay(graph, plan, capacity)
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Row(
        kind,
        operators,
        seed,
        capacity,
        checked.extra_bytes,
        plan.bound,
        plan.gap,
        plan.method,
        plan.packed,
        taken,
        cpu,
        1024 * kib,
        checked.problems,
    )


def in_a_process(kind: str, operators: int, seed: int, seconds: float, threads: int) -> Row:
    """
    Raises:
        RuntimeError: the process died; with the last line of what it said.
    """
    worker = ["--worker", json.dumps([kind, operators, seed, seconds, threads])]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scratchpad_scale", *worker],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(f"{kind}, {operators} operators: {lines[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Row(**{**found, "problems": tuple(found["problems"])})


def page(rows: list[Row], seconds: float, threads: int) -> str:
    """The table, with bars for time, memory and gap."""
    environment = describe()
    lines = [
        "# Scheduling graphs of growing size",
        "",
        f"{environment.date}, {environment.cpu}. Made by `python -m benchmarks.scratchpad_scale`, "
        f"where it is described; {seconds:g} s and",
        f"{threads} threads per plan.",
        "",
        "| graph | operators | scratchpad KiB | value KiB | bound KiB | gap | seconds | CPU s "
        "| memory MiB | addresses | method | replay |",
        "|---" * 12 + "|",
    ]
    for row in rows:
        cells = (
            row.kind,
            str(row.operators),
            f"{row.capacity / 1024:.0f}",
            f"{row.extra_bytes / 1024:.0f}",
            f"{row.bound / 1024:.0f}",
            f"{row.gap:.1%}",
            f"{row.seconds:.1f}",
            f"{row.cpu_seconds:.1f}",
            f"{row.memory / 2**20:.0f}",
            "yes" if row.packed else "no",
            row.method,
            "; ".join(row.problems) or "ok",
        )
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *_plot(rows)]
    return "\n".join(lines) + "\n"


def _plot(rows: list[Row]) -> list[str]:
    """Bars by size, each figure relative to its largest."""
    figures = {
        "seconds": [row.seconds for row in rows],
        "memory": [float(row.memory) for row in rows],
        "gap": [row.gap for row in rows],
    }
    lines = ["```", " " * 16 + "".join(name.ljust(BAR + 2) for name in figures).rstrip()]
    for index, row in enumerate(rows):
        bars = []
        for values in figures.values():
            length = round(BAR * values[index] / max(*values, 1e-9))
            bars.append(("#" * length).ljust(BAR + 2))
        lines.append(f"{row.kind:10}{row.operators:5} {''.join(bars)}".rstrip())
    return [*lines, "```"]


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Markdown, JSON beside it.")
@click.option("--sizes", default=",".join(map(str, SIZES)), show_default=True, help="Operators.")
@click.option("--seconds", default=58.0, show_default=True, help="Per plan.")
@click.option("--threads", default=2, show_default=True, help="Of CP-SAT.")
@click.option("--seed", default=0, show_default=True)
@click.option("--worker", hidden=True)
@click.pass_context
def main(
    ctx: click.Context,
    output: Path | None,
    sizes: str,
    seconds: float,
    threads: int,
    seed: int,
    worker: str | None,
) -> None:
    """Schedule graphs of all kinds and sizes."""
    if worker is not None:
        click.echo(json.dumps(asdict(one(*json.loads(worker)))))
        return
    rows: list[Row] = []
    for operators in (int(size) for size in sizes.split(",")):
        for kind in KINDS:
            rows.append(in_a_process(kind, operators, seed, seconds, threads))
            click.echo(json.dumps(asdict(rows[-1])), err=True)
            if output is not None:
                output.parent.mkdir(parents=True, exist_ok=True)
                output.write_text(page(rows, seconds, threads), encoding="utf-8")
                records = json.dumps([asdict(row) for row in rows], indent=1)
                output.with_suffix(".json").write_text(records + "\n", encoding="utf-8")
    click.echo(page(rows, seconds, threads))
    ctx.exit(int(any(row.problems for row in rows)))


if __name__ == "__main__":
    main()
