"""The arithmetic of 8-bit affine quantization."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from compress.passes.quantize.scales import (
    PAIR_SUM,
    affine_scale,
    channel_scales,
    mse_channel_scales,
    quantize_bias,
    quantize_blocks,
    quantize_symmetric,
    settle_pairs,
    smallest_scales,
)

SETTINGS = settings(deadline=None, max_examples=150)
NUMBERS = st.floats(-1e6, 1e6, width=32) | st.floats(-1, 1, width=32)


def matrices(most_rows=6, most_columns=40):
    rows, columns = st.integers(1, most_rows), st.integers(1, most_columns)
    return st.tuples(rows, columns).flatmap(
        lambda shape: arrays.arrays(np.float32, shape, elements=st.floats(-100, 100, width=32))
    )


def represented(scale, x):
    """x as uint8 holds it."""
    levels = np.clip(np.rint(np.asarray(x, np.float64) / float(scale.scale)) + scale.zero_point,
                     0, 255)  # fmt: skip
    return (levels - scale.zero_point) * float(scale.scale)


@SETTINGS
@given(NUMBERS, NUMBERS)
def test_the_range_is_covered_and_zero_is_exact(first, second):
    low, high = min(first, second), max(first, second)
    scale = affine_scale(low, high)
    step = float(scale.scale)
    assert step > 0
    assert 0 <= scale.zero_point <= 255
    assert represented(scale, 0.0) == 0.0
    # rounding the zero point moves the range by at most half a step
    assert scale.low <= min(low, 0) + 0.5 * step * (1 + 1e-5)
    assert scale.high >= max(high, 0) - 0.5 * step * (1 + 1e-5)


@SETTINGS
@given(NUMBERS, NUMBERS, st.data())
def test_inside_the_range_rounding_costs_at_most_half_a_step(first, second, data):
    scale = affine_scale(min(first, second), max(first, second))
    x = data.draw(st.floats(scale.low, scale.high))
    assert abs(represented(scale, x) - x) <= 0.5 * float(scale.scale) * (1 + 1e-5)


def test_a_tensor_of_zeros_has_a_scale():
    scale = affine_scale(0.0, 0.0)
    assert scale.scale > 0
    assert represented(scale, 0.0) == 0.0


@SETTINGS
@given(matrices(), st.sampled_from([0, 1]))
def test_symmetric_weights_lose_at_most_half_a_step(weight, axis):
    scales = channel_scales(weight, axis)
    levels = quantize_symmetric(weight, scales, axis)
    assert levels.dtype == np.int8
    # -128 is never used: the kernels' symmetric range is [-127, 127]
    assert levels.min(initial=0) >= -127
    step = scales[:, None] if axis == 0 else scales[None, :]
    error = np.abs(levels.astype(np.float64) * step - weight)
    assert (error <= 0.5 * step * (1 + 1e-5) + 1e-30).all()


def squared_error(weight, scales, axis):
    step = scales[:, None] if axis == 0 else scales[None, :]
    levels = quantize_symmetric(weight, scales, axis)
    others = 1 - axis
    return np.square(levels * step.astype(np.float64) - weight).sum(axis=others)


@SETTINGS
@given(matrices(), st.sampled_from([0, 1]))
def test_clipping_weights_is_never_worse_than_not_clipping(weight, axis):
    clipped = mse_channel_scales(weight, axis)
    assert clipped.dtype == np.float32
    assert (clipped > 0).all()
    full = squared_error(weight, channel_scales(weight, axis), axis)
    assert (squared_error(weight, clipped, axis) <= full * (1 + 1e-4) + 1e-12).all()


def test_an_outlier_is_clipped():
    """One large weight in a thousand would cost all others most of their levels."""
    weight = np.random.default_rng(0).standard_normal((1, 4096)).astype(np.float32)
    weight[0, 0] = 6.0
    full, clipped = channel_scales(weight, 0), mse_channel_scales(weight, 0)
    assert clipped[0] < full[0]
    assert squared_error(weight, clipped, 0) < squared_error(weight, full, 0)


@SETTINGS
@given(
    arrays.arrays(np.float32, 5, elements=st.floats(-1e4, 1e4, width=32)),
    st.floats(1e-6, 1),
    st.sampled_from([0.0, 1e-30, 1e-12, 1e-3]),
)
def test_biases_fit_into_32_bits_whatever_the_weights(bias, input_scale, weight):
    """Channels without weights keep their bias to one part in a million."""
    scales = np.maximum(np.full(5, max(weight / 127, 1e-20), np.float32),
                        smallest_scales(bias, input_scale))  # fmt: skip
    units = scales.astype(np.float64) * input_scale
    integers = quantize_bias(bias, units)
    assert integers.dtype == np.int32
    assert (np.abs(integers.astype(np.int64)) <= 2**30 + 2**8).all()
    np.testing.assert_allclose(integers * units, bias, rtol=1e-6, atol=float(units.max()))


@SETTINGS
@given(matrices(70, 5), st.sampled_from([16, 32, 128]))
def test_blocks_reconstruct(weight, block):
    """As MatMulNBits reads them: (N, blocks, block), zero point 128, scales in that order."""
    rows, columns = weight.shape
    levels, scales = quantize_blocks(weight, block)
    count = -(-rows // block)
    assert levels.shape == (columns, count, block)
    assert levels.dtype == np.uint8
    assert scales.shape == (columns * count,)
    steps = scales.reshape(columns, count, 1).astype(np.float64)
    restored = ((levels.astype(np.float64) - 128) * steps).reshape(columns, -1)[:, :rows].T
    bound = np.repeat(steps[:, :, 0], block, axis=1)[:, :rows].T
    assert (np.abs(restored - weight) <= 0.5 * bound * (1 + 1e-5) + 1e-30).all()
    # what is beyond K is zero
    assert (levels.reshape(columns, -1)[:, rows:] == 128).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_channels_of_any_axis(axis):
    weight = np.random.default_rng(1).standard_normal((3, 4, 5)).astype(np.float32)
    scales = mse_channel_scales(weight, axis)
    assert scales.shape == (weight.shape[axis],)
    alone = [mse_channel_scales(np.take(weight, [i], axis), axis)[0] for i in range(scales.size)]
    np.testing.assert_array_equal(scales, alone)


KERNELS = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3))
LEVELS = KERNELS.flatmap(
    lambda shape: arrays.arrays(
        np.float32,
        shape,
        elements=st.integers(-127, 127).map(float) | st.sampled_from([-127.0, 127.0]),
    )
)


def neighbours(levels):
    """(left, right) of every pair along the reduction, in both orders of its axes."""
    for order in (levels, np.moveaxis(levels, 1, -1)):
        rows = order.reshape(len(levels), -1)
        yield rows[:, :-1], rows[:, 1:]


@SETTINGS
@given(LEVELS)
def test_settled_pairs_fit_into_16_bits(levels):
    settled = settle_pairs(levels)
    assert settled.shape == levels.shape
    assert (np.rint(settled) == settled).all()
    for left, right in neighbours(settled.astype(np.int64)):
        assert (np.abs(left + right) <= PAIR_SUM).all()
        assert (np.abs(255 * left + 255 * right) <= 32767).all()
        assert (np.abs(255 * np.maximum(left, 0) + 255 * np.maximum(right, 0)) <= 32767).all()
    # only magnitudes shrink, and no sign turns
    assert (np.abs(settled) <= np.abs(levels)).all()
    assert (settled * levels >= 0).all()
    np.testing.assert_array_equal(settle_pairs(settled), settled)


@SETTINGS
@given(LEVELS)
def test_pairs_that_fit_are_left_alone(levels):
    small = np.trunc(levels / 2)
    np.testing.assert_array_equal(settle_pairs(small), small)


@SETTINGS
@given(matrices())
def test_scales_for_pairs_are_at_least_as_good_as_half_the_range(weight):
    """Fewer levels for all weights is what other quantizers do about it (`reduce_range`)."""
    scales = mse_channel_scales(weight, 0, paired=True)
    levels = quantize_symmetric(weight, scales, 0, paired=True)
    half = np.maximum(np.abs(weight).max(axis=1) / 63.5, 1e-20).astype(np.float32)[:, None]
    usual = np.clip(np.rint(weight / half), -64, 64) * half
    error = np.square(weight - levels * scales[:, None]).sum(axis=1, dtype=np.float64)
    assert (error <= np.square(weight - usual).sum(axis=1, dtype=np.float64) * 1.001 + 1e-9).all()


def test_scales_found_again_are_the_same_and_nobody_elses():
    weight = np.random.default_rng(1).standard_normal((600, 500)).astype(np.float32)
    first = mse_channel_scales(weight, 0)
    first[0] = 7.0
    again = mse_channel_scales(weight, 0)
    assert again[0] != 7.0
    # blocks of rows do not change what is found
    np.testing.assert_array_equal(again[123:124], mse_channel_scales(weight[123:124], 0))
    assert not np.array_equal(again, mse_channel_scales(weight, 0, paired=True))
