"""Interval covers against trying every one."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compress.passes.covers import Intervals, best_cover, cover_frontier

SETTINGS = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
QUARTERS = st.integers(0, 200).map(lambda n: n / 4)
DYADIC = st.integers(-64, 64).map(lambda n: n / 2**10)


@st.composite
def tables(draw, *, latencies=QUARTERS, distortions=DYADIC):
    """Up to 7 layers; entries anywhere, several for the same layers, sometimes none for some."""
    length = draw(st.integers(1, 7))
    entries = []
    for _ in range(draw(st.integers(1, 22))):
        start = draw(st.integers(0, length - 1))
        end = draw(st.integers(start + 1, min(start + 4, length)))
        entries.append((start, end, draw(latencies), draw(distortions)))
    if draw(st.integers(0, 3)):
        entries += [(k, k + 1, draw(latencies), draw(distortions)) for k in range(length)]
    return length, draw(st.permutations(entries))


def every_cover(length, entries) -> Iterator[tuple[int, ...]]:
    def extend(chosen: tuple[int, ...], position: int) -> Iterator[tuple[int, ...]]:
        if position == length:
            yield chosen
            return
        for index, (start, end, _, _) in enumerate(entries):
            if start == position:
                yield from extend((*chosen, index), end)

    return extend((), 0)


def figures(length, entries, chosen):
    """(latency, distortion), after checking that each layer is covered once."""
    layers = [k for index in chosen for k in range(entries[index][0], entries[index][1])]
    assert layers == list(range(length))
    latency = distortion = 0.0
    for index in chosen:
        latency += entries[index][2]
        distortion += entries[index][3]
    return latency, distortion


def trade_offs(found):
    result = []
    for latency, distortion in sorted(found):
        if not result or distortion < result[-1][1]:
            result.append((latency, distortion))
    return result


def points(frontier):
    return list(zip(frontier.latencies.tolist(), frontier.distortions.tolist(), strict=True))


@SETTINGS
@given(tables())
def test_the_frontier_is_the_one_of_all_covers(table):
    length, entries = table
    expected = trade_offs(figures(*table, c) for c in every_cover(*table))
    frontier = cover_frontier(Intervals.of(length, entries))
    assert points(frontier) == expected
    assert frontier.status == ("optimal" if expected else "infeasible")
    for index, figure in enumerate(expected):
        cover = frontier.cover(index)
        assert figures(*table, cover.entries) == figure == (cover.latency, cover.distortion)


@SETTINGS
@given(tables(), st.data())
def test_every_budget_is_a_lookup_or_a_search_of_its_own(table, data):
    length, entries = table
    intervals = Intervals.of(length, entries)
    found = [figures(*table, c) for c in every_cover(*table)]
    reached = data.draw(st.sampled_from([f[0] for f in found] or [1.0]))
    budget = reached - data.draw(st.sampled_from([0.0, 0.25, -0.1]))
    least = min((d for t, d in found if t <= budget), default=math.inf)
    pruned = cover_frontier(intervals, max_latency=budget)
    assert points(pruned) == [p for p in trade_offs(found) if p[0] <= budget]
    for cover in (
        cover_frontier(intervals).best(budget),
        pruned.best(),
        best_cover(intervals, budget),
    ):
        assert cover.distortion == least
        assert cover.status == ("infeasible" if least == math.inf else "optimal")
        if cover.entries:
            assert cover.latency <= budget
            assert figures(*table, cover.entries) == (cover.latency, least)


@SETTINGS
@given(tables(), st.data())
def test_the_fastest_within_a_distortion(table, data):
    found = [figures(*table, c) for c in every_cover(*table)]
    limit = data.draw(st.sampled_from([f[1] for f in found] or [0.0]))
    limit -= data.draw(st.sampled_from([0.0, 2.0**-11]))
    cover = cover_frontier(Intervals.of(*table)).fastest(limit)
    assert cover.latency == min((t for t, d in found if d <= limit), default=math.inf)


FLOATS = tables(latencies=st.floats(1e-3, 10), distortions=st.floats(-1, 0))


@SETTINGS
@given(FLOATS, st.floats(0.3, 1.0), st.integers(2, 6))
def test_thinned_out_labels_stay_within_the_budget_and_the_slack(table, share, most):
    intervals = Intervals.of(*table)
    exact = cover_frontier(intervals)
    thin = cover_frontier(intervals, max_labels=most)
    assert len(thin) <= most
    assert (len(thin) > 0) == (len(exact) > 0)
    if not len(exact):
        return
    assert thin.best(float(exact.latencies[0])).entries
    budget = share * float(exact.latencies[-1])
    for cover in (
        thin.best(budget),
        cover_frontier(intervals, max_latency=budget, max_labels=most).best(),
        best_cover(intervals, budget, max_labels=most),
    ):
        assert cover.latency <= budget or not cover.entries
        safe = exact.best(budget - thin.slack * (1 + 1e-9) - 1e-9)
        assert cover.distortion <= safe.distortion + 1e-12
    assert thin.status == ("feasible" if thin.slack else "optimal")


def test_labels_are_thinned_out_only_beyond_the_cap():
    random = np.random.default_rng(0)
    entries = [
        (k, k + 1, float(t), float(-i)) for k in range(12) for t, i in random.uniform(0, 1, (4, 2))
    ]
    intervals = Intervals.of(12, entries)
    exact = cover_frontier(intervals)
    assert exact.slack == 0
    assert len(exact) > 20
    thin = cover_frontier(intervals, max_labels=20)
    assert thin.slack > 0
    assert thin.cover(0).status == "feasible"


@SETTINGS
@given(FLOATS)
def test_sums_of_the_same_figures_in_another_order_are_no_trade_offs(table):
    """Twice the same table, in either order: no more labels than sums that really differ."""
    length, entries = table
    twice = [*entries, *((s + length, e + length, t, d) for s, e, t, d in entries)]
    frontier = cover_frontier(Intervals.of(2 * length, twice))
    distortions = frontier.distortions
    assert (np.diff(distortions) <= -1e-13 * np.abs(distortions[:-1])).all()
    assert (np.diff(frontier.latencies) > 0).all()


def test_one_budget_needs_fewer_labels_but_finds_the_same():
    random = np.random.default_rng(1)
    entries = [
        (start, end, float(random.uniform(1, 4)), float(-random.uniform(0.9, 1)))
        for start in range(40)
        for end in range(start + 1, min(start + 6, 40) + 1)
        for _ in range(2)
    ]
    intervals = Intervals.of(40, entries)
    frontier = cover_frontier(intervals)
    for budget in np.quantile(frontier.latencies, [0.0, 0.2, 0.5, 0.9, 1.0]).tolist():
        assert best_cover(intervals, budget).distortion == frontier.best(budget).distortion


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ((0, 4, 1.0, 0.0), "not a run of the layers 0..2"),
        ((2, 2, 1.0, 0.0), "not a run"),
        ((-1, 2, 1.0, 0.0), "not a run"),
        ((0, 3, math.nan, 0.0), "finite"),
        ((0, 3, 1.0, math.inf), "finite"),
    ],
)
def test_wrong_entries_are_refused(entry, words):
    with pytest.raises(ValueError, match=words):
        Intervals.of(3, [(0, 1, 1.0, 0.0), entry])


def test_nothing_covers_the_last_layer():
    frontier = cover_frontier(Intervals.of(3, [(0, 2, 1.0, 0.0)]))
    assert (len(frontier), frontier.status) == (0, "infeasible")
    assert frontier.best().status == "infeasible"
    assert best_cover(Intervals.of(3, [(0, 2, 1.0, 0.0)]), 5.0).entries == ()
    assert cover_frontier(Intervals.of(2, [])).best().entries == ()
