"""Probes disturb one thing only."""

from __future__ import annotations

import numpy as np
import pytest

from compress.execute.arithmetic import adds_pairs_in_16_bits
from compress.graph.layers import find_layers
from compress.passes.quantize.forms import Form
from compress.passes.quantize.probes import ValueProbe, WeightProbe
from compress.passes.quantize.scales import mse_channel_scales, quantize_symmetric

RNG = np.random.default_rng(2)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


TEXT = (
    "g (float[N,4,8,8] x) => (float[N,10] y, float[N,8,6,6] c) {"
    " a = Conv (x, w, b) c = HardSwish (a) p = GlobalAveragePool (c) f = Flatten (p)"
    " y = Gemm <transB = 1> (f, v, e) }"
)
TENSORS = {"w": floats(8, 4, 3, 3), "b": floats(8), "v": floats(10, 8), "e": floats(10)}


@pytest.fixture
def model(parse):
    return parse(TEXT, **TENSORS)


def test_a_rounded_value_is_what_uint8_holds_and_all_else_is_exact(model, run):
    feeds = {"x": floats(3, 4, 8, 8)}
    expected = run(model, feeds)
    low, high = float(expected["c"].min()), float(expected["c"].max())
    probed = model.clone()
    assert ValueProbe("c", low, high).run(probed)
    found = run(probed, feeds, optimised=False)
    step = (high - low) / 255
    off = np.abs(found["c"] - expected["c"])
    assert 0 < off.max() <= 0.51 * step
    levels = found["c"] / np.float32(step)
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-2)
    # what is computed from it is computed from the rounded one
    pooled = found["c"].mean(axis=(2, 3))
    np.testing.assert_allclose(found["y"], pooled @ TENSORS["v"].T + TENSORS["e"], atol=1e-4)


def test_rounded_inputs_of_the_model(model, run):
    feeds = {"x": floats(2, 4, 8, 8)}
    probed = model.clone()
    ValueProbe("x", -4.0, 4.0).run(probed)
    step = np.float32(8 / 255)
    rounded = np.clip(np.rint(feeds["x"] / step) + 128, 0, 255) - 128
    expected = run(model, {"x": rounded.astype(np.float32) * step})
    found = run(probed, feeds)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-3)


@pytest.mark.parametrize("form", [Form.INT8, Form.INT8_TO_FLOAT])
def test_rounded_weights_are_those_of_the_integer_form(form, model, run):
    gemm = next(x for x in find_layers(model) if x.op == "Gemm")
    probed = model.clone()
    assert WeightProbe.of(gemm, form, {"y": (-1.0, 1.0), "f": (-1.0, 1.0)}).run(probed)
    scales = mse_channel_scales(TENSORS["v"], 0)
    rounded = quantize_symmetric(TENSORS["v"], scales, 0) * scales[:, None]
    feeds = {"x": floats(2, 4, 8, 8)}
    before, after = run(model, feeds), run(probed, feeds)
    np.testing.assert_array_equal(after["c"], before["c"])
    pooled = before["c"].mean(axis=(2, 3))
    np.testing.assert_allclose(after["y"], pooled @ rounded.T + TENSORS["e"], atol=1e-4)


def test_the_value_inside_a_layer_is_rounded_with_its_weights(model, run):
    """Before a smooth activation: nobody but this layer sees it."""
    conv = next(x for x in find_layers(model) if x.op == "Conv")
    feeds = {"x": floats(2, 4, 8, 8)}
    probe = WeightProbe.of(conv, Form.INT8, {"a": (-3.0, 3.0), "x": (-4.0, 4.0)})
    assert probe.raw == ("a", -3.0, 3.0)
    probed = model.clone()
    probe.run(probed)
    # clipped to [-3, 3] before the activation
    assert run(probed, feeds)["c"].max() <= 3.05
    assert run(model, feeds)["c"].max() > 3.5


@pytest.mark.parametrize("form", [Form.DYNAMIC, Form.BLOCK])
def test_forms_that_round_inside_the_operator_are_written_in_whole(form, parse, run):
    model = parse(
        "g (float[N,5,200] x) => (float[N,5,16] y) { a = MatMul (x, w) y = Add (a, b) }",
        w=floats(200, 16),
        b=floats(16),
    )
    layer = find_layers(model)[0]
    probed = model.clone()
    assert WeightProbe.of(layer, form, {}, paired=adds_pairs_in_16_bits()).run(probed)
    assert any(n.domain == "com.microsoft" for n in probed.graph)
    feeds = {"x": floats(2, 5, 200)}
    error = run(probed, feeds)["y"] - run(model, feeds)["y"]
    assert 0 < np.abs(error).max() < 1.0


def test_shared_weights_are_rounded_for_one_layer_only(parse, run):
    text = (
        "g (float[N,4,8,8] x) => (float[N,4,8,8] a, float[N,4,8,8] y)"
        " { a = Conv <pads = [1,1,1,1]> (x, w) t = Tanh (a) y = Conv <pads = [1,1,1,1]> (t, w) }"
    )
    model = parse(text, w=floats(4, 4, 3, 3))
    second = find_layers(model)[-1]
    probed = model.clone()
    WeightProbe.of(second, Form.INT8, {"y": (-9, 9), "t": (-1, 1)}).run(probed)
    feeds = {"x": floats(2, 4, 8, 8)}
    before, after = run(model, feeds), run(probed, feeds)
    np.testing.assert_array_equal(after["a"], before["a"])
    assert 0 < np.abs(after["y"] - before["y"]).max() < 1


def test_keys_tell_probes_apart(model):
    conv, gemm = (next(x for x in find_layers(model) if x.op == op) for op in ("Conv", "Gemm"))
    ranges = dict.fromkeys("xacfpy", (-1.0, 1.0))
    keys = [
        ValueProbe("x", -1, 1).key(),
        ValueProbe("x", -1, 2).key(),
        ValueProbe("c", -1, 1).key(),
        WeightProbe.of(conv, Form.INT8, ranges).key(),
        WeightProbe.of(conv, Form.INT8, {**ranges, "a": (-2.0, 2.0)}).key(),
        WeightProbe.of(gemm, Form.INT8, ranges).key(),
        WeightProbe.of(gemm, Form.DYNAMIC, ranges).key(),
        WeightProbe.of(conv, Form.INT8, ranges, paired=True).key(),
    ]
    assert len(set(keys)) == len(keys)
