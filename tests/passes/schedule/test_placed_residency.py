"""Residency and addresses together: valid plans, optimal wherever addresses do not decide."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_graphs import random_capacity, random_graph, random_order

pytest.importorskip("ortools")

from compress.passes.schedule.candidates import plan_of
from compress.passes.schedule.placed_residency import best_placed
from compress.passes.schedule.placing import place
from compress.passes.schedule.presolve import presolve
from compress.passes.schedule.problem import Graph, Operator, Share, Tensor
from compress.passes.schedule.replay import replay
from compress.passes.schedule.residency import best_residency
from compress.passes.schedule.solve import schedule


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_plans_are_valid_and_cost_what_addresses_force(seed):
    rng = random.Random(seed)
    graph = random_graph(rng)
    capacity = random_capacity(graph, rng)
    order = random_order(graph, rng)
    instance = presolve(graph, capacity)
    apart = best_residency(instance, order, seconds=20)
    found = best_placed(instance, order, seconds=20)
    if apart.candidate is None:
        assert found.plan is None
        return
    assert found.plan is not None
    checked = replay(graph, found.plan, capacity)
    assert checked.problems == ()
    assert checked.extra_bytes == found.plan.extra_bytes
    assert found.plan.packed
    least = apart.candidate.cost * instance.unit
    assert found.plan.extra_bytes >= least
    easy = place(instance, plan_of(instance, apart.candidate, 0), capacity, seconds=5)
    if easy is not None:
        assert found.plan.extra_bytes == least


def test_parts_that_cannot_lie_inside_make_room_otherwise():
    """Concatenations of concatenations, as dense blocks have: sums of bytes fit, addresses do not
    where every part is to lie inside two results."""
    tensors = [Tensor("x", 4, external=True)]
    operators = []
    before = 0
    for number in range(3):
        made, joined = len(tensors), len(tensors) + 1
        tensors += [Tensor(f"a{number}", 2), Tensor(f"c{number}", tensors[before].bytes + 2)]
        operators.append(Operator(f"make{number}", (before,), (made,)))
        shares = (Share(before, joined), Share(made, joined, tensors[before].bytes))
        operators.append(Operator(f"join{number}", (before, made), (joined,), shares=shares))
        before = joined
    graph = Graph(tuple(operators), tuple(tensors))
    capacity = tensors[before].bytes
    plan = schedule(graph, capacity, seconds=20)
    assert plan.extra_bytes == 0
    assert replay(graph, plan, capacity).problems == ()


def test_a_hint_changes_nothing_but_the_way():
    rng = random.Random(5)
    graph = random_graph(rng)
    capacity = random_capacity(graph, rng)
    order = random_order(graph, rng)
    instance = presolve(graph, capacity)
    alone = best_placed(instance, order, seconds=20)
    assert alone.plan is not None
    again = best_placed(instance, order, seconds=20, hint=alone.plan)
    assert again.plan is not None
    assert again.plan.extra_bytes == alone.plan.extra_bytes
    assert again.status == alone.status == "optimal"
