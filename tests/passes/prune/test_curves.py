"""Curves of pruning: what is measured is right, what is between is close, baselines add up."""

from __future__ import annotations

import numpy as np
import pruning_graphs as graphs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.graph.layers import find_layers
from compress.passes.prune.curves import (
    erk_sparsities,
    gaussian_samples,
    interpolate,
    isotonic,
    lamp_sparsities,
    pruning_curves,
    uniform_sparsities,
)
from compress.passes.prune.masks import ApplyMasks, magnitude_mask


@pytest.fixture
def network(parse):
    text = (
        "g (float[1,3,8,8] x) => (float[1,4] y) { a = Conv <pads = [1,1,1,1]> (x, wa, ba)"
        " r = Relu (a) b = Conv <pads = [1,1,1,1]> (r, wb) s = Relu (b)"
        " p = GlobalAveragePool (s) f = Flatten (p) y = Gemm <transB = 1> (f, wy, by) }"
    )
    model = parse(
        text,
        wa=graphs.floats(8, 3, 3, 3),
        ba=graphs.floats(8),
        wb=graphs.floats(12, 8, 3, 3),
        wy=graphs.floats(4, 12),
        by=graphs.floats(4),
    )
    return model, [x for x in find_layers(model) if x.weight is not None]


def test_curves(network, run):
    model, layers = network
    samples = gaussian_samples({"x": ((1, 3, 8, 8), np.dtype(np.float32))}, 6)
    calls = []
    found = pruning_curves(model, layers, samples, advance=lambda: calls.append(1))
    assert list(found) == [x.name for x in layers]
    assert len(calls) == 12 * len(layers)
    expected = [run(model, s)["y"] for s in samples]
    for layer in layers:
        curve = found[layer.name]
        weight = layer.weight.const_value.numpy()
        assert (curve.size, curve.measured.sum()) == (weight.size, 12)
        for values in (curve.squared, curve.distortion):
            assert values[0] == 0
            assert (np.diff(values) >= 0).all()
        checked = curve.measured | (np.arange(101) % 4 == 0)
        errors = []
        for phi in curve.phi[checked]:
            result = model.clone()
            ApplyMasks({layer.name: magnitude_mask(weight, phi)}).run(result)
            outputs = [run(result, s)["y"] for s in samples]
            errors.append(np.mean(np.square(np.subtract(outputs, expected))))
        truth, found_there = np.array(errors), curve.squared[checked]
        measured = curve.measured[checked]
        np.testing.assert_allclose(
            found_there[measured], isotonic(truth[measured]), rtol=1e-3, atol=1e-9
        )
        if weight.size < 100:
            # every weight is a step
            continue
        truth = isotonic(truth)
        assert np.abs(found_there - truth).mean() < 0.05 * truth.max()
        large = truth > 1e-3 * truth.max()
        assert np.median(np.abs(found_there / np.maximum(truth, 1e-30) - 1)[large]) < 0.3


def test_gaussian_samples_differ_and_repeat():
    one, other = (
        gaussian_samples({"x": ((1, 2), np.dtype(np.float32))}, 2, seed=s) for s in (0, 0)
    )
    assert (one[0]["x"] != one[1]["x"]).all()
    np.testing.assert_array_equal(one[1]["x"], other[1]["x"])


@given(st.integers(0, 999))
def test_interpolation(seed):
    rng = np.random.default_rng(seed)
    removed = np.concatenate([[0.0], np.cumsum(rng.random(50) + 1e-3)])
    at = np.sort(rng.choice(np.arange(1, 51), 6, replace=False))
    values = rng.random(6)
    result = interpolate(removed, at, values)
    rising = isotonic(values)
    np.testing.assert_allclose(result[at], rising)
    assert (np.diff(result) >= 0).all()
    assert result[0] == 0
    exact = interpolate(removed, at, 3 * removed[at])
    np.testing.assert_allclose(exact[: at[-1] + 1], 3 * removed[: at[-1] + 1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_isotonic(values):
    values = np.array(values)
    result = isotonic(values)
    assert (np.diff(result) >= 0).all()
    assert result.sum() == pytest.approx(values.sum())
    np.testing.assert_allclose(isotonic(np.sort(values)), np.sort(values))
    # the projection: residuals stand upright on it
    assert np.dot(values - result, result) == pytest.approx(0, abs=1e-9)


SHAPES = [(16, 3, 3, 3), (32, 16, 3, 3), (64, 32, 1, 1), (10, 64)]


@pytest.mark.parametrize("density", [0.05, 0.3, 0.7, 1.0])
def test_baselines_keep_what_is_asked(density):
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(s) * (i + 1) for i, s in enumerate(SHAPES)]
    sizes = np.array([w.size for w in weights])
    for sparsities in (
        uniform_sparsities(sizes, density),
        erk_sparsities(SHAPES, density),
        lamp_sparsities(weights, density),
    ):
        assert ((sparsities >= 0) & (sparsities <= 1)).all()
        assert ((1 - sparsities) * sizes).sum() == pytest.approx(density * sizes.sum(), abs=0.6)


def test_erk_keeps_more_of_small_layers():
    sparsities = erk_sparsities(SHAPES, 0.2)
    assert sparsities[0] < sparsities[2] < sparsities[1]


def test_lamp_does_not_mind_scale_and_spares_the_last_weight():
    rng = np.random.default_rng(1)
    weights = [rng.standard_normal(s) for s in SHAPES]
    found = lamp_sparsities(weights, 0.1)
    np.testing.assert_array_equal(found, lamp_sparsities([weights[0] * 1e3, *weights[1:]], 0.1))
    assert (lamp_sparsities(weights, len(SHAPES) / sum(w.size for w in weights)) < 1).all()
