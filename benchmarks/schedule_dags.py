"""Schedules graphs of operators on a scratchpad, and replays every plan.

    python -m benchmarks.schedule_dags FOLDER [--sram BYTES]

A file is JSON: `ops[i]` with `inputs` (numbers of operators) and `output_bytes`, each operator
making one tensor; `capacity` in bytes; `optimum_bytes`, where it is known: the least bytes that are
stored and loaded, addresses left out. A result is ok if the replay finds nothing wrong with the
plan and, where the optimum is known, neither its value nor its bound is on the wrong side of it.
Exit codes: 0, 1 something is not ok, 2 no files, 3 a file is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.vectors import VectorError, print_rows, vector_files, verdict
from compress.errors import CompressError
from compress.passes.schedule.problem import Graph, Operator, Plan, Tensor
from compress.passes.schedule.replay import replay
from compress.passes.schedule.solve import schedule

TITLES = (
    "file", "ops", "capacity", "value", "bound", "gap", "optimum", "peak", "seconds", "result",
)  # fmt: skip


@dataclass(frozen=True)
class Vector:
    """One file."""

    path: Path
    graph: Graph
    capacity: int | None
    optimum: int | None


def read_vector(path: Path) -> Vector:
    """
    Raises:
        VectorError: the file is not such a graph.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is not an object")
        operators, tensors = [], []
        for number, each in enumerate(content["ops"]):
            inputs = tuple(dict.fromkeys(_whole(i) for i in each["inputs"]))
            if any(not 0 <= i < len(content["ops"]) for i in inputs):
                raise ValueError(f"operator {number} reads one that does not exist")
            operators.append(Operator(f"#{number}", inputs, (number,)))
            tensors.append(Tensor(f"#{number}", _whole(each["output_bytes"])))
        capacity, optimum = content.get("capacity"), content.get("optimum_bytes")
        return Vector(
            path,
            Graph(_in_order(operators), tuple(tensors)),
            None if capacity is None else _whole(capacity),
            None if optimum is None else _whole(optimum),
        )
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise VectorError(path, f"cannot be read as JSON: {error}") from error
    except KeyError as error:
        raise VectorError(path, f"{error} is missing") from error
    except (TypeError, ValueError, OverflowError, CompressError) as error:
        raise VectorError(path, f"is not a graph of operators: {error}") from error


def _in_order(operators: Sequence[Operator]) -> tuple[Operator, ...]:
    """As the file has them; sorted so that inputs come first where it does not."""
    made: set[int] = set()
    ordered: list[Operator] = []
    waiting = list(operators)
    while waiting:
        late = [o for o in waiting if not made.issuperset(o.inputs)]
        if len(late) == len(waiting):
            raise ValueError(f"operator {late[0].name} is part of a cycle")
        for operator in waiting:
            if made.issuperset(operator.inputs):
                ordered.append(operator)
                made.update(operator.outputs)
        waiting = [o for o in waiting if not made.issuperset(o.outputs)]
    return tuple(ordered)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is not a whole number")
    return value


def judge(vector: Vector, plan: Plan, capacity: int) -> tuple[bool, str]:
    """Whether a plan is right, and what to say about it."""
    if not plan.order:
        return False, "NOT ok: no plan was found in time"
    checked = replay(vector.graph, plan, capacity)
    if checked.problems:
        return False, f"NOT ok: {checked.problems[0]}"
    if not plan.packed:
        return False, "NOT ok: the plan has no addresses"
    if plan.bound > checked.extra_bytes:
        return False, "NOT ok: the bound is above the value"
    if vector.optimum is None or capacity != vector.capacity:
        return True, f"ok, {plan.status}"
    if checked.extra_bytes < vector.optimum:
        return False, "NOT ok: below the file's optimum"
    if plan.bound > vector.optimum:
        return False, "NOT ok: the bound is above the file's optimum"
    if checked.extra_bytes > vector.optimum:
        above = checked.extra_bytes / vector.optimum - 1 if vector.optimum else float("inf")
        return True, f"ok, {plan.status}, {above:.1%} above the optimum"
    return True, f"ok, {plan.status}"


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--sram", type=click.IntRange(min=1), help="Bytes, instead of the files' capacities.")
@click.option("--seconds", default=60.0, show_default=True, help="Per file.")
@click.option("--threads", default=2, show_default=True, help="Of CP-SAT.")
@click.option("--seed", default=0, show_default=True)
@click.option("--no-cp-sat", is_flag=True, help="Annealing and the fixed-order program alone.")
@click.pass_context
def main(
    ctx: click.Context,
    path: Path,
    sram: int | None,
    seconds: float,
    threads: int,
    seed: int,
    no_cp_sat: bool,
) -> None:
    """Schedule every graph at PATH, a folder or one file."""
    vectors = [read_vector(file) for file in vector_files(path, ".json")]
    rows: list[Sequence[str]] = []
    failures = 0
    for vector in vectors:
        capacity = sram or vector.capacity
        if capacity is None:
            raise VectorError(vector.path, "'capacity' is missing, and --sram is not given")
        known = "" if vector.optimum is None or sram else str(vector.optimum)
        head = (vector.path.name, str(len(vector.graph.operators)), str(capacity))
        try:
            plan = schedule(
                vector.graph,
                capacity,
                seconds=seconds,
                threads=threads,
                seed=seed,
                proof=not no_cp_sat,
            )
        except CompressError as error:
            # a file whose own capacity is too small is wrong; with --sram that is an answer
            failures += sram is None
            rows.append((*head, "", "", "", known, "", "", f"no plan: {error}"))
            continue
        ok, text = judge(vector, plan, capacity)
        failures += not ok
        rows.append(
            (
                *head,
                str(plan.extra_bytes),
                str(plan.bound),
                f"{plan.gap:.1%}",
                known,
                str(plan.peak),
                f"{plan.seconds:.1f}",
                text,
            )
        )
    print_rows(TITLES, rows)
    ctx.exit(verdict(len(rows), failures, len(vectors)))


if __name__ == "__main__":
    main()
