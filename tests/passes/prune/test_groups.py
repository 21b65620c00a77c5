"""Coupling groups: who goes with whom, and who stays."""

from __future__ import annotations

import numpy as np
import pruning_graphs as graphs
import pytest

from compress.passes.prune.coupling import connected
from compress.passes.prune.groups import find_groups


def groups_of(parse, network):
    text, tensors = network
    return {g.name: g for g in find_groups(parse(text, **tensors))}


def test_residual(parse):
    groups = groups_of(parse, graphs.residual())
    stem, inner, last = groups["a"], groups["b"], groups["y"]
    assert (stem.producers, stem.consumers) == (("a", "c"), ("b", "y"))
    assert (stem.channels, stem.granularity, stem.removable) == (4, 1, True)
    assert (inner.producers, inner.consumers, inner.channels) == (("b",), ("c",), 6)
    assert (last.removable, last.reason) == (False, "it is the model's output y")


def test_concat_offsets(parse):
    groups = groups_of(parse, graphs.concat())
    assert groups["a"].consumers == ("d",)
    assert groups["b"].consumers == ("d", "e")
    np.testing.assert_array_equal(groups["b"].member("wd", 1).indices[:, 0], np.arange(4, 10))


def test_depthwise(parse):
    group = groups_of(parse, graphs.depthwise())["a"]
    assert (group.producers, group.carriers, group.consumers) == (("a",), ("b",), ("c",))
    assert group.member("wb", 0).indices.shape == (6, 1)


def test_grouped(parse):
    equal = groups_of(parse, graphs.grouped(2))
    np.testing.assert_array_equal(equal["a"].member("wa", 0).indices[1], [1, 5])
    np.testing.assert_array_equal(equal["b"].member("wb", 0).indices[1], [1, 7])
    assert equal["a"].channels == 4
    whole = groups_of(parse, graphs.grouped(4))
    assert list(whole) == ["a", "y"]
    np.testing.assert_array_equal(whole["a"].member("wb", 0).indices[1], [3, 4, 5])


def test_flatten_blocks(parse):
    group = groups_of(parse, graphs.flatten())["a"]
    np.testing.assert_array_equal(group.member("wb", 1).indices[1], [4, 5, 6, 7])


def test_heads(parse):
    group = groups_of(parse, graphs.attention())["q0"]
    assert (group.channels, group.granularity) == (4, 4)
    assert (group.producers, group.consumers) == (("q0", "k0", "v0"), ("z",))
    fused = groups_of(parse, graphs.fused_attention())["a"]
    assert (fused.channels, fused.granularity) == (4, 12)
    np.testing.assert_array_equal(
        fused.member("w", 1).indices[1], [4, 5, 6, 7, 20, 21, 22, 23, 36, 37, 38, 39]
    )


def test_partial_overlap_splits_a_layer(parse):
    """Channels that are added to something are another group than those that are not."""
    groups = groups_of(
        parse,
        (
            "g (float[N,3,4,4] x) => (float[N,2,4,4] y) { a = Conv (x, wa)"
            " p, q = Split <axis = 1> (a, sizes) b = Conv (x, wb) c = Add (q, b)"
            " d = Concat <axis = 1> (p, c) y = Conv (d, wy) }",
            {
                "wa": graphs.floats(8, 3, 1, 1),
                "wb": graphs.floats(3, 3, 1, 1),
                "sizes": graphs.integers(5, 3),
                "wy": graphs.floats(2, 8, 1, 1),
            },
        ),
    )
    assert (groups["a"].channels, groups["a"].producers) == (5, ("a",))
    assert (groups["a.2"].channels, groups["a.2"].producers) == (3, ("a", "b"))


@pytest.mark.parametrize(
    ("middle", "reason"),
    [
        ("b = Softmax <axis = 1> (a)", "Softmax b needs all of them"),
        ("b = LRN <size = 3> (a)", "LRN b needs all of them"),
        ("c = ReduceMean <keepdims = 1> (a, i) b = Mul (a, c)", "ReduceMean c needs all of them"),
        ("c = Pad (a, p) b = Slice (c, i, e, i)", "Pad c needs all of them"),
        (
            "n = Shape (a) k = Cast <to = 1> (n) m = ReduceProd <keepdims = 0> (k) b = Mul (a, m)",
            "Shape",
        ),
        ("b = Slice (a, z, e, i, s)", "Slice b needs all of them"),
        ("c = Gather <axis = 1> (a, j) b = Add (a, c)", "Gather c picks"),
    ],
)
def test_blocked(parse, middle, reason):
    count = 4 if "Slice" not in middle else 4 - 2 * ("(a" in middle)
    text = (
        "g (float[N,3,H,4] x) => (float[N,2,H,4] y)"
        f" {{ a = Conv (x, wa) {middle} y = Conv (b, wy) }}"
    )
    tensors = {
        "i": graphs.integers(1),
        "j": graphs.integers(0, 0, 0, 1).reshape(2, 2)[:1, :1],
        "z": graphs.integers(0),
        "e": graphs.integers(5 if "Pad" in middle else 4),
        "s": graphs.integers(2),
        "p": graphs.integers(0, 1, 0, 0, 0, 0, 0, 0),
        "wa": graphs.floats(4, 3, 1, 1),
        "wy": graphs.floats(2, count, 1, 1),
    }
    groups = [g for g in groups_of(parse, (text, tensors)).values() if g.name.startswith("a")]
    assert not groups[0].removable
    assert groups[0].reason.startswith(reason)


def test_subgraphs_block_what_they_read(parse):
    text = (
        "g (float[N,3,4,4] x, bool c) => (float[N,2,4,4] y) { a = Conv (x, wa) r = Relu (a)"
        " s = If (c) <then_branch = t () => (float[N,4,4,4] u) { u = Neg (r) },"
        " else_branch = e () => (float[N,4,4,4] v) { v = Exp (r) }> y = Conv (s, wy) }"
    )
    tensors = {"wa": graphs.floats(4, 3, 1, 1), "wy": graphs.floats(2, 4, 1, 1)}
    group = groups_of(parse, (text, tensors))["a"]
    assert (group.removable, group.reason) == (False, "If s needs all of them")


def test_layer_normalisation_is_not_exact(parse):
    text = (
        "g (float[N,4] x) => (float[N,2] y) { a = MatMul (x, wa) n = LayerNormalization (a, g, h)"
        " y = MatMul (n, wy) }"
    )
    tensors = {
        "wa": graphs.floats(4, 6),
        "g": graphs.floats(6),
        "h": graphs.floats(6, seed=1),
        "wy": graphs.floats(6, 2),
    }
    group = groups_of(parse, (text, tensors))["a"]
    assert group.removable
    assert not group.exact
    assert {m.value for m in group.members if m.constant} == {"wa", "g", "h", "wy"}


def test_embeddings_produce(parse):
    text = "g (int64[N,5] x) => (float[N,5,2] y) { a = Gather (table, x) y = MatMul (a, wy) }"
    tensors = {"table": graphs.floats(9, 6), "wy": graphs.floats(6, 2)}
    group = groups_of(parse, (text, tensors))["a"]
    assert (group.producers, group.consumers, group.channels) == (("a",), ("y",), 6)


def test_tied_weights_are_one_group(parse):
    """One kernel in two places loses the same channels in both."""
    text = (
        "g (float[N,3,4,4] x, float[N,3,4,4] z) => (float[N,2,4,4] y) { a = Conv (x, wa)"
        " b = Conv (z, wa) c = Conv (a, wy) d = Conv (b, wd) y = Add (c, d) }"
    )
    tensors = {
        "wa": graphs.floats(4, 3, 1, 1),
        "wy": graphs.floats(2, 4, 1, 1),
        "wd": graphs.floats(2, 4, 1, 1, seed=1),
    }
    group = groups_of(parse, (text, tensors))["a"]
    assert (group.producers, group.consumers) == (("a", "b"), ("c", "d"))


def test_connected_components():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 300, (2, 200))
    labels = connected(300, one, other)
    expected = list(range(300))
    for _ in range(300):
        for a, b in zip(one, other, strict=True):
            expected[a] = expected[b] = min(expected[a], expected[b])
    assert labels.tolist() == expected
