"""Integer programs in a process of their own: values, bounds, and time that runs out."""

from __future__ import annotations

import itertools
import random
import time

import pulp
import pytest

from compress.passes.schedule import bounded


def cover(items=6, seed=0):
    rng = random.Random(seed)
    model = pulp.LpProblem("cover", pulp.LpMinimize)
    xs = [pulp.LpVariable(f"x{i}", cat="Binary") for i in range(items)]
    sizes = [rng.randint(10, 99) for _ in xs]
    worth = [rng.randint(10, 99) for _ in xs]
    model += pulp.lpSum(w * x for w, x in zip(worth, xs, strict=True))
    model += pulp.lpSum(s * x for s, x in zip(sizes, xs, strict=True)) >= sum(sizes) / 2
    return model


def least():
    """Of the small program, from all of its solutions."""
    model = cover()
    (row,) = model.constraints.values()
    xs = model.variables()
    return min(
        sum(model.objective[x] for x in chosen)
        for count in range(len(xs) + 1)
        for chosen in itertools.combinations(xs, count)
        if sum(row[x] for x in chosen) >= -row.constant
    )


@pytest.mark.parametrize("solver", ["highs", "cbc"])
@pytest.mark.parametrize("solve", [bounded.solve_bounded, bounded.solve_apart])
def test_both_solvers_agree(solver, solve):
    outcome = solve(cover(), seconds=20, solver=solver)
    assert outcome.proven
    assert outcome.whole_bound == least()
    assert not outcome.infeasible


def test_what_has_no_solution():
    model = cover()
    model += pulp.lpSum(model.variables()) <= 0
    outcome = bounded.solve_apart(model, seconds=20, solver="highs")
    assert outcome.infeasible
    assert outcome.values is None


def test_an_overrunning_solver_is_ended(monkeypatch):
    monkeypatch.setattr(bounded, "GRACE_S", -0.99)
    started = time.monotonic()
    outcome = bounded.solve_apart(cover(200), seconds=1.0, solver="highs")
    assert time.monotonic() - started < 5
    assert outcome.values is None
    assert not outcome.infeasible


def test_a_failing_solver_is_replaced(monkeypatch):
    tried = []

    def fail(model, seconds, solver):
        tried.append(solver)

    monkeypatch.setattr(bounded, "_apart", fail)
    outcome = bounded.solve_apart(cover(), seconds=1, solver="highs")
    assert tried == ["highs", "cbc"]
    assert outcome == bounded.NOTHING
