"""The multiple-choice knapsack against trying everything and against a table over all costs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compress.passes.knapsack import solve_knapsack

SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def instances(draw, *, most_layers=5, most_choices=5, most_cost=40):
    """(costs, distortions, budget): any figures, in any order."""
    costs, distortions = [], []
    for _ in range(draw(st.integers(1, most_layers))):
        count = draw(st.integers(1, most_choices))
        cost = st.lists(st.integers(0, most_cost), min_size=count, max_size=count)
        lost = st.lists(st.integers(-8, 256), min_size=count, max_size=count)
        costs.append(np.array(draw(cost)))
        distortions.append(np.array(draw(lost)) / 64)
    return costs, distortions, draw(st.integers(0, most_layers * most_cost))


def least(costs, distortions, budget):
    """By trying everything; the figures are dyadic, so sums are exact."""
    best = math.inf
    for choice in itertools.product(*(range(len(c)) for c in costs)):
        if sum(int(c[i]) for c, i in zip(costs, choice, strict=True)) <= budget:
            best = min(best, sum(float(d[i]) for d, i in zip(distortions, choice, strict=True)))
    return best


def check(costs, distortions, budget, found):
    """What is said about the choice is true."""
    assert len(found.choices) == len(costs)
    assert found.cost == sum(int(c[i]) for c, i in zip(costs, found.choices, strict=True))
    assert found.cost <= budget
    assert found.distortion == sum(
        float(d[i]) for d, i in zip(distortions, found.choices, strict=True)
    )
    assert found.lower_bound <= found.distortion


@SETTINGS
@given(instances())
def test_the_optimum_is_found_and_proven(instance):
    costs, _, budget = instance
    expected = least(*instance)
    found = solve_knapsack(*instance, gap=0.0)
    if expected == math.inf:
        assert (found.status, found.choices) == ("infeasible", ())
        assert sum(int(c.min()) for c in costs) > budget
        return
    check(*instance, found)
    assert found.status == "optimal"
    assert found.distortion == expected
    assert found.lower_bound == expected


@SETTINGS
@given(instances(), st.sampled_from([(1,), (2,), (1, 3)]))
def test_narrow_beams_give_a_choice_and_a_bound_that_holds(instance, beams):
    expected = least(*instance)
    found = solve_knapsack(*instance, beams=beams)
    if expected == math.inf:
        assert found.status == "infeasible"
        return
    check(*instance, found)
    assert found.lower_bound <= expected + 1e-12
    assert found.distortion >= expected
    if found.status == "optimal":
        assert found.distortion == expected


@SETTINGS
@given(instances(), st.floats(0, 0.5))
def test_the_search_stops_within_the_gap(instance, gap):
    expected = least(*instance)
    found = solve_knapsack(*instance, gap=gap)
    if expected < math.inf:
        check(*instance, found)
        assert found.distortion - found.lower_bound <= gap * abs(found.distortion) + 1e-9
        assert found.lower_bound <= expected + 1e-12


def by_table(costs, distortions, budget):
    """Least distortion by dynamic programming over every cost."""
    best = np.zeros(budget + 1)
    for cost, distortion in zip(costs, distortions, strict=True):
        following = np.full(budget + 1, math.inf)
        for c, d in zip(cost.tolist(), distortion.tolist(), strict=True):
            if c <= budget:
                following[c:] = np.minimum(following[c:], best[: budget + 1 - c] + d)
        best = following
    return float(best[-1])


@pytest.mark.parametrize("seed", range(6))
def test_noisy_curves_of_layers_that_differ_in_size(seed):
    random = np.random.default_rng(seed)
    sizes = (10 ** random.uniform(1.5, 4, 12)).astype(int)
    sparsities = np.linspace(0, 1, 51)
    costs = [size - np.floor(sparsities * size).astype(int) for size in sizes]
    distortions = [
        random.uniform(0.3, 3)
        * sparsities ** random.uniform(1, 4)
        * random.uniform(0.8, 1.2, len(sparsities))
        for _ in sizes
    ]
    budget = int(sizes.sum() * random.uniform(0.05, 0.9))
    found = solve_knapsack(costs, distortions, budget, gap=0.0)
    check(costs, distortions, budget, found)
    assert found.status == "optimal"
    assert found.distortion == pytest.approx(by_table(costs, distortions, budget), rel=1e-12)


def test_a_layer_that_alone_exceeds_the_budget():
    costs = [np.array([1000, 500, 0]), np.array([10, 5, 0])]
    distortions = [np.array([0.0, 1.0, 8.0]), np.array([0.0, 1.0, 2.0])]
    found = solve_knapsack(costs, distortions, 12)
    assert (found.choices, found.cost, found.distortion) == ((2, 0), 10, 8.0)
    assert found.status == "optimal"


def test_a_budget_below_the_least_cost_is_infeasible():
    found = solve_knapsack([np.array([5, 9])], [np.array([1.0, 0.0])], 4)
    assert (found.choices, found.status) == ((), "infeasible")
    assert found.distortion == math.inf
    assert solve_knapsack([np.array([5, 9])], [np.array([1.0, 0.0])], 5).choices == (0,)


def test_distortions_that_are_equal_per_weight_do_not_take_for_ever():
    """The hardest kind: every choice is on the relaxation, only the remainders differ."""
    random = np.random.default_rng(0)
    sizes = random.integers(1000, 100_000, 30).tolist()
    costs = [size - np.floor(np.linspace(0, 1, 101) * size).astype(int) for size in sizes]
    distortions = [(size - cost) / 1e6 for size, cost in zip(sizes, costs, strict=True)]
    found = solve_knapsack(costs, distortions, sum(sizes) // 2)
    check(costs, distortions, sum(sizes) // 2, found)
    assert found.distortion - found.lower_bound <= 1e-6 * found.distortion
    assert found.seconds < 20


@pytest.mark.parametrize(
    ("costs", "distortions", "words"),
    [
        ([np.array([1])], [], "costs of 1 layers, distortions of 0"),
        ([np.array([1, 2])], [np.array([1.0])], "layer 0: .* same choices"),
        ([np.zeros(0, dtype=int)], [np.zeros(0)], "same choices"),
        ([np.array([1.5])], [np.array([1.0])], "integers"),
        ([np.array([-1])], [np.array([1.0])], "integers from 0 on"),
        ([np.array([1])], [np.array([math.nan])], "finite"),
    ],
)
def test_wrong_figures_are_refused(costs, distortions, words):
    with pytest.raises(ValueError, match=words):
        solve_knapsack(costs, distortions, 10)
