"""Bias correction brings the means of integer layers back to those of the float network."""

from __future__ import annotations

import numpy as np
import pytest

from compress.graph.layers import find_layers
from compress.passes.quantize.bias_correction import CorrectBiases, corrected_value, mean_errors
from compress.passes.quantize.forms import Form
from compress.passes.quantize.qdq import QuantizeLayers

RNG = np.random.default_rng(5)


def floats(*shape, scale=1.0):
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


TOKENS = (
    "g (float[N,6,256] x) => (float[N,6,32] y) { a = MatMul (x, w) s = Add (a, b) y = Relu (s) }"
)
MATRIX = {"w": floats(256, 32), "b": floats(32)}
CASES = {
    "conv": (
        "g (float[N,4,8,8] x) => (float[N,8,6,6] y) { a = Conv (x, w, b) c = Relu (a)"
        " d = Conv (c, u, e) y = Tanh (d) }",
        {"w": floats(8, 4, 3, 3), "b": floats(8), "u": floats(8, 8, 1, 1, scale=0.1),
         "e": floats(8)}, Form.INT8),
    "gemm": (
        "g (float[N,64] x) => (float[N,32] y) { a = Gemm <transB = 1> (x, w, b) y = Relu (a) }",
        {"w": floats(32, 64), "b": floats(32)}, Form.INT8),
    "dynamic": (TOKENS, MATRIX, Form.DYNAMIC),
    "float_out": (TOKENS, MATRIX, Form.INT8_TO_FLOAT),
    "block": (TOKENS, MATRIX, Form.BLOCK),
}  # fmt: skip


def quantized(model, form, samples):
    forms = {x.name: form for x in find_layers(model) if x.weight is not None}
    ranges = dict.fromkeys(
        (str(v.name) for n in model.graph for v in (*n.inputs, *n.outputs)), (-8.0, 8.0)
    )
    # ranges that cut off a quarter of what is positive: a systematic error
    ranges["x"] = (-2.0, 1.0)
    result = model.clone()
    QuantizeLayers(forms, ranges).run(result)
    return result


def samples_of(model, count=16):
    shape = [d if isinstance(d, int) else 2 for d in model.graph.inputs[0].shape]
    return [{"x": floats(*shape)} for _ in range(count)]


@pytest.mark.parametrize("name", CASES)
def test_means_come_back(name, parse, run):
    text, tensors, form = CASES[name]
    model = parse(text, **tensors)
    samples = samples_of(model)
    integer = quantized(model, form, samples)
    layers = [x for x in find_layers(model) if x.weight is not None]
    before = mean_errors(model, integer, layers, samples, {})
    assert set(before) == {x.name for x in layers}
    corrected = integer.clone()
    assert CorrectBiases(before).run(corrected)
    after = mean_errors(model, corrected, layers, samples, {})
    first = layers[0].name
    if form in (Form.INT8, Form.INT8_TO_FLOAT):
        assert np.abs(before[first]).max() > 0.1
    # up to the step that an integer bias has
    assert np.abs(after[first]).max() < 0.05 * np.abs(before[first]).max() + 1e-3
    # the model that was given is as it was
    again = mean_errors(model, integer, layers, samples, {})
    np.testing.assert_array_equal(again[first], before[first])


def test_errors_are_of_the_sum_before_the_activation(parse):
    layers = find_layers(parse(TOKENS, **MATRIX))
    assert [corrected_value(x) for x in layers] == ["s"]


def test_means_over_samples_of_several_shapes(parse, run):
    """Every sample counts the same."""
    model = parse(TOKENS, **MATRIX)
    layers, samples = find_layers(model), [{"x": floats(n, 6, 256)} for n in (1, 4)]
    (nothing,) = mean_errors(model, model.clone(), layers, samples, {}).values()
    assert np.abs(nothing).max() == 0.0
    integer = quantized(model, Form.INT8_TO_FLOAT, samples)
    (both,) = mean_errors(model, integer, layers, samples, {}).values()
    each = [next(iter(mean_errors(model, integer, layers, [s], {}).values())) for s in samples]
    np.testing.assert_allclose(both, (each[0] + each[1]) / 2, atol=1e-6)


def test_layers_that_have_no_bias_or_are_not_integer_are_left_alone(parse):
    text = "g (float[N,64] x) => (float[N,32] y) { y = MatMul (x, w) }"
    model = parse(text, w=floats(64, 32))
    integer = quantized(model, Form.DYNAMIC, [])
    name = find_layers(model)[0].name
    assert not CorrectBiases({name: np.ones(32), "nobody": np.ones(3)}).run(integer)
    assert not CorrectBiases({name: np.ones(32)}).run(model)


def test_nothing_is_shipped_that_nobody_reads(parse):
    text, tensors, form = CASES["conv"]
    model = parse(text, **tensors)
    integer = quantized(model, form, [])
    CorrectBiases({x.name: np.full(8, 0.5) for x in find_layers(model) if x.weight}).run(integer)
    assert all(v.uses() for v in integer.graph.initializers.values())
