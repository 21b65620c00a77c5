"""Reconstruction: exact where channels are redundant, optimal where they are not."""

from __future__ import annotations

import itertools

import numpy as np
import pruning_graphs as graphs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.graph.layers import find_layers
from compress.passes.prune.elimination import Problem, removal_order
from compress.passes.prune.groups import find_groups
from compress.passes.prune.moments import input_moments
from compress.passes.prune.remove import RemoveChannels
from compress.passes.prune.update import (
    UpdateWeights,
    lost_energy,
    norm_scores,
    problems_of,
    reconstruct,
    reconstructed_weights,
)


def random_problem(seed, units=6, block=2, outputs=5):
    rng = np.random.default_rng(seed)
    d = units * block
    x = rng.standard_normal((100, d)) @ rng.standard_normal((d, d))
    rows = rng.permutation(d).reshape(units, block)
    return x, Problem(rng.standard_normal((d, outputs)), x.T @ x / len(x), np.sort(rows, axis=1))


def test_reconstruction_is_least_squares():
    x, problem = random_problem(0)
    kept = np.array([0, 2, 3, 5, 8])
    expected = np.linalg.lstsq(x[:, kept], x @ problem.weight, rcond=None)[0]
    np.testing.assert_allclose(
        reconstruct(problem.weight, problem.covariance, kept, ridge=0.0), expected, rtol=1e-5
    )


def test_what_correlates_with_nothing_stays():
    weight = np.arange(6.0).reshape(3, 2)
    new = reconstruct(weight, np.diag([1.0, 2.0, 3.0]), np.array([0, 2]), ridge=0.1)
    np.testing.assert_array_equal(new, weight[[0, 2]])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999), st.integers(1, 3))
def test_errors_on_the_way_are_those_of_solving_anew(seed, at_once):
    problems = [random_problem(seed)[1], random_problem(seed + 1)[1]]
    removal = removal_order(problems, ridge=1e-9, at_once=at_once)
    assert sorted(removal.order) == sorted(set(removal.order))
    assert len(removal.order) == 5
    assert (np.diff(removal.error) >= 0).all()
    for gone in range(0, 6, at_once):
        total = 0.0
        for problem in problems:
            stay = np.setdiff1d(np.arange(12), problem.rows[removal.order[:gone]])
            new = reconstruct(problem.weight, problem.covariance, stay, ridge=1e-9)
            total += lost_energy(problem.weight, problem.covariance, stay, new)
        assert removal.error[gone] == pytest.approx(total, rel=1e-3, abs=1e-6)


def test_the_first_to_go_is_the_cheapest():
    _, problem = random_problem(3)

    def cost(unit):
        stay = np.setdiff1d(np.arange(12), problem.rows[unit])
        new = reconstruct(problem.weight, problem.covariance, stay, ridge=1e-9)
        return lost_energy(problem.weight, problem.covariance, stay, new)

    assert removal_order([problem], ridge=1e-9).order[0] == min(range(6), key=cost)


def test_greedy_is_close_to_the_best_choice():
    _, problem = random_problem(4)
    errors = []
    for units in itertools.combinations(range(6), 3):
        stay = np.setdiff1d(np.arange(12), problem.rows[list(units)])
        new = reconstruct(problem.weight, problem.covariance, stay, ridge=1e-9)
        errors.append(lost_energy(problem.weight, problem.covariance, stay, new))
    assert removal_order([problem], ridge=1e-9).error[3] <= np.quantile(errors, 0.2)


def test_kept_units():
    _, problem = random_problem(5)
    removal = removal_order([problem], fewest=2)
    assert removal.kept(6, 6) == list(range(6))
    assert removal.kept(2, 6) == sorted(set(range(6)) - set(removal.order.tolist()))


def doubled_channels():
    """Channels 4 to 7 of the first layer are combinations of 0 to 3 after the activation."""
    text = (
        "g (float[2,3,6,6] x) => (float[2,2,4,4] y) { a = Conv (x, wa, ba) r = LeakyRelu (a)"
        " p = Concat <axis = 1> (r, x) y = Conv (p, wy) }"
    )
    wa, ba = graphs.floats(8, 3, 1, 1), np.zeros(8, np.float32)
    wa[4:] = 2 * wa[:4]
    # never varies
    wa[0], ba[0], wa[4], ba[4] = 0, 3, 0, 5
    return text, {"wa": wa, "ba": ba, "wy": graphs.floats(2, 11, 3, 3)}


def images():
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((2, 3, 6, 6)).astype(np.float32)} for _ in range(8)]


def pruned(model, kept, samples):
    layers, groups = find_layers(model), find_groups(model)
    moments = input_moments(model, [x for x in layers if x.weight is not None], samples)
    result = model.clone()
    new = reconstructed_weights(layers, groups, kept, moments, ridge=1e-7)
    assert UpdateWeights(new).run(result)
    assert RemoveChannels(kept).run(result)
    return result


@pytest.mark.parametrize("kept", [[1, 2, 3], [4, 5, 6, 7], [1, 6, 7]])
def test_redundant_channels_are_made_up_for(parse, run, kept):
    text, tensors = doubled_channels()
    model = parse(text, **tensors)
    samples = [
        {"x": np.random.default_rng(i).standard_normal((2, 3, 6, 6)).astype(np.float32)}
        for i in range(8)
    ]
    expected = run(model, samples[0])["y"]
    plain = model.clone()
    RemoveChannels({"a": kept}).run(plain)
    found = run(pruned(model, {"a": kept}, samples), samples[0])["y"]
    assert np.abs(run(plain, samples[0])["y"] - expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_the_order_finds_redundant_channels(parse):
    text, tensors = doubled_channels()
    model = parse(text, **tensors)
    layers, group = find_layers(model), find_groups(model)[0]
    samples = [
        {"x": np.random.default_rng(i).standard_normal((2, 3, 6, 6)).astype(np.float32)}
        for i in range(8)
    ]
    moments = input_moments(model, [x for x in layers if x.weight is not None], samples)
    removal = removal_order(problems_of(layers, group, moments), ridge=1e-6)
    # one of each pair, and both that never vary
    assert {u % 4 for u in removal.order[:5].tolist()} == {0, 1, 2, 3}
    assert removal.error[5] < 1e-4 < removal.error[6]


@pytest.mark.parametrize(
    ("network", "group", "kept"),
    [
        (graphs.residual(), "b", [0, 1, 3, 5]),
        (graphs.grouped(2), "a", [0, 1, 3]),
        (graphs.flatten(), "a", [0, 2, 3]),
        (graphs.flatten(), "b", [0, 1, 2, 4]),
        (graphs.attention(), "q0", [0, 1, 3]),
    ],
)
def test_updated_is_closer(parse, run, network, group, kept):
    text, tensors = network
    model = parse(text, **tensors)
    shape = [d if isinstance(d, int) else 2 for d in model.graph.inputs[0].shape]
    rng = np.random.default_rng(1)
    mix = np.eye(shape[-1]) + 0.3
    samples = [{"x": (rng.standard_normal(shape) @ mix).astype(np.float32)} for _ in range(30)]
    plain = model.clone()
    RemoveChannels({group: kept}).run(plain)
    updated = pruned(model, {group: kept}, samples)

    def error(candidate):
        return sum(
            np.square(run(candidate, s)["y"] - run(model, s)["y"]).sum() for s in samples[:10]
        )

    assert error(updated) < 0.9 * error(plain)


def test_norm_scores(parse):
    text, tensors = graphs.residual()
    tensors["wc"] = tensors["wc"].copy()
    tensors["wc"][:, 2] = 0
    tensors["wb"] = tensors["wb"].copy()
    tensors["wb"][4] *= 100
    model = parse(text, **tensors)
    group = next(g for g in find_groups(model) if g.name == "b")
    scores = norm_scores(model, group)
    assert scores.shape == (6,)
    assert (scores.argmin(), scores.argmax()) == (2, 4)
