"""Moments of layers' inputs: they predict the moments of the layers' outputs."""

from __future__ import annotations

import numpy as np
import pruning_graphs as graphs
import pytest

from compress.graph.layers import find_layers
from compress.passes.prune.moments import input_moments
from compress.passes.prune.update import weight_matrices

SAMPLES = [
    {"x": np.random.default_rng(i).normal(1, 2, (2, 4, 7, 6)).astype(np.float32)} for i in range(3)
]


@pytest.mark.parametrize(
    ("operator", "weight"),
    [
        ("Conv (x, w)", (6, 4, 1, 1)),
        ("Conv <pads = [1,2,0,1], strides = [2,1], dilations = [1,2]> (x, w)", (6, 4, 3, 2)),
        ("Conv <group = 2, pads = [1,1,1,1]> (x, w)", (6, 2, 3, 3)),
        ("Conv <group = 4, strides = [2,2]> (x, w)", (8, 1, 3, 3)),
        ('Conv <auto_pad = "SAME_UPPER", strides = [2,2]> (x, w)', (6, 4, 3, 3)),
        ('Conv <auto_pad = "SAME_LOWER", strides = [1,2]> (x, w)', (6, 4, 2, 2)),
        ("MatMul (x, w)", (6, 5)),
        ("ConvTranspose <strides = [2,2], group = 2> (x, w)", (4, 3, 2, 2)),
    ],
)
def test_moments_of_inputs_give_those_of_outputs(parse, run, operator, weight):
    model = parse(
        f"g (float[2,4,7,6] x) => (float[A,B,C,D] y) {{ r = Relu (x) y = {operator} }}".replace(
            "(x, w)", "(r, w)"
        ),
        w=graphs.floats(*weight),
    )
    layer = next(x for x in find_layers(model) if x.weight is not None)
    found = input_moments(model, [layer], SAMPLES)[layer.name]
    matrices = weight_matrices(layer)
    outputs = np.concatenate([run(model, s)["y"] for s in SAMPLES]).astype(np.float64)
    if layer.op == "MatMul":
        outputs = np.moveaxis(outputs, -1, 1)
    outputs = np.moveaxis(outputs, 1, -1).reshape(-1, outputs.shape[1])
    mean = np.einsum("gd,gdo->go", found.mean, matrices)
    square = np.einsum("gdo,gde,geo->go", matrices, found.second, matrices)
    if layer.op == "ConvTranspose":
        # stride and kernel are equal: an output is one tap of one input
        mean, square = (a.reshape(-1, 4).mean(axis=1) for a in (mean, square))
    np.testing.assert_allclose(mean.reshape(-1), outputs.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(square.reshape(-1), np.square(outputs).mean(axis=0), rtol=1e-4)
    assert np.linalg.eigvalsh(found.covariance).min() > -1e-5
    if layer.op != "ConvTranspose":
        assert found.count == len(outputs)


def test_positions_are_sampled_and_repeatable(parse):
    model = parse(
        "g (float[2,4,7,6] x) => (float[A,B,C,D] y) { y = Conv (x, w) }",
        w=graphs.floats(6, 4, 1, 1),
    )
    layers = find_layers(model)
    one, other = (input_moments(model, layers, SAMPLES, positions=10)["y"] for _ in range(2))
    assert one.count == 30
    np.testing.assert_array_equal(one.second, other.second)


def test_layers_that_read_the_same_share(parse):
    text, tensors = graphs.attention()
    model = parse(text, **tensors)
    layers = [x for x in find_layers(model) if x.weight is not None]
    samples = [{"x": graphs.floats(2, 5, 12)}]
    found = input_moments(model, layers, samples)
    assert list(found) == ["q0", "k0", "v0", "z"]
    assert found["q0"] is found["k0"] is found["v0"]
