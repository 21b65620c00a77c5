"""Which candidates of a frontier are tried."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from compress.passes.search import fastest_acceptable, most_faithful_within
from compress.passes.select import Selection


def frontier(count):
    return [Selection((i,), 100.0 + i, 0, 1.0 / (1 + i), 0.0, "optimal", 0.0) for i in range(count)]


@given(st.integers(0, 40), st.data())
def test_bisection_finds_the_fastest_that_is_good_enough(count, data):
    points = frontier(count)
    first_good = data.draw(st.integers(0, count))
    tried = []

    def acceptable(selection):
        tried.append(selection)
        return selection.chosen[0] >= first_good

    found = fastest_acceptable(points, acceptable)
    assert found == (points[first_good] if first_good < count else None)
    assert len(tried) == len({s.chosen for s in tried})
    assert len(tried) <= 1 + max(1, count).bit_length()


@given(st.lists(st.booleans(), max_size=30))
def test_only_what_was_tried_and_accepted_is_returned(verdicts):
    """Even where quality does not fall along the frontier."""
    points = frontier(len(verdicts))
    tried = {}

    def acceptable(selection):
        return tried.setdefault(selection.chosen, verdicts[selection.chosen[0]])

    found = fastest_acceptable(points, acceptable)
    assert found is None or tried[found.chosen]
    if verdicts and verdicts[0]:
        assert found == points[0]


@given(st.integers(0, 20), st.floats(90, 130), st.data())
def test_the_most_faithful_that_is_measured_fast_enough(count, limit, data):
    points = frontier(count)
    slow = data.draw(st.integers(0, count))
    tried = []

    def fast_enough(selection):
        tried.append(selection)
        return selection.chosen[0] < slow

    found = most_faithful_within(points, limit, fast_enough)
    fitting = [s for s in points if s.latency_us <= limit]
    good = [s for s in fitting if s.chosen[0] < slow]
    assert found == (min(good, key=lambda s: s.distortion) if good else None)
    assert all(s in fitting for s in tried)
