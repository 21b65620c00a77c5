"""Least squares over windows: what is a convolution is found again, the rest comes near."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.passes.merge.algebra import LinearMap
from compress.passes.merge.reconstruct import System, Window, draw_rows, patches, rows_wanted

RNG = np.random.default_rng(3)


def convolve(x, linear):
    """The map's outputs, straight from its definition."""
    size = linear.output_size(x.shape[2:])
    y = np.zeros((len(x), len(linear.bias), *size))
    for place in np.ndindex(*size):
        total = np.tile(linear.bias, (len(x), 1))
        for tap in np.ndindex(*linear.kernel):
            at = [
                s * p + a + t
                for s, p, a, t in zip(linear.stride, place, linear.start, tap, strict=True)
            ]
            if all(0 <= i < n for i, n in zip(at, x.shape[2:], strict=True)):
                weight = linear.weight[(slice(None), slice(None), *tap)]
                total = total + x[(slice(None), slice(None), *at)] @ weight.T
        y[(slice(None), slice(None), *place)] = total
    return y


def fitted(x, y, window, low=None, prior=None):
    channels = x.shape[1 if window.kernel else -1]
    inputs, targets = draw_rows(x, y, window, rows_wanted(window.features(channels)))
    return System(inputs, window, channels).fit(targets, prior, low)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_windows_see_what_convolutions_see(data):
    axes = data.draw(st.integers(1, 2))
    draw = lambda low, high: [data.draw(st.integers(low, high)) for _ in range(axes)]  # noqa: E731
    kernel, start, stride = draw(1, 3), draw(-2, 1), draw(1, 3)
    sizes = draw(6, 9)
    slack = tuple(-k - s for k, s in zip(kernel, start, strict=True))
    weight = RNG.standard_normal((3, 2, *kernel))
    linear = LinearMap(weight, RNG.standard_normal(3), tuple(start), tuple(stride), slack)
    x = RNG.standard_normal((2, 2, *sizes))
    expected = convolve(x, linear)
    view = patches(x, Window.of(linear), expected.shape[2:])
    flat = view.reshape(*view.shape[: 1 + axes], -1)
    found = flat @ weight.reshape(3, -1).T + linear.bias
    np.testing.assert_allclose(np.moveaxis(found, -1, 1), expected, atol=1e-9)


def test_a_convolution_is_found_again():
    linear = LinearMap(
        RNG.standard_normal((4, 3, 3, 3)), RNG.standard_normal(4), (-1, -1), (1, 1), (-1, -1)
    )
    x = RNG.standard_normal((16, 3, 10, 10))
    fit = fitted(x, convolve(x, linear), Window.of(linear))
    assert fit.error < 1e-4
    np.testing.assert_allclose(fit.map.weight, linear.weight, atol=0.02)
    np.testing.assert_allclose(fit.map.bias, linear.bias, atol=0.02)


def test_a_matrix_is_found_again():
    matrix = RNG.standard_normal((5, 6))
    x = RNG.standard_normal((4, 50, 6))
    fit = fitted(x, x @ matrix.T + 1.0, Window((), (), (), ()))
    assert fit.error < 1e-4
    np.testing.assert_allclose(fit.map.weight, matrix, atol=0.02)


def test_behind_a_rectifier_only_what_passes_counts():
    """Where the target is cut off, any value below will do: censored least squares uses that."""
    matrix = RNG.standard_normal((5, 6))
    x = RNG.standard_normal((1, 4000, 6))
    raw = x @ matrix.T
    # below zero the span does something that no matrix does
    strange = np.where(raw < 0, -np.abs(np.sin(20 * raw)) - 3, raw)
    window = Window((), (), (), ())
    plain, aware = fitted(x, strange, window), fitted(x, strange, window, low=0.0)
    found = np.maximum(x @ plain.map.weight.T + plain.map.bias, 0)
    better = np.maximum(x @ aware.map.weight.T + aware.map.bias, 0)
    wanted = np.maximum(raw, 0)
    assert np.mean((better - wanted) ** 2) < 0.5 * np.mean((found - wanted) ** 2)


def test_the_prior_decides_where_samples_say_nothing():
    prior = LinearMap(np.ones((2, 3)), np.zeros(2), (), (), ())
    x = RNG.standard_normal((1, 500, 3))
    x[..., 2] = 0.0
    y = 2.0 * x[..., :2].sum(axis=-1, keepdims=True).repeat(2, axis=-1)
    fit = fitted(x, y, Window((), (), (), ()), prior=prior)
    np.testing.assert_allclose(fit.map.weight[:, 2], 1.0, atol=1e-6)
    np.testing.assert_allclose(fit.map.weight[:, :2], 2.0, atol=0.02)


def test_a_prior_of_another_size_is_cut_and_filled():
    small = LinearMap(RNG.standard_normal((2, 3, 1)), np.zeros(2), (0,), (1,), (-1,))
    x = np.zeros((1, 3, 12))
    window = Window((3,), (-1,), (1,), (-1,))
    fit = fitted(x, np.zeros((1, 2, 12)), window, prior=small)
    np.testing.assert_allclose(fit.map.weight[:, :, 1], small.weight[:, :, 0])
    np.testing.assert_array_equal(fit.map.weight[:, :, (0, 2)], 0.0)


@pytest.mark.parametrize("rows", [1, 3])
def test_fewer_samples_than_unknowns_are_no_error(rows):
    x = RNG.standard_normal((1, rows, 6))
    fit = fitted(x, x[..., :2], Window((), (), (), ()))
    assert np.isfinite(fit.map.weight).all()
