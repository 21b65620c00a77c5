"""How the whole-tensor scheduler grows: value, gap, time and memory against operators.

    python -m benchmarks.schedule_scale -o benchmarks/results/schedule_scale.md

Random graphs and graphs like NAS cells (`benchmarks.random_dags`, fixed seeds), on M_H (the mean of
what the largest operator needs and of the least peak that is found) and one of each on M_R, what
the largest operator needs. Every plan is made in a process of its own, which tells its CPU seconds
and its largest resident memory, libraries included, and replayed there. A plot is written beside
the table. Exit codes: 0, 1 a replay fails or there is no plan.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import click

from benchmarks.environment import describe
from benchmarks.random_dags import KIB, middle_capacity, nas_dag, random_dag
from benchmarks.schedule_plot import Line, plot
from compress.passes.schedule.replay import replay
from compress.passes.schedule.solve import schedule

KINDS = {"random": random_dag, "NAS-like": nas_dag}
SIZES = (200, 500, 1000)
TIGHT_SIZE = 500
"""Operators of the graphs that are planned for M_R as well, if they are among the sizes."""
PEAK_RATE = 50
"""Operators per second of looking for the least peak, that M_H depends on."""
TITLES = (
    "graph", "operators", "scratchpad KiB", "value KiB", "bound KiB", "gap", "peak KiB", "wall s",
    "CPU s", "memory MiB", "replay",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A graph and a size of scratchpad, "M_H" or "M_R"."""

    kind: str
    operators: int
    seed: int
    budget: str


@dataclass(frozen=True)
class Outcome:
    """What became of a case: bytes and seconds; `problem` is what the replay finds first."""

    case: Case
    capacity: int
    value: int
    bound: int
    gap: float
    peak: int
    wall_seconds: float
    cpu_seconds: float
    memory: int
    problem: str


def cases(sizes: Sequence[int], seed: int) -> list[Case]:
    """All that are run, small ones first."""
    result = []
    for operators in sizes:
        for kind in KINDS:
            result.append(Case(kind, operators, seed, "M_H"))
            if operators == TIGHT_SIZE:
                result.append(Case(kind, operators, seed, "M_R"))
    return result


def measure(case: Case, seconds: float, threads: int) -> Outcome:
    """Makes and replays a plan in this process."""
    graph = KINDS[case.kind](case.operators, case.seed)
    capacity = graph.largest_working_set
    if case.budget == "M_H":
        capacity = middle_capacity(graph, seconds=case.operators / PEAK_RATE)
    started, cpu = time.monotonic(), _cpu_seconds()
    plan = schedule(graph, capacity, seconds=seconds, threads=threads, seed=case.seed)
    wall, cpu = time.monotonic() - started, _cpu_seconds() - cpu
    checked = replay(graph, plan, capacity)
    problem = checked.problems[0] if checked.problems else ""
    if not plan.order:
        problem = "no plan was found in time"
    elif not problem and not plan.packed:
        problem = "the plan has no addresses"
    elif not problem and plan.bound > checked.extra_bytes:
        problem = "the bound is above the value"
    return Outcome(
        case,
        capacity,
        checked.extra_bytes,
        plan.bound,
        plan.gap,
        plan.peak,
        wall,
        cpu,
        _largest_memory(),
        problem,
    )


def _cpu_seconds() -> float:
    """Of this process and of the solvers that it started and that ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _largest_memory() -> int:
    """Bytes; of this process or of the largest solver that it started."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * max(usage.ru_maxrss for usage in usages)


def measure_apart(case: Case, seconds: float, threads: int) -> Outcome:
    """Does so in a process of its own.

    Raises:
        RuntimeError: that died; with the last line of what it said.
    """
    worker = ["--worker", json.dumps(asdict(case))]
    options = ["--seconds", str(seconds), "--threads", str(threads)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.schedule_scale", *options, *worker],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(f"{case.kind}, {case.operators} operators: {lines[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Outcome(**{**found, "case": Case(**found["case"])})


def page(outcomes: Sequence[Outcome], seconds: float, threads: int, picture: str) -> str:
    """The table in Markdown, with what it was made on.

    Args:
        picture: file name of the plot.
    """
    here = describe()
    packages = ", ".join(f"{name} {version(name)}" for name in ("ortools", "pulp", "highspy"))
    lines = [
        "# The scheduler on graphs of growing size",
        "",
        f"{here.date}, {here.cpu}, {here.cores} cores, {here.system}, {packages}. "
        f"Made by `python -m benchmarks.schedule_scale`,",
        f"where the graphs are described; at most {seconds:g} s and {threads} threads per plan. "
        "A gap of 0 is a proven optimum.",
        "",
        "| " + " | ".join(TITLES) + " |",
        "|---" * len(TITLES) + "|",
    ]
    for each in outcomes:
        cells = (
            each.case.kind,
            str(each.case.operators),
            f"{each.capacity / KIB:.0f} ({each.case.budget})",
            f"{each.value / KIB:.0f}",
            f"{each.bound / KIB:.0f}",
            f"{each.gap:.1%}",
            f"{each.peak / KIB:.0f}",
            f"{each.wall_seconds:.1f}",
            f"{each.cpu_seconds:.1f}",
            f"{each.memory / KIB**2:.0f}",
            f"NOT ok: {each.problem}" if each.problem else "ok",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"![Time and memory against size]({picture})", ""])


def pictured(outcomes: Sequence[Outcome]) -> str:
    """Time and memory against size, on M_H, as SVG."""
    panels: list[tuple[str, list[Line]]] = [("seconds", []), ("MiB", [])]
    for number, kind in enumerate(KINDS):
        chosen = [o for o in outcomes if o.case.kind == kind and o.case.budget == "M_H"]
        sizes = [o.case.operators for o in chosen]
        wall = [o.wall_seconds for o in chosen]
        cpu = [o.cpu_seconds for o in chosen]
        memory = [o.memory / KIB**2 for o in chosen]
        panels[0][1].append(Line(f"{kind}, wall", number, sizes, wall))
        panels[0][1].append(Line(f"{kind}, CPU", number, sizes, cpu, dashed=True))
        panels[1][1].append(Line(kind, number, sizes, memory))
    return plot(panels, "operators")


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Markdown, SVG beside it.")
@click.option("--sizes", default=",".join(map(str, SIZES)), show_default=True, help="Operators.")
@click.option("--seconds", default=58.0, show_default=True, help="Per plan.")
@click.option("--threads", default=2, show_default=True, help="Of CP-SAT.")
@click.option("--seed", default=0, show_default=True, help="Of graphs and search.")
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
    """Schedule graphs of growing size, and replay every plan."""
    if worker is not None:
        outcome = measure(Case(**json.loads(worker)), seconds, threads)
        click.echo(json.dumps(asdict(outcome)))
        return
    try:
        numbers = [int(size) for size in sizes.split(",")]
    except ValueError:
        raise click.BadParameter("give numbers with commas", param_hint="--sizes") from None
    outcomes: list[Outcome] = []
    picture = "schedule_scale.svg" if output is None else output.with_suffix(".svg").name
    for case in cases(numbers, seed):
        outcomes.append(measure_apart(case, seconds, threads))
        click.echo(page(outcomes[-1:], seconds, threads, picture).splitlines()[7], err=True)
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(page(outcomes, seconds, threads, picture), encoding="utf-8")
            output.with_suffix(".svg").write_text(pictured(outcomes), encoding="utf-8")
    click.echo(page(outcomes, seconds, threads, picture))
    ctx.exit(int(any(outcome.problem for outcome in outcomes)))


if __name__ == "__main__":
    main()
