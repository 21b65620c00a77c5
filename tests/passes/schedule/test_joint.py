"""The published joint program has the exhaustive optimum of small graphs."""

from __future__ import annotations

import random

import pytest
from exhaustive import least_traffic
from schedule_graphs import random_capacity, random_graph

from compress.passes.schedule.candidates import plan_of
from compress.passes.schedule.joint import best_joint
from compress.passes.schedule.presolve import presolve
from compress.passes.schedule.problem import Graph, Operator
from compress.passes.schedule.replay import replay
from compress.passes.schedule.solve import schedule


def without_shares(graph):
    operators = tuple(Operator(o.name, o.inputs, o.outputs, o.workspace) for o in graph.operators)
    return Graph(operators, graph.tensors)


def instances_with_traffic(count):
    found, seed = [], 0
    while len(found) < count:
        rng = random.Random(seed)
        graph = without_shares(random_graph(rng, 7))
        capacity = random_capacity(graph, rng)
        traffic = least_traffic(graph, capacity)
        if traffic:
            found.append((graph, capacity, traffic))
        seed += 1
    return found


@pytest.mark.parametrize("solver", ["highs", "cbc"])
def test_it_has_the_exhaustive_optimum(solver):
    for graph, capacity, traffic in instances_with_traffic(4):
        instance = presolve(graph, capacity)
        found = best_joint(instance, seconds=20, solver=solver)
        assert found.status == "optimal"
        assert found.cost * instance.unit == traffic
        checked = replay(graph, plan_of(instance, found.candidate, found.bound), capacity)
        assert checked.problems == ()
        assert checked.extra_bytes == traffic


def test_with_addresses_it_is_between_the_capacity_alone_and_the_schedule():
    for graph, capacity, traffic in instances_with_traffic(2):
        instance = presolve(graph, capacity)
        found = best_joint(instance, seconds=20, addresses=True)
        plan = schedule(graph, capacity, seconds=5)
        assert found.status == "optimal"
        assert traffic <= found.cost * instance.unit <= plan.extra_bytes


def test_time_that_runs_out_is_not_infeasible():
    rng = random.Random(0)
    graph = random_graph(rng, 24, plain=True)
    instance = presolve(graph, graph.largest_working_set)
    assert best_joint(instance, seconds=0.05).status in {"unknown", "feasible"}
