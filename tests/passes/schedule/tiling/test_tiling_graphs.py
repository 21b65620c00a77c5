"""Orders, and plans that fall back to what fits."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from striped_graphs import graphs

from compress.errors import ModelError, UsageError
from compress.passes.schedule.tiling.chains import plan_order
from compress.passes.schedule.tiling.graphs import least_live_order, tile
from compress.passes.schedule.tiling.operators import Plane, StripedGraph, StripedOperator


def branches(depth: int = 3, width: int = 4) -> StripedGraph:
    """Branches that grow, then shrink, and cannot be fused: listed level by level."""
    planes = {"x": Plane("x", 2, 8, 8, external=True)}
    operators = []
    for level in range(depth):
        for branch in range(width):
            name = f"b{branch}.{level}"
            source = "x" if level == 0 else f"b{branch}.{level - 1}"
            planes[name] = Plane(name, 1 if level == depth - 1 else 16, 8, 8)
            operators.append(StripedOperator(name, "whole", (source,), (name,)))
    last = tuple(f"b{branch}.{depth - 1}" for branch in range(width))
    planes["y"] = Plane("y", width, 8, 8, kept=True)
    operators.append(StripedOperator("y", "pointwise", last, ("y",)))
    return StripedGraph(tuple(operators), planes)


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_an_order_is_valid(graph: StripedGraph) -> None:
    order = least_live_order(graph)
    assert sorted(order) == list(range(len(graph.operators)))
    graph.reordered(order)


def test_branches_run_one_after_the_other() -> None:
    graph = branches()
    tiling = tile(graph, 3000)
    assert tiling.plan.off_chip_bytes < plan_order(graph, 3000).off_chip_bytes
    assert tiling.plan.extra_bytes == 0
    assert tiling.program.off_chip_bytes == tiling.plan.off_chip_bytes
    names = [operator.name for operator in tiling.plan.graph.operators]
    assert names == [graph.operators[i].name for i in tiling.order]


def test_orders_of_others_are_tried() -> None:
    graph = branches()
    order = (*(4 * level + branch for branch in range(4) for level in range(3)), 12)
    tiling = tile(graph, 2200, orders=[order])
    assert tiling.plan.off_chip_bytes <= plan_order(graph.reordered(order), 2200).off_chip_bytes


def test_one_buffer_where_two_do_not_fit() -> None:
    planes = {v: Plane(v, 4, 8, 8, external=v == "x", kept=v == "y") for v in "xy"}
    graph = StripedGraph((StripedOperator("y", "pointwise", ("x",), ("y",)),), planes)
    assert tile(graph, 4 * 32).double_buffer
    assert not tile(graph, 4 * 32 - 1).double_buffer
    with pytest.raises(ModelError, match="63 bytes is too small: operator y needs 64 bytes"):
        tile(graph, 2 * 32 - 1)


@pytest.mark.parametrize("capacity", [0, -5])
def test_no_scratchpad(capacity: int) -> None:
    with pytest.raises(UsageError, match="positive"):
        tile(branches(), capacity)
