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
from compress.passes.schedule.clock import Clock
from compress.passes.schedule.divide import Proof, divide
from compress.passes.schedule.mend import mend
from compress.passes.schedule.placing import place
from compress.passes.schedule.presolve import presolve
from compress.passes.schedule.repair import repair
from compress.passes.schedule.replay import replay
from compress.passes.schedule.windows import restricted, spliced, windows_of

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
    found = divide(instance, known, seconds=20, window=15)
    assert found.candidate.cost * instance.unit == found.bound * instance.unit == optimum


def test_orders_of_windows_improve_a_bad_plan():
    """Before there is one window that is the whole graph."""
    graph, capacity, optimum = instance_of("random100")
    instance = presolve(graph, capacity)
    known = everything_leaves(instance, range(100))
    proof = Proof(instance, known, Clock(20), threads=1, seed=0)
    proof.windows = windows_of(instance, known, 30)
    for number in range(len(proof.windows)):
        proof.solve(number, proof.windows[number], 3)
    assert len(proof.windows) >= 3
    assert optimum <= proof.best.cost * instance.unit < known.cost * instance.unit / 2
    assert proof.bound * instance.unit <= optimum
    checked = replay(graph, plan_of(instance, proof.best, 0), capacity)
    assert checked.problems == ()
    assert checked.extra_bytes == proof.best.cost * instance.unit


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_a_window_owns_what_is_read_and_made_by_its_operators(seed):
    rng = random.Random(seed)
    graph = random_graph(rng)
    instance = presolve(graph, graph.largest_working_set)
    known = everything_leaves(instance, range(instance.operators))
    windows = windows_of(instance, known, 3)
    owned = sorted(t for w in windows for t in w.own)
    assert owned == [t for t, readers in enumerate(instance.consumers) if readers]
    for window in windows:
        for tensor in window.own:
            assert window.operators.issuperset(instance.consumers[tensor])
            assert instance.producers[tensor] in {None, *window.operators}
        taken = [o for o in known.order if o in window.operators]
        assert spliced(known, window, range(len(taken))) == known.order


def test_repair_ends_with_a_plan_that_can_be_placed():
    graph, _, _ = instance_of("random100")
    capacity = graph.largest_working_set
    instance = presolve(graph, capacity)
    known = orders.search(instance, orders.greedy_peak(instance), seconds=0.5)[0]
    mended = repair(instance, known, capacity, seconds=2)
    assert mended.cost < everything_leaves(instance, known.order).cost
    assert replay(graph, plan_of(instance, mended, 0), capacity).problems == ()


def test_mending_changes_little():
    """Where all fits but cannot be placed, single tensors leave."""
    graph, _, _ = instance_of("random100")
    capacity = graph.largest_working_set
    instance = presolve(graph, capacity)
    known = orders.search(instance, orders.greedy_peak(instance), seconds=1)[0]
    mended, packed = mend(instance, known, capacity, seconds=15)
    assert packed
    assert place(instance, plan_of(instance, mended, 0), capacity, seconds=5) is not None
    assert known.cost <= mended.cost <= 1.2 * known.cost
    assert replay(graph, plan_of(instance, mended, 0), capacity).problems == ()
