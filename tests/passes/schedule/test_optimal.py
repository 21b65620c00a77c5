"""The models against an exhaustive search: the same optima, on every kind of graph."""

from __future__ import annotations

import random

import pytest
from exhaustive import least_traffic
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_graphs import random_capacity, random_graph, random_order

from compress.errors import ModelError
from compress.passes.schedule.candidates import plan_of
from compress.passes.schedule.orders import exact_peak
from compress.passes.schedule.presolve import presolve
from compress.passes.schedule.replay import replay
from compress.passes.schedule.residency import best_residency
from compress.passes.schedule.solve import schedule

SEEDS = st.integers(0, 2**32)
THOROUGH = settings(max_examples=80, deadline=None)
SCHEDULED = settings(max_examples=25, deadline=None)


@THOROUGH
@given(SEEDS)
def test_retention_intervals_have_the_exhaustive_optimum(seed):
    pytest.importorskip("ortools")
    from compress.passes.schedule.retention import best_retention

    rng = random.Random(seed)
    graph = random_graph(rng)
    capacity = random_capacity(graph, rng)
    found = best_retention(presolve(graph, capacity), seconds=20)
    check(graph, capacity, found, least_traffic(graph, capacity))


@THOROUGH
@given(SEEDS, st.sampled_from(["highs", "highs", "highs", "highs", "highs", "cbc"]))
def test_residency_of_an_order_has_the_exhaustive_optimum(seed, solver):
    rng = random.Random(seed)
    graph = random_graph(rng)
    capacity = random_capacity(graph, rng)
    order = random_order(graph, rng)
    found = best_residency(presolve(graph, capacity), order, seconds=20, solver=solver)
    check(graph, capacity, found, least_traffic(graph, capacity, order))


def check(graph, capacity, found, expected):
    """The solver has the optimum, and its plan is one."""
    if expected is None:
        assert found.status == "infeasible"
        return
    assert found.status == "optimal"
    instance = presolve(graph, capacity)
    assert found.cost * instance.unit == found.bound * instance.unit == expected
    checked = replay(graph, plan_of(instance, found.candidate, found.bound), capacity)
    assert checked.problems == ()
    assert checked.extra_bytes == expected


@SCHEDULED
@given(SEEDS)
def test_a_schedule_is_valid_and_its_bound_holds(seed):
    rng = random.Random(seed)
    graph = random_graph(rng)
    capacity = random_capacity(graph, rng)
    expected = least_traffic(graph, capacity)
    if expected is None:
        with pytest.raises(ModelError, match="no order"):
            schedule(graph, capacity, seconds=5)
        return
    plan = schedule(graph, capacity, seconds=5)
    checked = replay(graph, plan, capacity)
    assert checked.problems == ()
    assert plan.packed
    assert plan.bound <= expected <= plan.extra_bytes == checked.extra_bytes


@THOROUGH
@given(SEEDS)
def test_least_peak_is_where_traffic_ends(seed):
    rng = random.Random(seed)
    graph = random_graph(rng)
    instance = presolve(graph, 10**6)
    lowest = int(exact_peak(instance).value) * instance.unit
    assert least_traffic(graph, lowest) == 0
    assert least_traffic(graph, lowest - 1) != 0
