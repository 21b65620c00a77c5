"""The frontier by labels against the integer program and against trying everything."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from selection_problems import best, choices, problems

from compress.passes.base import Option
from compress.passes.labels import frontier_by_labels, hull_by_labels
from compress.passes.select import Boundary, Problem, evaluate_choice, select

SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def scattered(draw):
    """Problems where some options cover layers that do not follow each other."""
    problem = draw(problems())
    layers = problem.layers()
    options = list(problem.options)
    for _ in range(draw(st.integers(1, 3))):
        covered = draw(st.lists(st.sampled_from(layers), min_size=2, max_size=3, unique=True))
        like = draw(st.sampled_from(problem.options))
        options.append(
            dataclasses.replace(
                like,
                layers=tuple(covered),
                latency_us=draw(st.integers(0, 400)) / 4,
                bytes=draw(st.integers(0, 5_000_000)),
            )
        )
    order = draw(st.permutations(range(len(options))))
    return dataclasses.replace(problem, options=tuple(options[i] for i in order))


@st.composite
def coupled(draw):
    """Problems where some options name the widths of groups of channels."""
    problem = draw(st.one_of(problems(), scattered()))
    groups = [f"g{n}" for n in range(draw(st.integers(1, 3)))]
    widths = st.dictionaries(st.sampled_from(groups), st.sampled_from([8, 16]), max_size=2)
    options = tuple(
        dataclasses.replace(option, widths=draw(widths)) if draw(st.booleans()) else option
        for option in problem.options
    )
    return dataclasses.replace(problem, options=options)


ANY = st.one_of(problems(), scattered(), coupled())


def figures(problem):
    """(latency, bytes, distortion) of every choice that agrees on widths."""
    found = []
    for choice in choices(problem):
        with contextlib.suppress(ValueError):
            found.append(evaluate_choice(problem, choice))
    return found


def trade_offs(found):
    """(latency, distortion) of what no other choice beats, fastest first."""
    result = []
    for latency, _, distortion in sorted(found, key=lambda f: (f[0], f[2])):
        if not result or distortion < result[-1][1]:
            result.append((latency, distortion))
    return result


def check(problem, points, found):
    assert [(p.latency_us, p.distortion) for p in points] == trade_offs(found)
    for point in points:
        assert point.status == "optimal"
        assert evaluate_choice(problem, point.chosen) == (
            point.latency_us,
            point.bytes,
            point.distortion,
        )


@SETTINGS
@given(ANY)
def test_the_frontier_is_the_one_of_all_choices(problem):
    check(problem, frontier_by_labels(problem), figures(problem))


@SETTINGS
@given(ANY, st.data())
def test_under_a_size_the_frontier_is_the_one_of_all_choices_that_fit(problem, data):
    found = figures(problem)
    sizes = sorted({f[1] for f in found}) or [0]
    limit = data.draw(st.sampled_from(sizes[:2] + sizes)) - data.draw(st.integers(0, 1))
    points = frontier_by_labels(problem, max_bytes=limit)
    check(problem, points, [f for f in found if f[1] <= limit])


def hull(points):
    """The lower convex hull of (latency, distortion), fastest first; figures are dyadic."""
    kept = []
    for point in points:
        while len(kept) > 1:
            (t, d), (u, e) = kept[-2:]
            if (e - d) * (point[0] - t) < (point[1] - d) * (u - t):
                break
            kept.pop()
        kept.append(point)
    return kept


@SETTINGS
@given(ANY)
def test_the_hull_is_the_one_of_all_choices(problem):
    expected = hull(trade_offs(figures(problem)))
    points = hull_by_labels(problem)
    assert {(p.latency_us, p.distortion) for p in points} >= set(expected)
    assert {(p.latency_us, p.distortion) for p in points} <= set(trade_offs(figures(problem)))
    for point in points:
        assert point.status == "optimal"
        assert evaluate_choice(problem, point.chosen)[::2] == (point.latency_us, point.distortion)


@settings(SETTINGS, max_examples=25)
@given(ANY, st.data())
def test_labels_and_integer_program_agree(problem, data):
    points = frontier_by_labels(problem)
    if not points:
        assert select(problem).status == "infeasible"
        return
    point = data.draw(st.sampled_from(points))
    latency, distortion = point.latency_us, point.distortion
    assert select(problem, max_distortion=distortion).latency_us == latency
    fastest = select(problem, max_latency_us=latency, objective="distortion")
    assert fastest.distortion == distortion
    assert fastest.latency_us == latency


@SETTINGS
@given(
    problems(
        latencies=st.floats(0.01, 20_000),
        distortions=st.floats(-9, 0).map(lambda e: 10.0**e) | st.just(0.0),
    )
)
def test_figures_over_many_orders_of_magnitude(problem):
    found = figures(problem)
    points = frontier_by_labels(problem)
    for point in points:
        least = best(found, "latency", max_distortion=point.distortion * (1 + 1e-12))
        assert point.latency_us == pytest.approx(least, rel=1e-12)
    for latency, distortion in trade_offs(found):
        assert any(
            p.latency_us <= latency * (1 + 1e-12) and p.distortion <= distortion * (1 + 1e-11)
            for p in points
        )


@settings(SETTINGS, max_examples=15)
@given(problems())
def test_the_same_problem_gives_the_same_choices(problem):
    first, second = frontier_by_labels(problem), frontier_by_labels(problem)
    assert [p.chosen for p in first] == [p.chosen for p in second]


def test_choices_are_the_integer_programs_where_there_is_one_only():
    problem = network(6, seed=1)
    for point in frontier_by_labels(problem)[::20]:
        assert select(problem, max_distortion=point.distortion).chosen == point.chosen


# --- single decisions ---------------------------------------------------------------------------


def test_nothing_fits():
    problem = network(3, seed=0)
    smallest = min(size for _, size, _ in figures(problem))
    assert frontier_by_labels(problem, max_bytes=smallest - 1) == []
    assert [p.bytes for p in frontier_by_labels(problem, max_bytes=smallest)] == [smallest]


def test_layers_that_no_choice_covers_together():
    pair = Option("merge", "merged", ("a", "b"), 1.0, 1, 0.0)
    other = Option("merge", "merged", ("b", "c"), 1.0, 1, 0.0)
    assert list(choices(Problem((pair, other), {}))) == []
    assert frontier_by_labels(Problem((pair, other), {})) == []
    assert hull_by_labels(Problem((pair, other), {})) == []


def test_no_layers_are_one_choice():
    (point,) = frontier_by_labels(Problem((), {}, fixed_us=3.0, fixed_bytes=5))
    assert (point.chosen, point.latency_us, point.bytes) == ((), 3.0, 5)
    assert [p.chosen for p in hull_by_labels(Problem((), {}))] == [()]
    assert frontier_by_labels(Problem((), {}, fixed_bytes=5), max_bytes=4) == []


def test_a_reader_that_comes_before_the_writer_pays_no_quantize():
    """The order of the options need not be that of the graph."""
    reader = Option("q", "int8", ("late",), 1.0, 0, 0.0, reads_uint8=frozenset("v"))
    writer = Option("q", "int8", ("early",), 1.0, 0, 0.0, writes_uint8=frozenset("v"))
    problem = Problem((reader, writer), {"v": Boundary("v", 50.0, 70.0, 0.25)})
    (point,) = frontier_by_labels(problem)
    assert (point.latency_us, point.distortion) == (2.0, 0.25)


def test_all_that_name_a_group_agree_on_its_width():
    """The producer alone would be narrow, the consumer alone wide; between them is no third."""

    def form(layer, width, us):
        return Option("prune", f"{width}", (layer,), us, 0, 0.0, widths={"c": width})

    problem = Problem(
        (
            form("producer", 8, 1.0),
            form("producer", 16, 4.0),
            Option("float", "float", ("between",), 1.0, 0, 0.0),
            form("consumer", 8, 9.0),
            form("consumer", 16, 5.0),
        ),
        {},
    )
    (point,) = frontier_by_labels(problem)
    assert (point.chosen, point.latency_us) == ((1, 2, 4), 10.0)
    assert [p.chosen for p in hull_by_labels(problem)] == [(1, 2, 4)]


def test_widths_on_which_nothing_agrees():
    narrow = Option("prune", "8", ("a",), 1.0, 0, 0.0, widths={"c": 8})
    wide = Option("prune", "16", ("b",), 1.0, 0, 0.0, widths={"c": 16})
    assert frontier_by_labels(Problem((narrow, wide), {})) == []
    assert hull_by_labels(Problem((narrow, wide), {})) == []


def test_beyond_the_limits_it_says_so():
    problem = network(12, seed=0)
    assert frontier_by_labels(problem, max_labels=20) is None
    assert frontier_by_labels(problem, max_states=1) is None
    assert hull_by_labels(problem, max_states=1) is None
    assert frontier_by_labels(problem, max_labels=100_000) is not None


def network(blocks, seed):
    """Residual blocks of two layers: block k reads v(2k), writes v(2k+2), which adds v(2k)."""
    random_ = random.Random(seed)
    options = []
    for block in range(blocks):
        reads = {2 * block: (f"v{2 * block}",), 2 * block + 1: (f"v{2 * block + 1}",)}
        reads[2 * block + 1] += (f"v{2 * block}",)
        for number, names in reads.items():
            layer, values = (f"layer{number}",), frozenset(names)
            us = random_.uniform(20, 200)
            size = random_.randint(1000, 100_000)
            options.append(Option("float", "float", layer, us, 4 * size, 0.0, reads_float=values))
            for form, share in (("int8", 0.3), ("int8-mixed", 0.6)):
                written = frozenset({f"v{number + 1}"}) if form == "int8" else frozenset()
                lost = 10 ** random_.uniform(-6, -3)
                options.append(
                    Option(
                        "quantize",
                        form,
                        layer,
                        us * share * random_.uniform(0.5, 1.5),
                        size,
                        lost,
                        reads_uint8=values,
                        writes_uint8=written,
                    )
                )
        both = (f"layer{2 * block}", f"layer{2 * block + 1}")
        values = frozenset({f"v{2 * block}"})
        us = random_.uniform(20, 60)
        options.append(Option("merge", "merged", both, us, 9000, 0.01, reads_float=values))
    boundaries = {
        f"v{n}": Boundary(
            f"v{n}",
            random_.uniform(1, 10),
            random_.uniform(1, 10),
            10 ** random_.uniform(-7, -5),
            is_output=n == 2 * blocks,
        )
        for n in range(2 * blocks + 1)
    }
    return Problem(tuple(options), boundaries, 10.0, 1000)


def test_a_network_of_fifty_layers_takes_seconds_at_most():
    problem = network(25, seed=3)
    started = time.thread_time()
    points = frontier_by_labels(problem)
    assert time.thread_time() - started < 10
    assert len(points) > 20
    on_hull = [p.chosen for p in hull_by_labels(problem)]
    assert len(on_hull) > 10
    assert set(on_hull) <= {p.chosen for p in points}
    middle = points[len(points) // 2]
    bound = middle.latency_us
    assert select(problem, max_distortion=middle.distortion).latency_us == pytest.approx(bound)
    assert middle.bound_us == bound
    assert math.isclose(points[0].latency_us, select(problem).latency_us, rel_tol=1e-9)
