"""Packings from the constraint solver CP-SAT, an optional extra."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from compress.passes.schedule.offsets_problem import Layout, Status


def available() -> bool:
    """Whether OR-tools is installed."""
    return find_spec("ortools") is not None


def solve(
    layout: Layout,
    capacity: int,
    *,
    seconds: float,
    threads: int = 1,
    seed: int = 0,
    fixed: Mapping[int, int] | None = None,
) -> tuple[Status, list[int] | None]:
    """(status, bases in units).

    Rectangles in the plane of sections and addresses must not overlap; on the axis of sections
    each is fixed. In every section, besides, what is live must follow one another: it says the
    same, but lets the solver reason about orders.

    Args:
        capacity: units, that nothing may end above.
        seconds: after which the solver stops.
        fixed: bases that are given, by block. "infeasible" then holds for them alone.
    """
    from ortools.sat.python import cp_model

    model: Any = cp_model.CpModel()
    bases = [
        model.new_int_var(0, capacity - height, f"base{i}")
        for i, height in enumerate(layout.heights)
    ]
    for block, base in (fixed or {}).items():
        model.add(bases[block] == base)
    across, along = [], []
    live: list[list[Any]] = [[] for _ in range(layout.sections)]
    for i, r in enumerate(layout.rectangles):
        across.append(model.new_fixed_size_interval_var(r.first, r.end - r.first, f"time{i}"))
        along.append(model.new_fixed_size_interval_var(bases[r.block] + r.low, r.size, f"at{i}"))
        for section in range(r.first, r.end):
            live[section].append(along[-1])
    model.add_no_overlap_2d(across, along)
    for intervals in live:
        model.add_no_overlap(intervals)
    solver: Any = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = max(seconds, 0.01)
    solver.parameters.num_workers = max(threads, 1)
    solver.parameters.random_seed = seed
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        return "infeasible", None
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return "packed", [solver.value(base) for base in bases]
    return "unknown", None
