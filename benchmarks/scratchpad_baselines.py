"""The whole-tensor scheduler against COSMA's four baselines, on random graphs and real networks.

    python -m benchmarks.scratchpad_baselines -o benchmarks/results/scratchpad.md

Baselines (arXiv 2311.18246): the graph's own order and the one of least peak, each with Belady's
and with the greedy replacement. Scratchpads: M_R, what the largest operator needs; M_P, the least
peak of any order that was found; M_H, their mean. Data of 8 bits; weights take no scratchpad.

What baselines move is counted twice: as if everything could be placed, and with addresses from a
best-fit allocator (`benchmarks.scratchpad_best_fit`). Where tensors have to leave, none leaves that
proves unnecessary. Ours is counted by the replay of a plan with addresses, once on the graph as the
baselines have it and once with shares, inputs that may lie inside outputs, at the same sizes. Exit
codes: 0, 1 a replay finds a plan wrong.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from benchmarks.schedule_dags import read_vector
from benchmarks.scratchpad_best_fit import best_fit
from benchmarks.scratchpad_graphs import NAMES, build, without_shares
from benchmarks.scratchpad_report import Ours, Row, page
from benchmarks.vectors import vector_files
from compress.passes.schedule.baselines import RULES
from compress.passes.schedule.candidates import Candidate, plan_of
from compress.passes.schedule.orders import least_peak
from compress.passes.schedule.presolve import presolve
from compress.passes.schedule.problem import Graph, Plan
from compress.passes.schedule.replay import replay
from compress.passes.schedule.simulate import Score, simulate
from compress.passes.schedule.solve import schedule

VECTORS = Path(__file__).resolve().parents[1] / "tests" / "data" / "schedule_dags"
UNLIMITED = 2**62
"""Bytes."""


def rows_of(
    name: str, group: str, graph: Graph, *, seconds: float, threads: int, seed: int
) -> Iterator[Row]:
    """A graph on all sizes."""
    plain = without_shares(graph)
    lowest = _least_peak(plain, seed)
    for size, capacity in sizes(plain.largest_working_set, lowest[0]).items():
        shared = None
        if graph != plain:
            shared = run(graph, capacity, seconds=seconds, threads=threads, seed=seed)
        yield Row(
            name,
            group,
            len(graph.operators),
            graph.compulsory_bytes,
            size,
            capacity,
            baseline_bytes(plain, capacity, lowest[1]),
            baseline_bytes(plain, capacity, lowest[1], placed=True),
            run(plain, capacity, seconds=seconds, threads=threads, seed=seed),
            shared,
        )


def sizes(largest: int, peak: int) -> dict[str, int]:
    """Scratchpads in bytes from M_R and M_P."""
    if peak <= largest:
        return {"M_R = M_P": largest}
    return {"M_R": largest, "M_H": (largest + peak) // 2, "M_P": peak}


def baseline_bytes(
    graph: Graph, capacity: int, lowest: tuple[int, ...], *, placed: bool = False
) -> dict[str, int]:
    """Extra bytes of the four baselines, each checked by the replay.

    Args:
        lowest: the order of least peak: the one that M_P is the peak of, so that the baseline
            needs nothing there.
        placed: with addresses.

    Raises:
        RuntimeError: the replay finds a baseline wrong.
    """
    orders = {"default": tuple(range(len(graph.operators))), "least peak": lowest}
    result = {}
    for order_name, order in orders.items():
        for rule, score in RULES.items():
            name = f"{order_name}, {rule}"
            run_one = best_fit if placed else _ideal
            plan = run_one(graph, capacity, order, score)
            checked = replay(graph, plan, capacity)
            if checked.problems or checked.extra_bytes != plan.extra_bytes:
                raise RuntimeError(f"{name}: {checked.problems or checked.extra_bytes}")
            result[name] = checked.extra_bytes
    return result


def _ideal(graph: Graph, capacity: int, order: tuple[int, ...], score: Score) -> Plan:
    """Without addresses."""
    instance = presolve(graph, capacity)
    found = simulate(instance, order, score)
    return plan_of(instance, Candidate(found.cost, order, found.loads, "replacement"), 0)


def run(graph: Graph, capacity: int, *, seconds: float, threads: int, seed: int) -> Ours:
    """The scheduler, replayed."""
    cpu, started = _cpu_seconds(), time.monotonic()
    plan = schedule(graph, capacity, seconds=seconds, threads=threads, seed=seed)
    cpu, taken = _cpu_seconds() - cpu, time.monotonic() - started
    if not plan.order:
        return Ours(0, plan.bound, plan.status, "", 0, False, taken, cpu, ("there is no plan",))
    checked = replay(graph, plan, capacity)
    problems = list(checked.problems)
    if checked.extra_bytes != plan.extra_bytes:
        problems.append(f"the plan says {plan.extra_bytes} bytes, it moves {checked.extra_bytes}")
    return Ours(
        checked.extra_bytes,
        plan.bound,
        plan.status,
        plan.method,
        checked.peak,
        plan.packed,
        taken,
        cpu,
        tuple(problems),
    )


def _least_peak(graph: Graph, seed: int, seconds: float = 5.0) -> tuple[int, tuple[int, ...]]:
    """(M_P in bytes, its order)."""
    instance = presolve(graph, UNLIMITED)
    found = least_peak(instance, seconds=seconds, seed=seed, enough=max(instance.needs))
    return int(found.value) * instance.unit, found.order


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


def _graphs(vectors: Path, only: tuple[str, ...]) -> Iterator[tuple[str, str, Graph]]:
    """(name, group, graph)."""
    for path in vector_files(vectors, ".json"):
        if not only or path.stem in only:
            yield path.stem, "test vectors", read_vector(path).graph
    for name in NAMES:
        if not only or name in only:
            yield name, "real networks", build(name)


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Markdown, JSON beside it.")
@click.option("--vectors", type=click.Path(path_type=Path), default=VECTORS, show_default=False)
@click.option("--only", multiple=True, help="A graph's name; may be given several times.")
@click.option("--seconds", default=30.0, show_default=True, help="Per plan.")
@click.option("--threads", default=2, show_default=True, help="Of CP-SAT.")
@click.option("--seed", default=0, show_default=True)
@click.pass_context
def main(
    ctx: click.Context,
    output: Path | None,
    vectors: Path,
    only: tuple[str, ...],
    seconds: float,
    threads: int,
    seed: int,
) -> None:
    """Compare on every graph and size."""
    rows: list[Row] = []
    for name, group, graph in _graphs(vectors, only):
        for row in rows_of(name, group, graph, seconds=seconds, threads=threads, seed=seed):
            rows.append(row)
            click.echo(json.dumps(asdict(row)), err=True)
            if output is not None:
                _write(output, rows, seconds, threads)
    click.echo(page(rows, seconds, threads))
    runs = [run for row in rows for run in (row.plain, row.shared) if run is not None]
    ctx.exit(int(any(run.problems for run in runs)))


def _write(output: Path, rows: list[Row], seconds: float, threads: int) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page(rows, seconds, threads), encoding="utf-8")
    records = json.dumps([asdict(row) for row in rows], indent=1)
    output.with_suffix(".json").write_text(records + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
