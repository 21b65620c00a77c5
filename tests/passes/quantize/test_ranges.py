"""Ranges of activations from their histograms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.evidence.statistics import TensorStatistics, summarise
from compress.passes.quantize.ranges import (
    FEWEST_ELEMENTS,
    RangeMethod,
    choose_range,
    divergence,
    squared_error,
)

SETTINGS = settings(deadline=None, max_examples=40)


def observed(*arrays):
    statistics = TensorStatistics()
    for array in arrays:
        statistics.update(summarise(np.asarray(array, np.float32)))
    return statistics


@st.composite
def tensors(draw):
    """Normal, one-sided, heavy-tailed or bimodal values of any size."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.integers(2, 4000))
    kind = draw(st.sampled_from(["normal", "relu", "tail", "bimodal", "few"]))
    x = generator.standard_normal(size)
    if kind == "relu":
        x = np.maximum(x, 0)
    elif kind == "tail":
        x = x * np.exp(generator.standard_normal(size) * 2)
    elif kind == "bimodal":
        x = np.where(generator.random(size) < 0.5, x - 20, 0.1 * x + 3)
    elif kind == "few":
        x = generator.choice([-1.0, 0.0, 0.5], size)
    return (x * 10.0 ** draw(st.integers(-6, 6)) + draw(st.sampled_from([0, 0, 5]))).astype(
        np.float32
    )


@SETTINGS
@given(tensors(), st.sampled_from(RangeMethod))
def test_a_range_holds_zero_and_only_what_was_seen(x, method):
    low, high = choose_range(observed(x), method)
    assert low <= 0 <= high
    assert low >= min(0.0, float(x.min()))
    assert high <= max(0.0, float(x.max()))
    assert (low < high) == bool(np.any(x))


@SETTINGS
@given(tensors())
def test_min_max_is_the_whole_range(x):
    assert choose_range(observed(x), RangeMethod.MIN_MAX) == (
        min(0.0, float(x.min())),
        max(0.0, float(x.max())),
    )


@SETTINGS
@given(tensors(), st.sampled_from([(RangeMethod.MSE, squared_error),
                                   (RangeMethod.ENTROPY, divergence)]))  # fmt: skip
def test_a_search_is_never_worse_than_min_max_by_its_own_cost(x, searched):
    method, cost = searched
    statistics = observed(x)
    everything = choose_range(statistics, RangeMethod.MIN_MAX)
    if everything == (0.0, 0.0):
        return
    if statistics.counts.sum() < FEWEST_ELEMENTS:
        cost = squared_error  # entropy gives way where a histogram says too little
    assert cost(statistics, *choose_range(statistics, method)) <= cost(statistics, *everything)


def rounding_error(x, low, high):
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    restored = (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale
    return float(np.square(restored - x).mean())


@pytest.mark.parametrize("tail", [0.0, 0.7, 1.2])
def test_mse_finds_what_is_best_in_truth(tail):
    """The histogram's estimate against the error of every element, over a grid of ranges."""
    generator = np.random.default_rng(0)
    spread = np.exp(tail * generator.standard_normal(30_000))
    x = (generator.standard_normal(30_000) * spread).astype(np.float32)
    shares = np.linspace(0.2, 1.0, 33)
    best = min(rounding_error(x, a * x.min(), b * x.max()) for a in shares for b in shares)
    chosen = rounding_error(x, *choose_range(observed(x), RangeMethod.MSE))
    assert chosen <= 1.03 * best


@SETTINGS
@given(tensors())
def test_mse_costs_next_to_nothing_in_truth(x):
    if not np.any(x):
        return
    everything = rounding_error(x.astype(np.float64), min(0, x.min()), max(0, x.max()))
    chosen = rounding_error(x.astype(np.float64), *choose_range(observed(x), RangeMethod.MSE))
    step = (max(0, float(x.max())) - min(0, float(x.min()))) / 255
    assert chosen <= everything + step**2 / 4


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_mse_keeps_what_is_uniform(shift):
    x = np.random.default_rng(0).uniform(shift, shift + 1, 50_000).astype(np.float32)
    low, high = choose_range(observed(x), RangeMethod.MSE)
    assert low == 0.0
    assert high > 0.97 * x.max()


def test_percentile_leaves_out_its_share():
    x = np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    x[:1] = 1000.0
    low, high = choose_range(observed(x), RangeMethod.PERCENTILE)
    assert -5 < low < -3
    # a bin of the widened histogram is half a unit wide
    assert 3 < high < 6


def test_a_dead_tensor_has_an_empty_range():
    for method in RangeMethod:
        assert choose_range(observed(np.zeros(10)), method) == (0.0, 0.0)
        assert choose_range(TensorStatistics(), method) == (0.0, 0.0)
