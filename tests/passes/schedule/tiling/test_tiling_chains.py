"""The dynamic program against all plans, and what must hold of any plan."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from striped_graphs import cheapest, graphs

from benchmarks.tiling import mobilenet_v2
from compress.errors import ModelError
from compress.passes.schedule.tiling.chains import plan_order, smallest_scratchpad
from compress.passes.schedule.tiling.groups import TilingOptions
from compress.passes.schedule.tiling.operators import StripedGraph


@settings(max_examples=60, deadline=None)
@given(graphs(most=4, tallest=5), st.floats(0.0, 1.5), st.booleans())
def test_no_plan_moves_less(graph: StripedGraph, share: float, double_buffer: bool) -> None:
    options = TilingOptions(double_buffer=double_buffer, weight_blocks=1)
    least, _ = smallest_scratchpad(graph, options)
    most = max(graph.working_set(n) for n in range(len(graph.operators)))
    capacity = int(least + share * max(most - least, 0))
    plan = plan_order(graph, capacity, options)
    assert plan.exact
    assert plan.off_chip_bytes == cheapest(graph, capacity, options)


@settings(max_examples=60, deadline=None)
@given(graphs(most=7), st.booleans())
def test_more_memory_never_costs_more(graph: StripedGraph, double_buffer: bool) -> None:
    options = TilingOptions(double_buffer=double_buffer)
    least, _ = smallest_scratchpad(graph, options)
    most = sum(plane.bytes for plane in graph.planes.values())
    most += sum(operator.weight_bytes for operator in graph.operators)
    known = None
    for step in range(5):
        capacity = least + step * (most - least) // 4
        plan = plan_order(graph, capacity, options)
        assert plan.peak <= capacity
        assert plan.off_chip_bytes == sum(group.off_chip_bytes for group in plan.groups)
        assert plan.extra_bytes >= 0
        assert known is None or plan.off_chip_bytes <= known
        known = plan.off_chip_bytes
    assert plan.extra_bytes == 0


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_below_the_smallest_scratchpad_nothing_fits(graph: StripedGraph) -> None:
    least, _ = smallest_scratchpad(graph)
    assert plan_order(graph, least).peak <= least
    # of several that need as much, either may be named
    with pytest.raises(ModelError, match=rf"operator \w+ needs {least} bytes"):
        plan_order(graph, least - 1)


@settings(max_examples=30, deadline=None)
@given(graphs(most=8), st.integers(1, 3))
def test_longer_groups_never_cost_more(graph: StripedGraph, most: int) -> None:
    least, _ = smallest_scratchpad(graph, TilingOptions(most_operators=most))
    short = plan_order(graph, least, TilingOptions(most_operators=most))
    long = plan_order(graph, least, TilingOptions(most_operators=most + 2))
    assert long.off_chip_bytes <= short.off_chip_bytes


@pytest.mark.parametrize(
    ("skips", "kib", "fused", "alone"),
    [
        (False, 128, 2966, 13234),
        (False, 256, 2347, 10089),
        (False, 512, 2347, 6733),
        (False, 1024, 2347, 4699),
        (True, 128, 3000, 13548),
        (True, 256, 2347, 10089),
    ],
)
def test_mobilenet_v2(skips: bool, kib: int, fused: int, alone: int) -> None:
    """KiB of the network without its classifier: fused within 1.3x of what any plan moves."""
    graph = mobilenet_v2(skips=skips)
    assert graph.compulsory_bytes == 2_403_008
    plan = plan_order(graph, kib * 1024)
    assert plan.exact
    assert plan.off_chip_bytes <= fused * 1024
    single = plan_order(graph, kib * 1024, TilingOptions(most_operators=1))
    assert 0.99 * alone * 1024 < single.off_chip_bytes <= alone * 1024
