"""Spans merged into one operator: texts, and the same numbers in onnxruntime, borders included."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from compress.graph.infer_shapes import InferShapes
from compress.graph.layers import find_layers
from compress.graph.printer import to_text
from compress.graph.traversal import remove_dead, replace
from compress.passes.merge.algebra import grouped, ungrouped
from compress.passes.merge.rewrite import MergeSpans, Replacement
from compress.passes.merge.spans import find_spans, folded

RNG = np.random.default_rng(11)
MARGIN = 24
"""Zeros around an input, for sums that know no border; a multiple of all strides that are drawn."""


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def span_of(model, target, source="x"):
    return next(s for s in find_spans(model) if (s.source.name, s.target.name) == (source, target))


def merged(model, *spans, **how):
    result = model.clone()
    items = [Replacement(s.source.name, s.target.name, folded(s), **how) for s in spans]
    assert MergeSpans(tuple(items)).run(result)
    return result


def without_activations(model, span):
    """The model with the activations inside the span left out."""
    names = {str(node.name) for node in span.activations}
    result = model.clone()
    for node in [n for n in result.graph if str(n.name) in names]:
        replace(node.outputs[0], node.inputs[0])
        remove_dead([node])
    return result


def beyond_borders(run, model, x, name, stride):
    """What the network gives where nothing inside is padded: its input lies in a plane of zeros."""
    axes = x.ndim - 2
    wide = model.clone()
    for value in (*wide.graph.inputs, *wide.graph.outputs):
        value.shape = ir.Shape([None] * x.ndim)
    InferShapes().run(wide)
    found = run(wide, {"x": np.pad(x, [(0, 0)] * 2 + [(MARGIN, MARGIN)] * axes)})[name]
    plain = run(model, {"x": x})[name]
    places = zip(stride, plain.shape[2:], strict=True)
    window = tuple(slice(MARGIN // s, MARGIN // s + n) for s, n in places)
    return found[(slice(None), slice(None), *window)]


def close(found, expected, tolerance=1e-5):
    scale = max(1.0, float(np.abs(expected).max()))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=tolerance * scale, rtol=0)


BLOCK = (
    "g (float[N,4,8,8] x) => (float[N,4,8,8] y) {"
    " a0 = Conv (x, w1, b1) a = Relu (a0)"
    " c0 = Conv <group = 12, pads = [1,1,1,1]> (a, w2, b2) c = Relu (c0)"
    " d = Conv (c, w3, b3) s = Add (d, x) y = Neg (s) }"
)


def block(parse):
    own = np.random.default_rng(7)
    shapes = {"w1": (12, 4, 1, 1), "b1": 12, "w2": (12, 1, 3, 3), "b2": 12}
    shapes |= {"w3": (4, 12, 1, 1), "b3": 4}
    return parse(BLOCK, **{k: own.standard_normal(s).astype(np.float32) for k, s in shapes.items()})


def test_text(parse, golden):
    model = block(parse)
    result = merged(model, span_of(model, "s"), low=-0.5)
    golden("merge_spans", "--- merge-spans\n".join(to_text(m) for m in (model, result)))


def test_an_inverted_residual_block_is_one_convolution(parse, run):
    model = block(parse)
    span = span_of(model, "s")
    assert [layer.op for layer in span.layers] == ["Conv", "Conv", "Conv", "Add"]
    assert len(span.activations) == 2
    result = merged(model, span)
    assert [n.op_type for n in result.graph] == ["Conv", "Neg"]
    x = floats(2, 4, 8, 8)
    expected = beyond_borders(run, without_activations(model, span), x, "y", (1, 1))
    close(run(result, {"x": x})["y"], expected)


def test_a_depthwise_chain_stays_depthwise(parse, run):
    model = parse(
        "g (float[1,6,9,9] x) => (float[1,6,5,5] y)"
        " { a = Conv <group = 6, pads = [1,1,1,1]> (x, w1)"
        " y = Conv <group = 6, strides = [2,2], pads = [1,1,1,1]> (a, w2, b2) }",
        w1=floats(6, 1, 3, 3),
        w2=floats(6, 1, 3, 3),
        b2=floats(6),
    )
    span = span_of(model, "y")
    result = merged(model, span)
    (layer,) = find_layers(result)
    assert layer.depthwise
    assert layer.weight.shape == (6, 1, 5, 5)
    x = floats(1, 6, 9, 9)
    close(run(result, {"x": x})["y"], beyond_borders(run, model, x, "y", (2, 2)))


def test_dropping_layers_leaves_their_input(parse, run):
    model = block(parse)
    result = model.clone()
    MergeSpans((Replacement("x", "s", None),)).run(result)
    assert [n.op_type for n in result.graph] == ["Neg"]
    x = floats(1, 4, 8, 8)
    np.testing.assert_array_equal(run(result, {"x": x})["y"], -x)


@pytest.mark.parametrize("dropped", [(), (0,), (1,), (0, 1)])
def test_spans_behind_one_another(parse, run, dropped):
    text = (
        "g (float[N,4,8,8] x) => (float[N,4,8,8] y) {"
        " a = Conv (x, w1, b1) b = Conv (a, w2) s = Add (b, x)"
        " c = Conv (s, w1, b1) d = Conv (c, w2) t = Add (d, s) y = Neg (t) }"
    )
    model = parse(text, w1=floats(6, 4, 1, 1), b1=floats(6), w2=floats(4, 6, 1, 1))
    spans = [span_of(model, "s"), span_of(model, "t", "s")]
    result, expected = model.clone(), floats(2, 4, 8, 8)
    items, x = [], expected
    for i, span in enumerate(spans):
        items.append(Replacement(*names(span), None if i in dropped else folded(span)))
        if i not in dropped:
            weight = folded(span).weight[..., 0, 0]
            bias = folded(span).bias.reshape(-1, 1, 1)
            expected = np.einsum("oi,nihw->nohw", weight, expected) + bias
    # in any order
    MergeSpans(tuple(reversed(items))).run(result)
    assert len(result.graph) == 3 - len(dropped)
    close(run(result, {"x": x})["y"], -expected)


def names(span):
    return str(span.source.name), str(span.target.name)


def test_everything_dropped_is_an_identity(parse, run):
    model = parse(
        "g (float[N,4,8,8] x) => (float[N,4,8,8] y) { a = Conv (x, w) y = Add (a, x) }",
        w=floats(4, 4, 1, 1),
    )
    result = model.clone()
    MergeSpans((Replacement("x", "y", None),)).run(result)
    x = floats(1, 4, 8, 8)
    np.testing.assert_array_equal(run(result, {"x": x})["y"], x)


def test_the_activation_at_the_end_stays(parse, run):
    model = parse(
        "g (float[N,4,8,8] x) => (float[N,4,8,8] y)"
        " { a = Conv (x, w1) b = Conv <pads = [1,1,1,1]> (a, w2) s = Add (b, x) y = Relu (s) }",
        w1=floats(4, 4, 1, 1),
        w2=floats(4, 4, 3, 3),
    )
    span = span_of(model, "y")
    assert folded(span).exact
    result = merged(model, span)
    assert [n.op_type for n in result.graph] == ["Conv", "Relu"]
    x = floats(3, 4, 8, 8)
    close(run(result, {"x": x})["y"], run(model, {"x": x})["y"])


@pytest.mark.parametrize(
    ("text", "tensors", "shape"),
    [
        (
            "g (float[N,6] x) => (float[N,5] y)"
            " { a = Gemm <transB = 1> (x, w1, b1) y = Gemm (a, w2, b2) }",
            {"w1": (8, 6), "b1": (8,), "w2": (8, 5), "b2": (5,)},
            (3, 6),
        ),
        (
            "g (float[N,T,6] x) => (float[N,T,5] y)"
            " { m = MatMul (x, w1) a = Add (m, b1) n = MatMul (a, w2) y = Add (n, b2) }",
            {"w1": (6, 8), "b1": (8,), "w2": (8, 5), "b2": (5,)},
            (2, 4, 6),
        ),
        (
            "g (float[N,T,6] x) => (float[N,T,6] y)"
            " { m = MatMul (x, w1) a = MatMul (m, w2) y = Add (a, x) }",
            {"w1": (6, 8), "w2": (8, 6)},
            (2, 4, 6),
        ),
        (
            "g (float[N,3,20] x) => (float[N,5,10] y)"
            " { a = Conv <strides = [2], pads = [2,1]> (x, w1, b1) y = Conv (a, w2, b2) }",
            {"w1": (8, 3, 4), "b1": (8,), "w2": (5, 8, 1), "b2": (5,)},
            (2, 3, 20),
        ),
        (
            # parallel branches, as in RepVGG and RepHMS
            "g (float[N,4,9,9] x) => (float[N,4,9,9] y)"
            " { a = Conv <pads = [1,1,1,1]> (x, w1, b1) b = Conv (x, w2, b2)"
            " c = Conv <pads = [2,1,2,1]> (x, w3) s = Add (a, b) t = Add (s, c)"
            " u = Add (t, x) y = Relu (u) }",
            {"w1": (4, 4, 3, 3), "b1": (4,), "w2": (4, 4, 1, 1), "b2": (4,), "w3": (4, 4, 5, 3)},
            (2, 4, 9, 9),
        ),
        (
            # a stride, and the 1x1 skip beside it
            "g (float[N,4,9,9] x) => (float[N,6,5,5] y)"
            " { a = Conv <strides = [2,2], pads = [1,1,1,1]> (x, w1, b1)"
            " b = Conv <strides = [2,2]> (x, w2) y = Add (a, b) }",
            {"w1": (6, 4, 3, 3), "b1": (6,), "w2": (6, 4, 1, 1)},
            (2, 4, 9, 9),
        ),
    ],
)
def test_lossless(parse, run, text, tensors, shape):
    model = parse(text, **{name: floats(*dims) for name, dims in tensors.items()})
    span = max((s for s in find_spans(model) if s.target.name == "y"), key=lambda s: len(s.layers))
    assert span.source.name == "x"
    assert folded(span).exact
    result = merged(model, span)
    assert sum(layer.weight is not None for layer in find_layers(result)) == 1
    x = floats(*shape)
    close(run(result, {"x": x})["y"], run(model, {"x": x})["y"])


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_chains_of_any_convolutions(parse, run, data):
    axes = data.draw(st.integers(1, 2), "axes")
    sizes = [data.draw(st.integers(6, 14), f"size{i}") for i in range(axes)]
    channels = inside = data.draw(st.sampled_from([2, 4]), "channels")
    lines, tensors, value, now = [], {}, "x", list(sizes)
    for number in range(data.draw(st.integers(2, 3), "length")):
        each = [data.draw(st.integers(1, 3), "kernel") for _ in range(axes)]
        strides = [data.draw(st.integers(1, 2), "stride") for _ in range(axes)]
        dilations = [data.draw(st.integers(1, 2), "dilation") for _ in range(axes)]
        pads = [data.draw(st.integers(0, 2), "pad") for _ in range(2 * axes)]
        group = data.draw(st.sampled_from([1, 2, channels]), "group")
        out = channels if group == channels else data.draw(st.sampled_from([2, 4]), "out")
        for i in range(axes):
            reach = now[i] + pads[i] + pads[axes + i] - (each[i] - 1) * dilations[i] - 1
            assume(reach >= 0)
            now[i] = reach // strides[i] + 1
        tensors[f"w{number}"] = floats(out, channels // group, *each)
        bias = ""
        if data.draw(st.booleans(), "bias"):
            tensors[f"b{number}"], bias = floats(out), f", b{number}"
        lines.append(
            f"v{number} = Conv <pads = {pads}, strides = {strides}, dilations = {dilations},"
            f" group = {group}> ({value}, w{number}{bias})"
        )
        value, channels = f"v{number}", out
    dims = ",".join(map(str, sizes))
    free = ",".join("ABCD"[:axes])
    text = (
        f"g (float[N,{inside},{dims}] x) => (float[N,{channels},{free}] y)"
        f" {{ {' '.join(lines)} y = Abs ({value}) }}"
    )
    model = parse(text, **tensors)
    span = span_of(model, value)
    linear = folded(span)
    result = merged(model, span)
    x = floats(2, inside, *sizes)
    found = run(result, {"x": x})["y"]
    if linear.exact:
        close(found, run(model, {"x": x})["y"])
    close(found, beyond_borders(run, model, x, "y", linear.stride))


def test_what_is_called_inexact_is(parse, run):
    """Two padded 3x3: inside they are a 5x5, at the border they are not."""
    model = parse(
        "g (float[1,3,8,8] x) => (float[1,3,8,8] y)"
        " { a = Conv <pads = [1,1,1,1]> (x, w1, b1) y = Conv <pads = [1,1,1,1]> (a, w2, b2) }",
        w1=floats(3, 3, 3, 3),
        b1=floats(3),
        w2=floats(3, 3, 3, 3),
        b2=floats(3),
    )
    span = span_of(model, "y")
    assert not folded(span).exact
    x = floats(1, 3, 8, 8)
    found, expected = run(merged(model, span), {"x": x})["y"], run(model, {"x": x})["y"]
    close(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])
    assert np.abs(found - expected).max() > 0.01


def test_skips_are_whole_inside_or_whole_outside(parse):
    model = parse(
        "g (float[N,4,8,8] x) => (float[N,4,8,8] y)"
        " { a = Conv (x, w) b = Conv (a, w) c = Conv (b, w) s = Add (c, a) y = Conv (s, w) }",
        w=floats(4, 4, 1, 1),
    )
    found = {(s.source.name, s.target.name) for s in find_spans(model)}
    # a is read by the skip: a span from x to b or c would have two ways out
    assert found == {("a", "c"), ("a", "s"), ("a", "y"), ("x", "s"), ("x", "y"), ("b", "c")} - {
        ("b", "c")
    }


def test_values_that_are_read_elsewhere_end_spans(parse):
    model = parse(
        "g (float[N,4,8,8] x) => (float[N,4,8,8] y, float[N,4,8,8] z)"
        " { a = Conv (x, w) y = Conv (a, w) z = Neg (a) }",
        w=floats(4, 4, 1, 1),
    )
    assert find_spans(model) == []


def test_groups_and_back():
    for groups, shape in itertools.product((2, 4), ((4, 1, 3), (8, 3, 1, 2))):
        weight = floats(shape[0], shape[1], *shape[2:])
        dense = ungrouped(weight, groups)
        assert dense.shape[:2] == (shape[0], shape[1] * groups)
        x = floats(shape[1] * groups)
        expected = np.concatenate(
            [
                np.tensordot(w, x[i * shape[1] : (i + 1) * shape[1]], (1, 0))
                for i, w in enumerate(np.split(weight, groups))
            ]
        )
        np.testing.assert_allclose(np.tensordot(dense, x, (1, 0)), expected, atol=1e-5)
    weight = floats(5, 1, 3, 3)
    found, groups = grouped(ungrouped(weight, 5))
    assert groups == 5
    np.testing.assert_array_equal(found, weight)
