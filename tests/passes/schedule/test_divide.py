"""Windows of large graphs: their bounds hold, and what they improve stays valid."""

from __future__ import annotations

import random

import pytest
from exhaustive import least_traffic
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_graphs import instance_of, random_capacity, random_graph

from compress.passes.schedule import orders
from compress.passes.schedule.candidates import everything_leaves, plan_of
from compress.passes.schedule.divide import improve, prove, restricted
from compress.passes.schedule.presolve import presolve
from compress.passes.schedule.repair import repair
from compress.passes.schedule.replay import replay

pytest.importorskip("ortools")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_what_windows_cost_is_a_lower_bound(seed):
    """Tensors of a tiny graph are divided at random: the parts' optima add up to no more."""
    from compress.passes.schedule.retention import best_retention

    rng = random.Random(seed)
    graph = random_graph(rng)
    capacity = random_capacity(graph, rng)
    traffic = least_traffic(graph, capacity)
    if traffic is None:
        return
    instance = presolve(graph, capacity)
    halves = [[], []]
    for tensor, readers in enumerate(instance.consumers):
        if readers:
            rng.choice(halves).append(tensor)
    total = 0
    for own in halves:
        part = restricted(instance, range(instance.operators), own)
        total += best_retention(part, seconds=10).bound * part.unit * instance.unit
    assert total <= traffic


def test_small_windows_grow_until_the_proof_is_complete():
    graph, capacity, optimum = instance_of("random50")
    instance = presolve(graph, capacity)
    known = orders.search(instance, orders.greedy_peak(instance), seconds=1)[0]
    found = prove(instance, known, seconds=20, window=15)
    assert found.candidate.cost * instance.unit == found.bound * instance.unit == optimum


def test_windows_improve_a_bad_plan():
    graph, capacity, optimum = instance_of("random50")
    instance = presolve(graph, capacity)
    known = everything_leaves(instance, range(50))
    better = improve(instance, known, seconds=6, window=24)
    assert optimum <= better.cost * instance.unit < known.cost * instance.unit / 2
    checked = replay(graph, plan_of(instance, better, 0), capacity)
    assert checked.problems == ()
    assert checked.extra_bytes == better.cost * instance.unit


def test_repair_ends_with_a_plan_that_can_be_placed():
    graph, _, _ = instance_of("random100")
    capacity = graph.largest_working_set
    instance = presolve(graph, capacity)
    known = orders.search(instance, orders.greedy_peak(instance), seconds=0.5)[0]
    mended = repair(instance, known, capacity, seconds=2)
    assert mended.cost < everything_leaves(instance, known.order).cost
    assert replay(graph, plan_of(instance, mended, 0), capacity).problems == ()
