"""Narrow convolutions widened: texts, numbers, and what is left alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from compress.graph.infer_shapes import InferShapes
from compress.graph.layers import find_layers
from compress.graph.printer import to_text
from compress.passes.widen import WidenConvolutions, Widening, possible_widenings, widen_weight

RNG = np.random.default_rng(5)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def widened(model, *chosen):
    """(model with its convolutions widened, whether anything changed)."""
    result = model.clone()
    convolutions = [x for x in find_layers(model) if x.op == "Conv"]
    changed = WidenConvolutions(
        {x.name: w for x, w in zip(convolutions, chosen, strict=False)}
    ).run(result)
    InferShapes().run(result)
    return result, changed


def test_text(parse, golden):
    model = parse(
        "g (float[N,2,H,10] x) => (float[N,1,H,10] y)"
        " { a = Conv <pads = [1,1,1,1]> (x, w, b) y = Relu (a) }",
        w=np.arange(18, dtype=np.float32).reshape(1, 2, 3, 3),
        b=np.ones(1, np.float32),
    )
    result, changed = widened(model, Widening(1, 4))
    assert changed
    texts = [to_text(m, weights=True) for m in (model, result)]
    golden("widen_convolutions", "--- widen-convolutions\n".join(texts))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_the_same_numbers(parse, run, data):
    count = data.draw(st.integers(1, 2), "dimensions")

    def each(low, high, name):
        return [data.draw(st.integers(low, high), f"{name}{i}") for i in range(count)]

    sizes, kernel, strides = each(4, 24, "size"), each(1, 5, "kernel"), each(1, 3, "stride")
    begins, ends, dilations = each(0, 2, "begin"), each(0, 3, "end"), each(1, 2, "dilation")
    inside, outside = data.draw(st.integers(1, 3), "in"), data.draw(st.integers(1, 4), "out")
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    spans = zip(sizes, begins, ends, reach, strict=True)
    assume(all(s + b + e >= r for s, b, e, r in spans))
    dims = ",".join(map(str, sizes))
    activation = data.draw(st.sampled_from(["Relu", "HardSwish", "Identity"]), "activation")
    bias = data.draw(st.booleans(), "bias")
    text = (
        f"g (float[N,{inside},{dims}] x) => (float[N,{outside},{','.join('ABCD'[:count])}] y,"
        f" float[N,{outside},{','.join('EFGH'[:count])}] z) {{ a = Conv <pads = {begins + ends},"
        f" strides = {strides}, dilations = {dilations}> (x, w{', b' if bias else ''})"
        f" y = {activation} (a) z = Neg (y) }}"
    )
    tensors = {"w": floats(outside, inside, *kernel)} | ({"b": floats(outside)} if bias else {})
    model = parse(text, **tensors)
    layer = next(x for x in find_layers(model) if x.op == "Conv")
    choices = possible_widenings(layer)
    assume(choices)
    feeds = {"x": floats(2, inside, *sizes)}
    expected = run(model, feeds)
    result, changed = widened(model, data.draw(st.sampled_from(choices), "widening"))
    assert changed
    found = run(result, feeds)
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-4)
    # the layer is still one that other passes know
    again = next(x for x in find_layers(result) if x.op == "Conv")
    assert again.name == layer.name
    assert (again.activation is None) == (layer.activation is None)


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N,2,8,8] x) => (float[N,2,8,8] y) { y = Conv <group = 2> (x, w) }",
        "g (float[N,1,H,W] x) => (float[N,2,H,W] y) { y = Conv (x, w) }",
        'g (float[N,1,8,8] x) => (float[N,2,A,B] y) { y = Conv <auto_pad = "SAME_UPPER"> (x, w) }',
        "g (float[N,1,2,3] x) => (float[N,2,2,3] y) { y = Conv (x, w) }",
    ],
    ids=["groups", "sizes_unknown", "padding_by_rule", "too_small"],
)
def test_left_alone(text, parse):
    model = parse(text, w=floats(2, 1, 1, 1))
    layers = [x for x in find_layers(model) if x.op == "Conv"]
    if "SAME" not in text:
        assert [possible_widenings(x) for x in layers] == [()]
    before = to_text(model)
    result, changed = widened(model, Widening(0, 16))
    assert not changed
    assert to_text(result) == before


def test_wide_convolutions_are_left_alone(parse):
    model = parse(
        "g (float[N,8,32,32] x) => (float[N,64,32,32] y) { y = Conv (x, w) }", w=floats(64, 8, 1, 1)
    )
    assert possible_widenings(find_layers(model)[0]) == ()


def test_weights_are_moved_by_strides():
    wide = widen_weight(np.array([[[1.0, 2.0]]]), axis=0, factor=3, stride=2)
    np.testing.assert_array_equal(
        wide[:, 0], [[1, 2, 0, 0, 0, 0], [0, 0, 1, 2, 0, 0], [0, 0, 0, 0, 1, 2]]
    )


def test_weights_that_others_share_stay(parse, run):
    model = parse(
        "g (float[1,2,12,12] x) => (float[1,2,12,12] y, float[1,2,12,12] z)"
        " { y = Conv (x, w) t = Tanh (y) z = Conv (t, w) }",
        w=floats(2, 2, 1, 1),
    )
    feeds = {"x": floats(1, 2, 12, 12)}
    result, changed = widened(model, Widening(1, 2))
    assert changed
    assert "w" in result.graph.initializers
    expected, found = run(model, feeds), run(result, feeds)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5)
