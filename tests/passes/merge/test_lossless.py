"""Merges that change nothing: found wherever they are, refused wherever they are not."""

from __future__ import annotations

import numpy as np
import pytest

from compress.graph.layers import find_layers
from compress.graph.printer import to_text
from compress.passes.merge.lossless import MergeTransposed, lossless_spans, transposed_pairs

RNG = np.random.default_rng(4)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def ends(model):
    return {(s.source.name, s.target.name) for s, _ in lossless_spans(model)}


def test_an_activation_between_is_no_merge(parse):
    model = parse(
        "g (float[1,4,8,8] x) => (float[1,4,8,8] y)"
        " { a = Conv (x, w) r = Relu (a) y = Conv (r, w) }",
        w=floats(4, 4, 1, 1),
    )
    assert ends(model) == set()


def test_padding_of_what_is_not_zero_is_no_merge(parse):
    text = (
        "g (float[1,4,8,8] x) => (float[1,4,8,8] y)"
        " { a = Conv (x, w1%s) y = Conv <pads = [1,1,1,1]> (a, w2) }"
    )
    tensors = {"w1": floats(4, 4, 1, 1), "w2": floats(4, 4, 3, 3)}
    assert ends(parse(text % "", **tensors)) == {("x", "y")}
    assert ends(parse(text % ", b", **tensors, b=floats(4))) == set()


def test_branches_with_a_batch_norm_of_their_own(parse, run):
    model = parse(
        "g (float[1,4,8,8] x) => (float[1,4,8,8] y) {"
        " a = Conv <pads = [1,1,1,1]> (x, w1, b1) b = Conv (x, w2)"
        " c = BatchNormalization (x, s, t, m, v) d = Add (a, b) e = Add (d, c) y = Relu (e) }",
        w1=floats(4, 4, 3, 3),
        b1=floats(4),
        w2=floats(4, 4, 1, 1),
        s=floats(4),
        t=floats(4),
        m=floats(4),
        v=np.abs(floats(4)) + 0.5,
    )
    assert ("x", "y") in ends(model)


TRANSPOSED = {
    "behind": (
        "g (float[N,3,6,6] x) => (float[N,4,12,12] y)"
        " { a = ConvTranspose <strides = [2,2]> (x, v, b) c = Conv (a, w, d) y = Relu (c) }",
        {"v": (3, 8, 2, 2), "b": (8,), "w": (4, 8, 1, 1), "d": (4,)},
    ),
    "behind, without biases": (
        "g (float[N,3,6,6] x) => (float[N,4,13,13] y)"
        " { a = ConvTranspose <strides = [2,2]> (x, v) y = Conv (a, w) }",
        {"v": (3, 8, 3, 3), "w": (4, 8, 1, 1)},
    ),
    "before": (
        "g (float[N,3,6,6] x) => (float[N,4,12,12] y)"
        " { a = Conv (x, w)"
        " y = ConvTranspose <strides = [2,2], pads = [1,1,1,1]> (a, v, b) }",
        {"w": (8, 3, 1, 1), "v": (8, 4, 4, 4), "b": (4,)},
    ),
}


@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed_convolutions(parse, run, case):
    text, shapes = TRANSPOSED[case]
    model = parse(text, **{name: floats(*shape) for name, shape in shapes.items()})
    ((first, second),) = transposed_pairs(model)
    result = model.clone()
    assert MergeTransposed(frozenset({first.name, second.name})).run(result)
    assert sum(layer.weight is not None for layer in find_layers(result)) == 1
    x = floats(2, 3, 6, 6)
    expected, found = run(model, {"x": x})["y"], run(result, {"x": x})["y"]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_text(parse, golden):
    text, shapes = TRANSPOSED["behind"]
    model = parse(text, **{n: np.ones(s, np.float32) for n, s in shapes.items()})
    result = model.clone()
    MergeTransposed(frozenset({"a"})).run(result)
    golden("merge_transposed", "--- merge-transposed\n".join(to_text(m) for m in (model, result)))


@pytest.mark.parametrize(
    "text",
    [
        # a bias before: taps add it up a different number of times
        "g (float[1,3,6,6] x) => (float[1,4,12,12] y)"
        " { a = Conv (x, w, b) y = ConvTranspose <strides = [2,2]> (a, v) }",
        # an activation between
        "g (float[1,3,6,6] x) => (float[1,4,12,12] y)"
        " { c = Conv (x, w) a = Relu (c) y = ConvTranspose <strides = [2,2]> (a, v) }",
        # read by others
        "g (float[1,3,6,6] x) => (float[1,4,12,12] y, float[1,8,6,6] a)"
        " { a = Conv (x, w) y = ConvTranspose <strides = [2,2]> (a, v) }",
    ],
)
def test_refused(parse, text):
    model = parse(text, w=floats(8, 3, 1, 1), b=floats(8), v=floats(8, 4, 2, 2))
    assert transposed_pairs(model) == []
