"""How far outputs are from the float model's, by slices and by decisions."""

from __future__ import annotations

import math

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.evidence.distortion import (
    LARGEST_SLICE_ERROR,
    Comparison,
    OutputKind,
    divergence,
    output_kinds,
    slice_axis,
)

SETTINGS = settings(deadline=None, max_examples=60)
VALUES, GATES, PROBABILITIES, IGNORED = (
    OutputKind.VALUES,
    OutputKind.GATES,
    OutputKind.PROBABILITIES,
    OutputKind.IGNORED,
)


def floats(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def compare(expected, actual, kind=VALUES):
    """The comparison of one output over one or more samples."""
    comparison = Comparison({"y": kind})
    if not isinstance(expected, list):
        expected, actual = [expected], [actual]
    for first, second in zip(expected, actual, strict=True):
        comparison.add({"y": first}, {"y": second})
    return comparison.result()


SHAPES = [(), (5,), (3, 4), (1, 4), (2, 5, 3), (1, 3, 4, 5), (2, 1, 3, 3), (1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [VALUES, GATES, PROBABILITIES])
def test_identical_outputs_lose_nothing(shape, kind):
    if kind is PROBABILITIES and not shape:
        return
    x = floats(*shape)
    x = softmax(x) if kind is PROBABILITIES else x
    found = compare(x, x.copy(), kind)
    assert found.distortion == 0.0
    assert found.sqnr_db > 100
    assert found.agreement in (1.0, None)
    assert all(error == 0.0 for _, _, error in found.worst)


@SETTINGS
@given(st.sampled_from(SHAPES[1:]), st.floats(1e-4, 0.3), st.integers(0, 99))
def test_more_noise_is_more_distortion(shape, size, seed):
    samples = [floats(*shape, seed=seed + k) for k in range(4)]
    noise = [floats(*shape, seed=seed + k + 1000) for k in range(4)]
    found = [
        compare(
            samples, [x + np.float32(size * f) * n for x, n in zip(samples, noise, strict=True)]
        )
        for f in (0.5, 1.0)
    ]
    assert 0 < found[0].distortion < found[1].distortion <= LARGEST_SLICE_ERROR
    assert found[0].sqnr_db > found[1].sqnr_db


def test_noise_relative_to_the_variance():
    """One percent of noise in amplitude is 1e-4 of the energy."""
    samples = [floats(8, 16, seed=k) for k in range(50)]
    noise = [np.float32(0.01) * floats(8, 16, seed=100 + k) for k in range(50)]
    found = compare(samples, [x + n for x, n in zip(samples, noise, strict=True)])
    assert found.distortion == pytest.approx(1e-4, rel=0.1)
    assert found.sqnr_db == pytest.approx(40, abs=0.5)


def test_a_dead_slice_is_seen_behind_a_good_ratio():
    """The trap of detectors: boxes in pixels and class scores share an output, and a scale."""
    boxes, scores = 300 * floats(1, 4, 100), floats(1, 8, 100) * np.float32(0.3)
    expected = np.concatenate([boxes, scores], axis=1)[:, :, :, None]
    dead = expected.copy()
    dead[:, 4:] = 0
    found = compare(expected, dead)
    assert found.sqnr_db > 30
    assert found.distortion > 0.5
    assert {s for _, s, _ in found.worst} <= {str(i) for i in range(4, 12)}


def test_a_dead_slice_among_equals():
    samples = [floats(1, 6, seed=k) for k in range(20)]
    dead = [x * np.float32([1, 1, 1, 0, 1, 1]) for x in samples]
    found = compare(samples, dead)
    assert found.worst[0][:2] == ("y", "3")
    # the variance of the slice, and its mean, are gone
    assert found.worst[0][2] >= 0.9
    assert found.distortion >= 0.9 / 6


def test_a_slice_that_hardly_varies_does_not_count_as_dead():
    """A class that never comes up: noise below what the others carry is no loss."""
    samples = [floats(1, 6, seed=k) * np.float32([1, 1, 1, 1e-4, 1, 1]) for k in range(20)]
    noisy = [x + np.float32(1e-3) * floats(1, 6, seed=99 + k) for k, x in enumerate(samples)]
    assert compare(samples, noisy).distortion < 1e-3


def test_one_slice_cannot_drown_the_others():
    expected = floats(1, 10, 8, 8)
    actual = expected.copy()
    actual[:, 0] = 1e6
    assert compare(expected, actual).distortion == pytest.approx(LARGEST_SLICE_ERROR / 10)


def test_constant_slices_do_not_divide_by_zero():
    """A channel that never changes, and one that is always zero."""
    expected = floats(4, 3, 6, 6)
    expected[:, 1], expected[:, 2] = 5.0, 0.0
    found = compare(expected, expected + np.float32(1e-3))
    assert 0 < found.distortion < 0.1
    assert compare(expected, expected.copy()).distortion == 0.0


@pytest.mark.parametrize("shape", [(1, 1000), (1, 1), (1, 5, 16), (1,), ()])
def test_one_sample_is_enough_to_tell_little_noise_from_much(shape):
    """Nothing varies between samples if there is only one."""
    x = floats(*shape, seed=3) + 1
    little = compare(x, x * np.float32(1.0001)).distortion
    much = compare(x, x * np.float32(1.1)).distortion
    assert 0 < little < 0.01 * much
    assert much < LARGEST_SLICE_ERROR


@SETTINGS
@given(st.integers(2, 30), st.integers(0, 999), st.floats(0, 50))
def test_divergence_is_bounded(classes, seed, sharpness):
    p = softmax(floats(7, classes, seed=seed) * np.float32(sharpness))
    q = softmax(floats(7, classes, seed=seed + 1) * np.float32(sharpness))
    found = divergence(p, q)
    assert 0 <= found <= math.log(2) * (1 + 1e-5)
    assert found == pytest.approx(divergence(q, p), rel=1e-3, abs=1e-6)
    assert divergence(p, p.copy()) == 0.0
    assert compare(p, q, PROBABILITIES).distortion == pytest.approx(found)


def test_opposite_decisions_are_as_far_apart_as_can_be():
    p = np.float32([[1, 0, 0]])
    found = compare(p, p[:, ::-1].copy(), PROBABILITIES)
    assert found.distortion == pytest.approx(math.log(2), rel=1e-4)
    assert found.agreement == 0.0


def test_probabilities_that_are_no_numbers():
    p = softmax(floats(4, 5))
    found = compare(p, np.full_like(p, np.nan), PROBABILITIES)
    assert 0.3 < found.distortion <= math.log(2)


def test_decisions_of_classes():
    expected = np.float32([[3, 1, 0], [0, 2, 1], [1, 0, 5], [9, 8, 7]])
    actual = np.float32([[3, 2, 0], [0, 1, 2], [1, 0, 4], [7, 8, 9]])
    assert compare(expected, actual).agreement == 0.5
    # one column, or an image, decides nothing by itself
    assert compare(floats(4, 1), floats(4, 1, seed=1)).agreement is None
    assert compare(floats(2, 3, 4, 4), floats(2, 3, 4, 4, seed=1)).agreement is None


def test_decisions_of_gates():
    """Most are shut: agreement on those tells nothing."""
    expected, actual = np.full((1, 100), 0.1), np.full((1, 100), 0.1)
    expected[0, :4], actual[0, 2:6] = 0.9, 0.9
    assert compare(expected, actual, GATES).agreement == pytest.approx(2 / 6)
    shut = np.full((1, 9), 0.2)
    assert compare(shut, shut.copy(), GATES).agreement is None


def test_samples_of_different_shapes():
    expected = [floats(1, n, 6, seed=n) for n in (3, 9, 5)]
    noisy = [x + np.float32(0.01) for x in expected]
    found = compare(expected, noisy)
    assert found.distortion == pytest.approx(1e-4, rel=0.5)
    # the axis that would be sliced varies: the output is judged as a whole
    expected = [floats(1, n, seed=n) for n in (30, 90, 50, 50)]
    found = compare(expected, [x + np.float32(0.01) for x in expected])
    assert found.distortion == pytest.approx(1e-4, rel=0.3)
    assert [s for _, s, _ in found.worst] == ["all"]


def test_several_outputs_count_alike():
    comparison = Comparison({"a": VALUES, "b": PROBABILITIES, "c": IGNORED})
    a, b = floats(6, 4), softmax(floats(6, 5))
    noisy = a + np.float32(0.1) * floats(6, 4, seed=1)
    comparison.add({"a": a, "b": b, "c": np.arange(3)}, {"a": noisy, "b": b, "c": np.arange(4)})
    alone = compare(a, noisy).distortion
    assert comparison.result().distortion == pytest.approx(alone / 2)


def test_a_shape_that_changed_is_an_error():
    with pytest.raises(ValueError, match="y"):
        compare(floats(2, 3), floats(3, 2))


def test_an_output_that_broke_is_dead_not_an_accident():
    for bad in (np.nan, np.inf, -np.inf):
        expected = floats(1, 4, 5, 5)
        actual = expected.copy()
        actual[0, 2, 3, 3] = bad
        found = compare(expected, actual)
        assert math.isfinite(found.distortion)
        assert math.isfinite(found.sqnr_db)
        assert found.distortion > 0.01


def test_outputs_that_are_infinite_by_design():
    """A mask of minus infinity on scores: the float model has it, the candidate as well."""
    expected = floats(6, 8)
    expected[:, 5:] = -np.inf
    assert compare(expected, expected.copy()).distortion == 0.0
    noisy = expected + np.float32(0.01)
    found = compare(expected, noisy)
    assert 0 < found.distortion < 0.01
    assert found.agreement == 1.0
    assert compare(expected, floats(6, 8)).distortion > 0.1


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((), None),
        ((7,), None),
        ((3, 7), 1),
        ((3, 1), None),
        ((2, 9, 4), 2),
        ((1, 16, 8, 8), 1),
        ((1, 1, 8, 8), None),
        ((3, 100_000), None),
    ],
)
def test_the_axis_that_is_judged(shape, axis):
    assert slice_axis(shape) == axis


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("y = Softmax (x)", PROBABILITIES),
        ("y = Softmax <axis = 1> (x)", PROBABILITIES),
        ("y = Softmax <axis = 0> (x)", VALUES),
        ("a = Softmax (x) y = Identity (a)", PROBABILITIES),
        ("a = Softmax (x) y = Transpose (a)", VALUES),
        ("y = Sigmoid (x)", GATES),
        ("a = Sigmoid (x) b = Transpose (a) y = Unsqueeze (b, zero)", GATES),
        ("a = Sigmoid (x) y = Neg (a)", VALUES),
        ("y = Relu (x)", VALUES),
        ("y = ArgMax (x)", IGNORED),
    ],
)
def test_what_an_output_means(body, kind):
    dtype = "int64" if "ArgMax" in body else "float"
    shape = "1,6,4" if "Unsqueeze" in body else "?,?"
    text = (
        '<ir_version: 10, opset_import: ["" : 21]>'
        f" g (float[4,6] x) => ({dtype}[{shape}] y) <int64[1] zero = {{0}}> {{ {body} }}"
    )
    assert output_kinds(ir.from_proto(onnx.parser.parse_model(text))) == {"y": kind}
