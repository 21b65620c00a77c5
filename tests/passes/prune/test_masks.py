"""Masks: exact counts, patterns along the input channels, and updates that make up for zeros."""

from __future__ import annotations

import numpy as np
import pruning_graphs as graphs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.graph.layers import find_layers
from compress.graph.printer import to_text
from compress.passes.prune.masks import (
    ApplyMasks,
    allows_pattern,
    magnitude_mask,
    masked_weights,
    pattern_mask,
    sparse_update,
)
from compress.passes.prune.moments import input_moments


@given(st.integers(1, 60), st.floats(0, 1))
def test_magnitude(size, sparsity):
    weight = np.random.default_rng(size).standard_normal(size)
    mask = magnitude_mask(weight, sparsity)
    assert (~mask).sum() == int(sparsity * size + 1e-6)
    if mask.any() and not mask.all():
        assert np.abs(weight[~mask]).max() <= np.abs(weight[mask]).min()


def test_pattern():
    scores = np.array([[1.0, 4], [3, 3], [2, 2], [4, 1], [0, 0], [0, 9], [0, 1], [0, 8]])
    expected = [[0, 1], [1, 1], [0, 0], [1, 0], [1, 0], [1, 1], [0, 0], [0, 1]]
    np.testing.assert_array_equal(pattern_mask(scores), np.array(expected, bool))


def layer_of(parse, text, **tensors):
    model = parse(text, **tensors)
    return model, next(x for x in find_layers(model) if x.weight is not None)


def conv(parse, inputs, outputs, kernel=3, group=1):
    return layer_of(
        parse,
        f"g (float[1,{inputs},6,6] x) => (float[1,{outputs},A,B] y)"
        f" {{ y = Conv <group = {group}> (x, w) }}",
        w=graphs.floats(outputs, inputs // group, kernel, kernel),
    )


def test_two_of_four_input_channels_at_each_tap(parse):
    _, layer = conv(parse, 8, 6)
    mask, (weight, bias) = masked_weights(layer, pattern=(2, 4))
    assert bias is None
    kept = mask.reshape(6, 2, 4, 3, 3).sum(axis=2)
    np.testing.assert_array_equal(kept, 2)
    np.testing.assert_array_equal(weight != 0, mask)


@pytest.mark.parametrize(
    ("inputs", "outputs", "group", "fewest", "allowed"),
    [
        (256, 256, 1, 256, True),
        (256, 128, 1, 256, False),
        (128, 256, 1, 256, False),
        (8, 8, 1, 0, True),
        (6, 8, 1, 0, False),
        (8, 8, 2, 0, False),
    ],
)
def test_where_the_pattern_is_allowed(parse, inputs, outputs, group, fewest, allowed):
    _, layer = conv(parse, inputs, outputs, kernel=1, group=group)
    assert allows_pattern(layer, fewest_channels=fewest) is allowed


def problem(seed, d=64, outputs=12):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((400, d)) @ (np.eye(d) + 0.1 * rng.standard_normal((d, d)))
    return rng.standard_normal((d, outputs)), x.T @ x / len(x)


def lost(weight, covariance, new):
    return np.sum((weight - new) * (covariance @ (weight - new)))


@pytest.mark.parametrize("pattern", [None, (2, 4)])
@pytest.mark.parametrize("block", [None, 8, 16])
def test_update_loses_less_than_magnitude(block, pattern):
    updated = plain = 0.0
    for seed in range(20):
        weight, covariance = problem(seed)
        new, mask = sparse_update(weight, covariance, sparsity=0.5, pattern=pattern, block=block)
        np.testing.assert_array_equal(new[~mask], 0)
        assert mask.mean() == 0.5
        if pattern:
            np.testing.assert_array_equal(mask.reshape(16, 4, -1).sum(axis=1), 2)
        by_size = pattern_mask(np.abs(weight)) if pattern else magnitude_mask(weight, 0.5)
        energy = lost(weight, covariance, 0 * weight)
        updated += lost(weight, covariance, new) / energy
        plain += lost(weight, covariance, weight * by_size) / energy
    assert updated < 0.75 * plain


def test_update_without_correlation_is_magnitude():
    weight, _ = problem(1)
    new, mask = sparse_update(weight, np.eye(64), sparsity=0.3, block=64)
    np.testing.assert_array_equal(mask, magnitude_mask(weight, 0.3))
    np.testing.assert_allclose(new, weight * mask)


@pytest.mark.parametrize("pattern", [None, (2, 4)])
@pytest.mark.parametrize(
    "text",
    [
        "g (float[2,8,6,6] x) => (float[2,6,A,B] y) { r = Relu (x) y = Conv (r, w) }",
        "g (float[2,8] x) => (float[2,6] y) { r = Relu (x) y = Gemm <transB = 1> (r, w, b) }",
        "g (float[2,8] x) => (float[2,6] y) { r = Relu (x) m = MatMul (r, w) y = Add (m, b) }",
    ],
)
def test_masked_network_is_closer_with_moments(parse, run, text, pattern):
    rng = np.random.default_rng(0)
    shape = (2, 8, 6, 6) if "Conv" in text else (2, 8)
    weight = (6, 8, 3, 3) if "Conv" in text else (8, 6) if "MatMul" in text else (6, 8)
    mix = np.eye(8) + 0.5
    samples = [
        {"x": np.moveaxis(rng.standard_normal((*shape[:1], *shape[2:], 8)) @ mix, -1, 1)}
        for _ in range(60)
    ]
    samples = [{"x": s["x"].astype(np.float32)} for s in samples]
    model, layer = layer_of(parse, text, w=graphs.floats(*weight), b=graphs.floats(6))
    moments = input_moments(model, [layer], samples)

    def error(seen):
        result = model.clone()
        mask, weights = masked_weights(layer, sparsity=0.5, pattern=pattern, moments=seen)
        assert mask.mean() == pytest.approx(0.5, abs=0.01)
        assert ApplyMasks({layer.name: mask}, {layer.name: weights}).run(result)
        new = next(x for x in find_layers(result) if x.name == layer.name)
        assert (new.weight.const_value.numpy()[~mask] == 0).all()
        return sum(np.square(run(result, s)["y"] - run(model, s)["y"]).sum() for s in samples)

    assert error(moments[layer.name]) < 0.8 * error(None)


def test_text(parse, golden):
    model, layer = layer_of(
        parse,
        "g (float[1,4,2,2] x) => (float[1,2,2,2] y) { y = Conv (x, w, b) }",
        w=np.arange(1, 9, dtype=np.float32).reshape(2, 4, 1, 1),
        b=np.ones(2, np.float32),
    )
    result = model.clone()
    assert ApplyMasks({layer.name: masked_weights(layer, pattern=(2, 4))[0]}).run(result)
    texts = [to_text(m, weights=True) for m in (model, result)]
    golden("prune_masks", "--- apply-masks\n".join(texts))


def test_wrong_mask(parse):
    model, layer = conv(parse, 4, 4)
    with pytest.raises(ValueError, match="mask"):
        ApplyMasks({layer.name: np.ones((4, 4), bool)}).run(model)
