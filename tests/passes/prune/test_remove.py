"""Channels removed: texts, and the same numbers as with zeros."""

from __future__ import annotations

import numpy as np
import pruning_graphs as graphs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pruning_networks import networks

from compress.errors import UsageError
from compress.graph.printer import to_text
from compress.passes.prune.groups import find_groups
from compress.passes.prune.remove import RemoveChannels, round_to


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(networks(), st.sampled_from(["consumes", "produces"]), st.data())
def test_removal_is_zeroing(parse, run, zeroed, network, role, data):
    text, tensors = network
    model = parse(text, **tensors)
    groups = [g for g in find_groups(model) if g.removable]
    chosen = data.draw(
        st.lists(st.sampled_from(groups), min_size=1, max_size=3, unique_by=lambda g: g.name)
    )
    kept, reference = {}, model
    for group in chosen:
        count = data.draw(st.integers(1, group.channels - 1), "kept")
        kept[group.name] = sorted(data.draw(st.permutations(range(group.channels)))[:count])
        removed = np.setdiff1d(np.arange(group.channels), kept[group.name])
        reference = zeroed(reference, group, removed, role)
    result = (model if role == "consumes" else reference).clone()
    assert RemoveChannels(kept).run(result)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)}
    expected, found = run(reference, feeds)["y"], run(result, feeds)["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)

    def size(m):
        return sum(v.const_value.nbytes for v in m.graph.initializers.values())

    assert size(result) < size(model)


@pytest.mark.parametrize(
    ("name", "network", "kept"),
    [
        ("residual", graphs.residual(), {"a": [0, 3], "b": [1, 2, 4, 5]}),
        ("concat", graphs.concat(), {"a": [1, 3], "b": [0, 1, 5]}),
        ("depthwise", graphs.depthwise(), {"a": [0, 2, 5]}),
        ("grouped_equal_counts", graphs.grouped(2), {"a": [1, 3], "b": [0, 4, 5]}),
        ("grouped_whole_groups", graphs.grouped(4), {"a": [0, 3]}),
        ("flatten_gemm", graphs.flatten(), {"a": [1, 2], "b": [0, 2, 4]}),
        ("attention_heads", graphs.attention(), {"q0": [0, 2]}),
        ("fused_attention_heads", graphs.fused_attention(), {"a": [1, 2, 3]}),
    ],
)
def test_text(parse, golden, run, zeroed, name, network, kept):
    text, tensors = network
    model = parse(text, **tensors)
    groups = {g.name: g for g in find_groups(model)}
    result, reference = model.clone(), model
    for group, units in kept.items():
        removed = np.setdiff1d(np.arange(groups[group].channels), units)
        reference = zeroed(reference, groups[group], removed, "consumes")
    assert RemoveChannels(kept).run(result)
    texts = [to_text(m) for m in (model, result)]
    golden(f"prune_{name}", "--- remove-channels\n".join(texts))
    shape = [d if isinstance(d, int) else 2 for d in model.graph.inputs[0].shape]
    feeds = {"x": graphs.floats(*shape)}
    np.testing.assert_allclose(
        run(result, feeds)["y"], run(reference, feeds)["y"], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"nobody": [0]}, "no coupling group is called nobody"),
        ({"y": [0]}, "cannot be removed: it is the model's output y"),
        ({"a": []}, "at least one"),
        ({"a": [1, 0]}, "sorted"),
        ({"a": [0, 4]}, "below 4"),
    ],
)
def test_wrong_units(parse, kept, message):
    text, tensors = graphs.residual()
    with pytest.raises(UsageError, match=message):
        RemoveChannels(kept).run(parse(text, **tensors))


def test_everything_kept_is_no_change(parse):
    text, tensors = graphs.residual()
    model = parse(text, **tensors)
    before = to_text(model, weights=True)
    assert not RemoveChannels({"a": range(4)}).run(model)
    assert not RemoveChannels({}).run(model)
    assert to_text(model, weights=True) == before


def test_a_bias_that_strangers_share_stays(parse, run):
    model = parse(
        "g (float[1,4,4,4] x) => (float[1,4,4,4] y) { a = Conv (x, wa, b) r = Relu (a)"
        " y = Conv (r, wb, b) }",
        wa=graphs.floats(4, 4, 1, 1),
        wb=graphs.floats(4, 4, 1, 1, seed=1),
        b=graphs.floats(4),
    )
    result = model.clone()
    assert RemoveChannels({"a": [2, 3]}).run(result)
    assert result.graph.initializers["b"].shape == (4,)
    assert run(result, {"x": graphs.floats(1, 4, 4, 4)})["y"].shape == (1, 4, 4, 4)


@pytest.mark.parametrize(
    ("text", "tensors", "kept"),
    [
        (
            "g (float[1,3,4,4] x) => (float[1,2,8,8] y) { a = Conv (x, wa) r = Relu (a)"
            ' s = Resize <mode = "nearest"> (r, , , sizes) y = Conv (s, wy) }',
            {
                "wa": graphs.floats(4, 3, 1, 1),
                "sizes": graphs.integers(1, 4, 8, 8),
                "wy": graphs.floats(2, 4, 1, 1),
            },
            [1, 2],
        ),
        (
            "g (float[1,3,4,4] x) => (float[1,2,4,4] y) { a = Conv (x, wa)"
            " n = GroupNormalization <num_groups = 4> (a, g, h) y = Conv (n, wy) }",
            {
                "wa": graphs.floats(8, 3, 1, 1),
                "g": graphs.floats(8),
                "h": graphs.floats(8, seed=1),
                "wy": graphs.floats(2, 8, 1, 1),
            },
            [0, 3],
        ),
        (
            "g (float[1,3,4,4] x) => (float[1,2,8,8] y) { a = Conv (x, wa)"
            ' s = DepthToSpace <blocksize = 2, mode = "CRD"> (a) y = Conv (s, wy) }',
            {"wa": graphs.floats(16, 3, 1, 1), "wy": graphs.floats(2, 4, 1, 1)},
            [0, 2],
        ),
        (
            "g (float[1,3,4,4] x) => (float[1,2,4,4] y) { a = Conv (x, wa)"
            " s = Gather <axis = 1> (a, order) y = Conv (s, wy) }",
            {
                "wa": graphs.floats(4, 3, 1, 1),
                "order": graphs.integers(2, 0, 3, 1),
                "wy": graphs.floats(2, 4, 1, 1),
            },
            [0, 3],
        ),
        (
            "g (float[1,3,4,4] x) => (float[1,2,A,B] y) {"
            " a = ConvTranspose <strides = [2,2], group = 1> (x, wa, b)"
            " r = Relu (a) c = ConvTranspose <group = 4> (r, wc) y = Conv (c, wy) }",
            {
                "wa": graphs.floats(3, 4, 2, 2),
                "b": graphs.floats(4),
                "wc": graphs.floats(4, 2, 2, 2),
                "wy": graphs.floats(2, 8, 1, 1),
            },
            [1, 3],
        ),
        (
            "g (float[1,8,4,4] x) => (float[1,2,4,4] y) { a = Conv (x, wa)"
            " s = Reshape (a, split) t = Transpose <perm = [0,2,1,3,4]> (s) u = Reshape (t, join)"
            " y = Conv <group = 2> (u, wy) }",
            {
                "wa": graphs.floats(8, 8, 1, 1),
                "split": graphs.integers(1, 4, 2, 4, 4),
                "join": graphs.integers(1, 8, 4, 4),
                "wy": graphs.floats(2, 4, 1, 1),
            },
            [0, 2, 3],
        ),
    ],
    ids=["resize", "group_norm", "pixel_shuffle", "permutation", "transposed", "channel_shuffle"],
)
def test_numbers_that_count_channels(parse, run, zeroed, text, tensors, kept):
    model = parse(text, **tensors)
    group = next(g for g in find_groups(model) if g.name == "a")
    removed = np.setdiff1d(np.arange(group.channels), kept)
    result = model.clone()
    assert RemoveChannels({"a": kept}).run(result)
    feeds = {"x": graphs.floats(*model.graph.inputs[0].shape)}
    expected = run(zeroed(model, group, removed, "consumes"), feeds)["y"]
    np.testing.assert_allclose(run(result, feeds)["y"], expected, rtol=1e-5, atol=1e-5)


def test_round_to():
    assert [round_to(n) for n in (1, 8, 11, 12, 57, 61)] == [8, 8, 8, 16, 56, 64]
    assert round_to(61, 8, most=60) == 60
    assert round_to(5, 1) == 5
