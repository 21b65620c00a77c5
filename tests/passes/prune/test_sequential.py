"""Reconstruction from the front to the back corrects what earlier layers lost."""

from __future__ import annotations

import numpy as np
import pruning_graphs as graphs
import pytest

from compress.graph.layers import find_layers
from compress.passes.prune.groups import find_groups
from compress.passes.prune.moments import input_moments
from compress.passes.prune.remove import RemoveChannels
from compress.passes.prune.sequential import paired_moments, sequential_weights
from compress.passes.prune.update import UpdateWeights, reconstructed_weights


@pytest.fixture
def deep(parse):
    """Six convolutions, a gate behind a global pooling, a residual sum and a Gemm."""
    lines, tensors, x = [], {}, "x"
    for i, channels in enumerate((12, 16, 16, 16, 12)):
        before = 3 if i == 0 else (12, 16, 16, 16)[i - 1]
        # of low rank, as trained ones are: channels can stand in for each other
        kernels = graphs.floats(6, before, 3, 3, seed=i)
        mixed = np.tensordot(graphs.floats(channels, 6, seed=i), kernels, 1)
        tensors[f"w{i}"] = (2 * mixed).astype(np.float32)
        tensors[f"b{i}"] = 0.1 * graphs.floats(channels, seed=i)
        lines.append(f"c{i} = Conv <pads = [1,1,1,1]> ({x}, w{i}, b{i}) r{i} = Relu (c{i})")
        x = f"r{i}"
    tensors |= {
        "wg": graphs.floats(16, 12, 1, 1),
        "wy": graphs.floats(5, 16),
        "by": graphs.floats(5),
    }
    tensors |= {"wd": graphs.floats(12, 1, 3, 3)}
    text = (
        f"g (float[4,3,8,8] x) => (float[4,5] y) {{ {' '.join(lines)}"
        " d = Conv <pads = [1,1,1,1], group = 12> (r4, wd) e = Add (d, r4)"
        " p = GlobalAveragePool (e) g = Conv (p, wg) h = Tanh (g) f = Flatten (h)"
        " y = Gemm <transB = 1> (f, wy, by) }"
    )
    rng = np.random.default_rng(0)
    smooth = np.eye(8) + 0.5 * np.eye(8, k=1) + 0.5 * np.eye(8, k=-1)
    samples = [
        {"x": (smooth @ rng.standard_normal((4, 3, 8, 8)) @ smooth).astype(np.float32)}
        for _ in range(24)
    ]
    return parse(text, **tensors), samples


def test_closer_than_layers_on_their_own(deep, run):
    model, samples = deep
    seen, unseen = samples[:16], samples[16:]
    groups = [g for g in find_groups(model) if g.removable]
    kept = {g.name: list(range(g.channels * 3 // 4)) for g in groups}
    layers = find_layers(model)
    moments = input_moments(model, [x for x in layers if x.weight is not None], seen)

    def error(weights):
        result = model.clone()
        UpdateWeights(weights).run(result)
        RemoveChannels(kept).run(result)
        return sum(np.square(run(result, s)["y"] - run(model, s)["y"]).sum() for s in unseen)

    alone = error(reconstructed_weights(layers, groups, kept, moments))
    calls = []
    found = sequential_weights(model, groups, kept, seen, advance=lambda: calls.append(1))
    assert len(calls) == len(found) == len([x for x in layers if x.weight is not None]) - 1
    assert error(found) < 0.8 * alone < 0.8 * error({})


def test_nothing_to_do(deep):
    model, samples = deep
    groups = find_groups(model)
    assert sequential_weights(model, groups, {}, samples) == {}
    everything = {groups[0].name: list(range(groups[0].channels))}
    assert sequential_weights(model, groups, everything, samples) == {}


def test_moments_of_equal_networks_are_those_of_one(deep):
    model, samples = deep
    layers = [x for x in find_layers(model) if x.weight is not None]
    paired = paired_moments(model, model.clone(), layers, samples)
    single = input_moments(model, layers, samples)
    for name, found in paired.items():
        assert found.count == single[name].count
        np.testing.assert_allclose(found.second, found.cross, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.second, single[name].second, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.mean, single[name].mean, rtol=1e-5, atol=1e-7)
        power = np.trace(found.second, axis1=1, axis2=2) / found.second.shape[1]
        np.testing.assert_allclose(found.power, power, rtol=1e-5)
