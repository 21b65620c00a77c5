"""The scheduler as a whole: known optima, fixed orders, addresses, and what it refuses."""

from __future__ import annotations

import dataclasses
import random
import sys

import pytest
from schedule_graphs import instance_of, random_graph, random_order

from compress.errors import ModelError, UsageError
from compress.passes.schedule import retention
from compress.passes.schedule.baselines import baselines, peaks
from compress.passes.schedule.problem import Graph, Operator, Share, Tensor
from compress.passes.schedule.replay import replay
from compress.passes.schedule.solve import schedule


def checked(graph, plan, capacity):
    found = replay(graph, plan, capacity)
    assert found.problems == ()
    assert plan.packed
    assert found.extra_bytes == plan.extra_bytes
    assert plan.peak <= capacity
    return plan


@pytest.mark.parametrize("name", ["random20", "random50", "inception6"])
def test_proven_optima(name):
    pytest.importorskip("ortools")
    graph, capacity, optimum = instance_of(name)
    plan = checked(graph, schedule(graph, capacity, seconds=25), capacity)
    assert plan.extra_bytes == plan.bound == optimum
    assert plan.status == "optimal"
    assert plan.gap == 0


@pytest.mark.parametrize("name", ["random50", "nasnet3", "random100"])
def test_without_cp_sat_it_is_close(name, monkeypatch):
    monkeypatch.setattr(retention, "cp_sat_available", lambda: False)
    graph, capacity, optimum = instance_of(name)
    plan = checked(graph, schedule(graph, capacity, seconds=4), capacity)
    assert optimum <= plan.extra_bytes <= 1.05 * optimum
    assert plan.status == "feasible"
    assert plan.bound == 0


def test_what_fits_moves_nothing():
    graph, _, _ = instance_of("nasnet6")
    _, least = peaks(graph, seconds=2)
    plan = checked(graph, schedule(graph, 2 * least, seconds=5), 2 * least)
    assert (plan.extra_bytes, plan.bound, plan.status) == (0, 0, "optimal")


def test_less_memory_never_costs_less():
    graph, capacity, _ = instance_of("random20")
    costs = [
        schedule(graph, capacity + more, seconds=8).extra_bytes for more in (-3072, 0, 8192, 40000)
    ]
    assert costs == sorted(costs, reverse=True)


def test_a_given_order_is_kept():
    graph, capacity, optimum = instance_of("random20")
    order = random_order(graph, random.Random(3))
    plan = checked(graph, schedule(graph, capacity, order=order, seconds=5), capacity)
    assert plan.order == order
    assert plan.extra_bytes >= optimum


def test_an_order_that_does_not_fit_is_not_another_ones_problem():
    graph = Graph(
        (
            Operator("p", (), (0,)),
            Operator("relu", (0,), (1,), shares=(Share(0, 1),)),
            Operator("q", (0,), (2,)),
        ),
        (Tensor("a", 4), Tensor("b", 4), Tensor("c", 1)),
    )
    assert schedule(graph, 5, seconds=5).order == (0, 2, 1)
    with pytest.raises(ModelError, match="the order does not fit"):
        schedule(graph, 5, order=(0, 1, 2))


def test_no_time_at_all_still_makes_a_plan():
    graph, capacity, optimum = instance_of("random20")
    plan = checked(graph, schedule(graph, capacity, seconds=0), capacity)
    assert plan.extra_bytes >= optimum >= plan.bound


def test_orders_that_are_none():
    graph, capacity, _ = instance_of("random20")
    with pytest.raises(UsageError, match="every operator once"):
        schedule(graph, capacity, order=[0, 0, 1])
    with pytest.raises(UsageError, match="whose output it reads"):
        schedule(graph, capacity, order=range(19, -1, -1))


def test_an_operator_that_does_not_fit_is_named():
    graph, _, _ = instance_of("random20")
    worst = max(range(20), key=graph.working_set)
    with pytest.raises(ModelError, match=f"operator o{worst} alone needs 193024 bytes"):
        schedule(graph, 193023)
    assert schedule(graph, 193024, seconds=5).packed


@pytest.mark.parametrize("capacity", [0, -5])
def test_a_scratchpad_of_nothing(capacity):
    with pytest.raises(ModelError, match="cannot hold anything"):
        schedule(Graph((Operator("a", (), (0,)),), (Tensor("x", 1),)), capacity)


def test_no_operators():
    plan = schedule(Graph((), ()), 10)
    assert (plan.status, plan.stays, plan.extra_bytes) == ("optimal", (), 0)


def test_same_seed_same_plan():
    graph = random_graph(random.Random(5), 12)
    capacity = graph.largest_working_set
    plans = [schedule(graph, capacity, seconds=5, seed=1) for _ in range(2)]
    assert plans[0].extra_bytes == plans[1].extra_bytes


def test_hardly_any_time_still_makes_a_plan():
    graph, capacity, optimum = instance_of("random50")
    plan = checked(graph, schedule(graph, capacity, seconds=0.2), capacity)
    assert plan.extra_bytes >= optimum >= plan.bound


def test_baselines_move_more():
    graph, capacity, optimum = instance_of("random50")
    plans = baselines(graph, capacity, seconds=1)
    assert set(plans) == {
        "default order, Belady", "default order, greedy",
        "least peak, Belady", "least peak, greedy",
    }  # fmt: skip
    for plan in plans.values():
        assert replay(graph, plan, capacity).problems == ()
        assert plan.extra_bytes > optimum


def test_no_cp_sat_is_not_imported_where_it_is_not_wanted(monkeypatch):
    monkeypatch.setitem(sys.modules, "ortools", None)
    graph, capacity, optimum = instance_of("random20")
    plan = schedule(graph, capacity, seconds=2, proof=False)
    assert plan.extra_bytes >= optimum


def test_names_of_tensors_do_not_matter():
    graph, capacity, _ = instance_of("random20")
    renamed = dataclasses.replace(
        graph, tensors=tuple(dataclasses.replace(t, name=f"n{t.name}") for t in graph.tensors)
    )
    costs = {schedule(g, capacity, seconds=5).extra_bytes for g in (graph, renamed)}
    assert len(costs) == 1
