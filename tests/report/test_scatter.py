"""Where points lie in the latency-distortion picture."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from compress.report.scatter import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, scatter
from compress.report.schema import Candidate, FrontierPoint, Plan, Report

POINTS = st.builds(
    FrontierPoint,
    latency_us=st.floats(0, 1e9),
    distortion=st.one_of(st.just(0.0), st.floats(1e-300, 1e6)),
    bytes=st.just(1),
    shipped=st.booleans(),
)


@given(st.lists(POINTS, min_size=1, max_size=8))
def test_every_point_and_tick_lies_inside(points: list[FrontierPoint]) -> None:
    picture = scatter(points, [])
    assert picture is not None
    assert len(picture.marks) == len(points)
    for mark in picture.marks:
        assert LEFT <= mark.x <= WIDTH - RIGHT
        assert TOP <= mark.y <= HEIGHT - BOTTOM
    assert 1 <= len(picture.y_ticks) <= 8
    assert all(TOP <= tick.position <= HEIGHT - BOTTOM for tick in picture.y_ticks)
    assert 1 <= len(picture.x_ticks) <= 8
    assert all(LEFT <= tick.position <= WIDTH - RIGHT for tick in picture.x_ticks)


def test_faster_is_left_and_more_faithful_is_lower(report: Report, plan: Plan) -> None:
    picture = scatter(plan.frontier, [])
    assert picture is not None
    line = [tuple(map(float, pair.split(","))) for pair in picture.line.split()]
    assert line == sorted(line)
    assert [y for _, y in line] == sorted(y for _, y in line)
    assert picture.y_ticks[0].label == "0"


def test_the_shipped_one_is_drawn_last(report: Report, plan: Plan) -> None:
    picture = scatter(plan.frontier, report.candidates)
    assert picture is not None
    assert [mark.kind for mark in picture.marks].index("shipped") == len(picture.marks) - 2
    assert {mark.kind for mark in picture.marks} == {"optimal", "candidate", "shipped"}
    assert picture.marks[-1].label.startswith("quantized 1: 0.148 ms predicted")


def test_without_anything_to_draw_there_is_no_picture() -> None:
    assert scatter([], []) is None
    unknown = Candidate(name="x", size_bytes=1, verdict="")
    endless = FrontierPoint(latency_us=math.inf, distortion=0.1, bytes=1)
    undefined = FrontierPoint(latency_us=1.0, distortion=math.nan, bytes=1)
    assert scatter([endless, undefined], [unknown]) is None
