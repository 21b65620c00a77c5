"""What is known at once is never more than what is needed, and time limits leave a plan."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from striped_graphs import graphs

from benchmarks.tiling import mobilenet_v2
from compress.errors import ModelError
from compress.passes.schedule.tiling.bounds import least_room
from compress.passes.schedule.tiling.chains import fits, plan_order, smallest_scratchpad
from compress.passes.schedule.tiling.graphs import tile
from compress.passes.schedule.tiling.groups import TilingOptions
from compress.passes.schedule.tiling.operators import StripedGraph

PAST = -math.inf
"""A deadline."""


@settings(max_examples=60, deadline=None)
@given(graphs(), st.booleans(), st.sampled_from([1, 16]))
def test_what_an_operator_needs_at_least(
    graph: StripedGraph, double_buffer: bool, align: int
) -> None:
    options = TilingOptions(double_buffer=double_buffer, align=align)
    known, _ = least_room(graph, options)
    needed, _ = smallest_scratchpad(graph, options)
    assert 0 < known <= needed
    assert fits(graph, needed, options)
    assert not fits(graph, needed - 1, options)
    assert smallest_scratchpad(graph, options, deadline=PAST)[0] >= needed


@settings(max_examples=60, deadline=None)
@given(graphs(), st.floats(1.0, 3.0), st.sampled_from([4, 16, 64]))
def test_addresses_are_multiples(graph: StripedGraph, share: float, align: int) -> None:
    options = TilingOptions(align=align)
    capacity = int(share * smallest_scratchpad(graph, options)[0])
    tiling = tile(graph, capacity, options)
    program = tiling.program
    assert program.align == align
    assert all(buffer.address % align == 0 for buffer in program.buffers)
    assert program.peak <= capacity
    assert program.off_chip_bytes == tiling.plan.off_chip_bytes
    assert tiling.plan.off_chip_bytes >= graph.compulsory_bytes
    assert (
        plan_order(graph, capacity).off_chip_bytes
        <= plan_order(graph, capacity, options).off_chip_bytes
    )


def test_a_first_plan_is_found_however_late_it_is() -> None:
    graph = mobilenet_v2()
    late = tile(graph, 96 * 1024, deadline=PAST)
    assert late.program.peak <= 96 * 1024
    assert late.program.off_chip_bytes == late.plan.off_chip_bytes
    assert late.plan.off_chip_bytes >= tile(graph, 96 * 1024).plan.off_chip_bytes


def test_nothing_goes_on_if_it_is_not_to() -> None:
    graph = mobilenet_v2()
    with pytest.raises(TimeoutError):
        tile(graph, 96 * 1024, deadline=PAST, finish=False)
    with pytest.raises(TimeoutError):
        plan_order(graph, 96 * 1024, deadline=PAST, finish=False)


def test_no_time_does_not_mean_that_nothing_fits() -> None:
    with pytest.raises(ModelError, match="needs"):
        tile(mobilenet_v2(), 1024, deadline=PAST, finish=False)
