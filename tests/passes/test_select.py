"""The selector against exhaustive enumeration."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from selection_problems import best, figures, problems

from compress.passes.base import Option
from compress.passes.select import (
    Boundary,
    Problem,
    Selection,
    evaluate_choice,
    frontier,
    pareto,
    select,
)

SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
OBJECTIVES = ("latency", "distortion", "size")


def value(selection, objective):
    return {
        "latency": selection.latency_us,
        "distortion": selection.distortion,
        "size": selection.bytes,
    }[objective]


def check(problem, found, objective, **limits):
    """`select` agrees with trying everything, and what it says about its choice is true."""
    expected = best(found, objective, **limits)
    selection = select(problem, objective=objective, **limits)
    if expected is None:
        assert selection.status == "infeasible"
        assert selection.chosen == ()
        return None
    assert selection.status == "optimal"
    latency, size, distortion = evaluate_choice(problem, selection.chosen)
    assert (selection.latency_us, selection.bytes, selection.distortion) == (
        latency,
        size,
        distortion,
    )
    assert latency <= limits.get("max_latency_us", math.inf)
    assert size <= limits.get("max_bytes", math.inf)
    assert distortion <= limits.get("max_distortion", math.inf)
    assert value(selection, objective) == expected
    if objective == "latency":
        assert selection.bound_us == pytest.approx(expected)
    assert selection.bound_us <= latency
    return selection


@SETTINGS
@given(problems(), st.sampled_from(OBJECTIVES))
def test_without_limits_the_optimum_is_found(problem, objective):
    check(problem, figures(problem), objective)


@SETTINGS
@given(problems(), st.sampled_from(OBJECTIVES), st.data())
def test_under_limits_the_optimum_is_found_or_there_is_none(problem, objective, data):
    found = figures(problem)
    limits = {}
    for position, name in enumerate(("max_latency_us", "max_bytes", "max_distortion")):
        kind = data.draw(st.sampled_from(["none", "reached", "below", "anything"]), name)
        reached = data.draw(st.sampled_from(found))[position]
        if kind == "reached":
            # a limit that some choice meets exactly: where rounding decides
            limits[name] = reached
        elif kind == "below":
            limits[name] = reached - (1 if position == 1 else 2.0**-14)
        elif kind == "anything":
            limits[name] = reached * data.draw(st.floats(0, 2))
    limits = {k: v for k, v in limits.items() if v >= 0}
    check(problem, found, objective, **limits)


WIDE = problems(
    latencies=st.floats(0.01, 20_000),
    sizes=st.integers(0, 50_000_000),
    distortions=st.floats(-9, 0).map(lambda e: 10.0**e) | st.just(0.0),
)


@SETTINGS
@given(WIDE, st.data())
def test_figures_over_many_orders_of_magnitude(problem, data):
    """Distortions from 1e-9 to 1, as networks have them: exact up to a millionth."""
    found = figures(problem)
    for objective in OBJECTIVES:
        selection = select(problem, objective=objective)
        assert value(selection, objective) == pytest.approx(best(found, objective), rel=1e-6)
    limit = data.draw(st.sampled_from(found))[2]
    selection = select(problem, max_distortion=limit)
    assert selection.status == "optimal"
    assert selection.distortion <= limit * (1 + 1e-6)
    expected = best(found, "latency", max_distortion=limit)
    assert selection.latency_us <= expected * (1 + 1e-6)


@SETTINGS
@given(st.one_of(problems(), WIDE))
def test_every_point_of_the_frontier_is_optimal_for_its_distortion(problem):
    found = figures(problem)
    points = frontier(problem)
    assert points
    for point in points:
        assert point.status == "optimal"
        assert evaluate_choice(problem, point.chosen) == (
            point.latency_us,
            point.bytes,
            point.distortion,
        )
        expected = best(found, "latency", max_distortion=point.distortion * (1 + 1e-9))
        assert point.latency_us == pytest.approx(expected, rel=1e-6)
    latencies = [p.latency_us for p in points]
    distortions = [p.distortion for p in points]
    assert latencies == sorted(latencies)
    assert distortions == sorted(distortions, reverse=True)
    assert len(set(distortions)) == len(points)
    assert latencies[0] == pytest.approx(best(found, "latency"), rel=1e-6)
    assert distortions[-1] == pytest.approx(best(found, "distortion"), rel=1e-6)


@SETTINGS
@given(problems(), st.data())
def test_the_frontier_keeps_to_a_size(problem, data):
    found = figures(problem)
    limit = data.draw(st.sampled_from(found))[1] - data.draw(st.integers(0, 1))
    points = frontier(problem, max_bytes=limit)
    expected = best(found, "latency", max_bytes=limit)
    if expected is None:
        assert points == []
        return
    assert all(p.bytes <= limit for p in points)
    assert points[0].latency_us == expected
    assert points[-1].distortion == best(found, "distortion", max_bytes=limit)


@settings(SETTINGS, max_examples=10)
@given(problems())
def test_the_same_problem_gives_the_same_choice(problem):
    def without_time(selections):
        return [dataclasses.replace(s, seconds=0.0) for s in selections]

    assert without_time(frontier(problem)) == without_time(frontier(problem))


# --- single decisions, spelled out ---------------------------------------------------------------


def layer(name, form, us, *, reads=(), writes=(), distortion=0.0, size=0):
    names = frozenset(reads)
    integer = form != "float"
    return Option(
        "quantize" if integer else "float",
        form,
        (name,),
        us,
        size,
        distortion,
        reads_uint8=names if integer else frozenset(),
        reads_float=frozenset() if integer else names,
        writes_uint8=frozenset(writes) if integer else frozenset(),
    )


def chain(float_us, int8_us, conversions_us):
    """x -> a -> u -> b -> y."""
    return Problem(
        (
            layer("a", "float", float_us[0], reads="x"),
            layer("a", "int8", int8_us[0], reads="x", writes="u", distortion=0.1),
            layer("b", "float", float_us[1], reads="u"),
            layer("b", "int8", int8_us[1], reads="u", writes="y", distortion=0.1),
        ),
        {
            name: Boundary(name, conversions_us, conversions_us, 0.01, is_output=name == "y")
            for name in "xuy"
        },
    )


def test_a_chain_pays_its_conversions_once():
    problem = chain((10, 10), (4, 4), 5)
    selection = select(problem)
    assert selection.chosen == (1, 3)
    # 4 + 4, quantize x, dequantize y; u stays uint8
    assert selection.latency_us == 18
    # every value is rounded once, whoever reads it
    assert selection.distortion == pytest.approx(0.1 + 0.1 + 3 * 0.01)


def test_a_layer_alone_is_not_worth_its_conversions():
    assert select(chain((10, 3), (4, 3), 5)).chosen == (0, 2)


def test_a_slower_integer_layer_bridges_two_fast_ones():
    problem = Problem(
        (
            layer("a", "float", 20, reads="x"),
            layer("a", "int8", 5, reads="x", writes="u"),
            layer("pool", "float", 2, reads="u"),
            layer("pool", "int8", 3, reads="u", writes="v"),
            layer("b", "float", 20, reads="v"),
            layer("b", "int8", 5, reads="v", writes="y"),
        ),
        {n: Boundary(n, 4, 4, is_output=n == "y") for n in "xuvy"},
    )
    selection = select(problem)
    assert selection.chosen == (1, 3, 5)
    assert selection.latency_us == 5 + 3 + 5 + 4 + 4


def test_an_option_may_replace_several_layers():
    merged = Option("merge", "merged", ("a", "b"), 7.0, 0, 0.0, reads_float=frozenset("x"))
    problem = chain((10, 10), (9, 9), 5)
    problem = dataclasses.replace(problem, options=(*problem.options, merged))
    assert select(problem).chosen == (4,)


def test_a_value_that_is_read_in_both_domains_is_converted_once():
    problem = Problem(
        (
            layer("a", "float", 1, reads="x"),
            layer("b", "int8", 1, reads="u", writes="p"),
            layer("c", "int8", 1, reads="u", writes="q"),
            layer("d", "float", 1, reads="u"),
        ),
        {"u": Boundary("u", 3, 3), "p": Boundary("p", 3, 3), "q": Boundary("q", 3, 3)},
    )
    assert select(problem).latency_us == 4 + 3


def test_equally_fast_choices_are_told_apart_by_distortion_then_size():
    options = (
        layer("a", "float", 10.0, size=400),
        layer("a", "int8", 10.0, distortion=0.2, size=100),
        layer("a", "int8-dynamic", 10.0, distortion=0.1, size=100),
    )
    assert select(Problem(options, {})).chosen == (0,)
    assert select(Problem(options[1:], {})).chosen == (1,)
    faithful = (
        layer("a", "float", 10.0, size=400),
        layer("a", "int8", 9.0, size=100),
    )
    assert select(Problem(faithful, {}), objective="distortion").chosen == (1,)


def test_no_distortion_allowed_means_none_at_all():
    """A distortion far below the others' is still one."""
    problem = Problem(
        (
            layer("a", "float", 10.0),
            layer("a", "int8", 1.0, distortion=1e-9),
            layer("b", "float", 10.0),
            layer("b", "int8", 1.0, distortion=1.0),
        ),
        {},
    )
    assert select(problem, max_distortion=0.0).chosen == (0, 2)
    assert select(problem, objective="distortion").chosen == (0, 2)
    assert select(problem, max_distortion=1e-9).chosen == (1, 2)


def test_a_value_rounded_beyond_the_limit_is_not_rounded():
    problem = Problem(
        (
            layer("a", "float", 10.0, reads="x"),
            layer("a", "int8", 1.0, reads="x", distortion=0.0),
        ),
        {"x": Boundary("x", 0.0, 0.0, distortion=1e-8)},
    )
    assert select(problem, max_distortion=0.0).chosen == (0,)
    assert select(problem).chosen == (1,)


def test_a_choice_that_leaves_a_layer_out_or_takes_it_twice_is_refused():
    problem = chain((1, 1), (1, 1), 1)
    with pytest.raises(ValueError, match="b"):
        evaluate_choice(problem, (0,))
    with pytest.raises(ValueError, match="a"):
        evaluate_choice(problem, (0, 1, 2))


def test_a_model_without_options_is_its_own_choice():
    selection = select(Problem((), {}, fixed_us=12.5, fixed_bytes=7))
    assert selection.status == "optimal"
    assert (selection.latency_us, selection.bytes, selection.distortion) == (12.5, 7, 0.0)


def test_a_hundred_layers_are_selected_in_seconds():
    """The size of a real network: a chain with shortcuts."""
    options = []
    for i in range(100):
        reads = {f"v{i}"} | ({f"v{i - 3}"} if i % 4 == 3 else set())
        options += [
            layer(f"l{i}", "float", 50 + 7 * (i % 13), reads=reads),
            layer(
                f"l{i}",
                "int8",
                20 + 9 * (i % 7),
                reads=reads,
                writes={f"v{i + 1}"},
                distortion=1e-6 * (1 + i * i % 97),
            ),
        ]
    boundaries = {
        f"v{i}": Boundary(f"v{i}", 3 + i % 11, 2 + i % 5, 1e-6 * (i % 23), is_output=i == 100)
        for i in range(101)
    }
    points = frontier(Problem(tuple(options), boundaries), points=8)
    assert len(points) > 5
    assert {p.status for p in points} == {"optimal"}
    assert sum(p.seconds for p in points) < 20


def test_pareto_keeps_what_nothing_beats():
    def point(latency, distortion):
        return Selection((), latency, 0, distortion, 0.0, "optimal", 0.0)

    points = [point(3, 1.0), point(1, 5.0), point(2, 5.0), point(4, 2.0), point(3, 2.0)]
    assert pareto(points) == [points[1], points[0]]
    assert pareto([]) == []


def test_two_writers_of_a_value_convert_it_no_more_than_one():
    """Options that cover different layers may say that they write the same value."""
    options = tuple(
        Option("merge", "int8", (layer,), 1.0, 1, 0.0, writes_uint8=frozenset({"v"}))
        for layer in ("a", "b")
    )
    reader = Option("quantize", "int8", ("c",), 1.0, 1, 0.0, reads_uint8=frozenset({"v"}))
    problem = Problem((*options, reader), {"v": Boundary("v", 0.0, 5.0)})
    assert select(problem).latency_us == 3.0
    assert select(problem, max_latency_us=3.0, objective="distortion").status == "optimal"
    floating = Option("float", "float", ("d",), 1.0, 1, 0.0, reads_float=frozenset({"v"}))
    both = Problem((*options, reader, floating), {"v": Boundary("v", 0.0, 5.0)})
    assert select(both).latency_us == 9.0
