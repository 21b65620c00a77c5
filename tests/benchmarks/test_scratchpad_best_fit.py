"""Baselines with addresses: valid plans, and what they cost by hand."""

from __future__ import annotations

import random

import pytest

from benchmarks.random_dags import random_dag
from benchmarks.scratchpad_baselines import baseline_bytes
from benchmarks.scratchpad_best_fit import best_fit
from compress.passes.schedule.baselines import RULES
from compress.passes.schedule.problem import Graph, Operator, Tensor
from compress.passes.schedule.replay import replay
from compress.passes.schedule.simulate import furthest


def chain(*sizes: int) -> Graph:
    operators = [Operator("o0", (), (0,))]
    operators += [Operator(f"o{i}", (i - 1,), (i,)) for i in range(1, len(sizes))]
    return Graph(tuple(operators), tuple(Tensor(f"t{i}", size) for i, size in enumerate(sizes)))


def test_what_lies_in_the_way_moves() -> None:
    """t1 comes to lie behind t0. What is free before it and behind it is too little for t2, so that
    t1 leaves and comes back at address 0: 2 x 20 bytes."""
    graph = chain(30, 20, 50)
    plan = best_fit(graph, 70, (0, 1, 2), furthest)
    assert replay(graph, plan, 70).problems == ()
    assert plan.extra_bytes == 40
    first, again = (stay for stay in plan.stays if stay.tensor == 1)
    assert (first.first, first.last, first.address) == (1, 1, 30)
    assert (again.first, again.last, again.loaded) == (2, 2, True)


def test_nothing_moves_where_there_is_room() -> None:
    graph = chain(30, 20, 50)
    plan = best_fit(graph, 100, (0, 1, 2), furthest)
    assert plan.extra_bytes == 0
    assert plan.peak <= 100
    assert replay(graph, plan, 100).problems == ()


def test_the_smallest_hole_is_taken() -> None:
    """When t3 is made there are holes of 30 and of 10 bytes."""
    operators = (
        Operator("o0", (), (0,)),
        Operator("o1", (0,), (1,)),
        Operator("o2", (), (2,)),
        Operator("o3", (1,), (3,)),
        Operator("o4", (1, 2, 3), (4,)),
    )
    sizes = (30, 20, 10, 10, 1)
    graph = Graph(operators, tuple(Tensor(f"t{i}", size) for i, size in enumerate(sizes)))
    plan = best_fit(graph, 60, tuple(range(5)), furthest)
    addresses = {stay.tensor: stay.address for stay in plan.stays}
    assert addresses == {0: 0, 1: 30, 2: 50, 3: 0, 4: 10}


def test_an_operator_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="operator o2 does not fit into 69 bytes"):
        best_fit(chain(30, 20, 50), 69, (0, 1, 2), furthest)


@pytest.mark.parametrize("seed", range(8))
def test_plans_of_random_graphs_hold(seed: int) -> None:
    graph = random_dag(40, seed)
    rng = random.Random(seed)
    capacity = round(graph.largest_working_set * rng.uniform(1, 1.6))
    order = tuple(range(40))
    for score in RULES.values():
        plan = best_fit(graph, capacity, order, score)
        checked = replay(graph, plan, capacity)
        assert checked.problems == ()
        assert checked.extra_bytes == plan.extra_bytes
    ample = sum(tensor.bytes for tensor in graph.tensors)
    assert set(baseline_bytes(graph, ample, order, placed=True).values()) == {0}
