"""Buffers of fused groups are as large as they have to be, and no larger."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from striped_graphs import graphs, stripes_by_definition

from compress.passes.schedule.tiling.groups import TilingOptions, stripes_ending_at
from compress.passes.schedule.tiling.operators import Plane, StripedGraph, StripedOperator
from compress.passes.schedule.tiling.rows import Window


@settings(max_examples=150, deadline=None)
@given(graphs(), st.booleans())
def test_rolling_buffers_hold_what_is_read_again(graph: StripedGraph, double_buffer: bool) -> None:
    options = TilingOptions(double_buffer=double_buffer)
    for stop in range(1, len(graph.operators) + 1):
        for stripes in stripes_ending_at(graph, stop, None, options):
            played = stripes_by_definition(graph, stripes.start, stop, stripes.count, options)
            assert played.rows == stripes.inside | stripes.arriving | stripes.leaving
            assert played.runs == stripes.runs
            assert played.arrived == {v: stripes.ends[v][-1] for v in stripes.arriving}
            assert stripes.inside_bytes == sum(
                rows * graph.planes[v].row_bytes for v, rows in stripes.inside.items()
            )


def residual(height: int = 12) -> StripedGraph:
    """An inverted residual: the addition is behind the depthwise convolution's window."""
    planes = {
        name: Plane(name, channels, height, height, external=name == "x", kept=name == "sum")
        for name, channels in (
            ("x", 4),
            ("expand", 24),
            ("depthwise", 24),
            ("project", 4),
            ("sum", 4),
        )
    }
    operators = (
        StripedOperator("expand", "window", ("x",), ("expand",), weights=(("a", 96),), blocks=24),
        StripedOperator(
            "depthwise",
            "window",
            ("expand",),
            ("depthwise",),
            Window(3, 1, 1, 1),
            (("b", 216),),
            24,
        ),
        StripedOperator("project", "window", ("depthwise",), ("project",), weights=(("c", 96),)),
        StripedOperator("sum", "pointwise", ("x", "project"), ("sum",)),
    )
    return StripedGraph(operators, planes)


def fused(graph: StripedGraph, count: int, **options: bool):
    found = stripes_ending_at(graph, len(graph.operators), None, TilingOptions(**options))
    return next(g for g in found if g.start == 0 and g.count == count)


def test_an_inverted_residual_row_by_row() -> None:
    group = fused(residual(), 12, double_buffer=False)
    assert group.inside == {"expand": 3, "depthwise": 1, "project": 1}
    # the addition comes one row after the expansion that reads the same rows
    assert group.arriving == {"x": 2}
    assert group.leaving == {"sum": 1}
    assert group.runs == (11, 12, 12, 12)


def test_double_buffers_take_a_stripe_more() -> None:
    single, double = (fused(residual(), 6, double_buffer=value) for value in (False, True))
    assert double.inside == single.inside
    assert double.arriving["x"] == single.arriving["x"] + 2
    assert double.leaving["sum"] == single.leaving["sum"] + 2


def test_more_stripes_take_less_room_inside() -> None:
    sizes = [fused(residual(48), count).inside_bytes for count in (2, 3, 4, 6, 8, 12, 16, 24, 48)]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("double_buffer", [False, True])
def test_operators_apart_are_no_group(double_buffer: bool) -> None:
    planes = {v: Plane(v, 1, 8, 8, external=v in "xy", kept=v in "ab") for v in "xyab"}
    operators = (
        StripedOperator("a", "pointwise", ("x",), ("a",)),
        StripedOperator("b", "pointwise", ("y",), ("b",)),
    )
    graph = StripedGraph(operators, planes)
    found = list(stripes_ending_at(graph, 2, None, TilingOptions(double_buffer=double_buffer)))
    assert {(group.start, group.stop) for group in found} == {(1, 2)}
