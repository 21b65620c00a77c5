"""Activations spelled out in primitive operators become one node each."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compress.graph.activations import FuseHardActivations
from compress.graph.canonical import canonicalize
from compress.graph.printer import to_text
from compress.graph.simplify import simplify

HEAD = "g (float[N,4] x) => (float[N,4] y) "
CONSTANTS = {
    "three": np.float32(3),
    "zero": np.float32(0),
    "six": np.float32(6),
    "sixth": np.float32(1 / 6),
    "one": np.float32(1),
}
X = {"x": np.linspace(-8, 8, 40, dtype=np.float32).reshape(10, 4)}


def model_of(parse, body, head=HEAD, **more):
    tensors = {**CONSTANTS, **more}
    used = {k: v for k, v in tensors.items() if f" {k}" in f" {body}".replace("(", " ")}
    return canonicalize(parse(head + body, **used))


def operators(model):
    return [node.op_type for node in model.graph]


GATE = "a = Add (x, three) b = Clip (a, zero, six) "
SWISH = {
    "product_then_sixth": GATE + "c = Mul (x, b) y = Div (c, six)",
    "product_times_sixth": GATE + "c = Mul (b, x) y = Mul (sixth, c)",
    "sixth_then_product": GATE + "c = Div (b, six) y = Mul (x, c)",
    "times_sixth_then_product": GATE + "c = Mul (b, sixth) y = Mul (c, x)",
    "constant_first": "a = Add (three, x) b = Clip (a, zero, six) c = Mul (x, b) y = Div (c, six)",
    "by_hard_sigmoid": "c = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x) y = Mul (x, c)",
}
SIGMOID = {
    "divided": GATE + "y = Div (b, six)",
    "multiplied": GATE + "y = Mul (sixth, b)",
}
NEITHER = {
    "other_offset": "a = Add (x, one) b = Clip (a, zero, six) c = Mul (x, b) y = Div (c, six)",
    "other_bound": "a = Add (x, three) b = Clip (a, zero, three) c = Mul (x, b) y = Div (c, six)",
    "no_upper_bound": "a = Add (x, three) b = Relu (a) c = Mul (x, b) y = Div (c, six)",
    "other_factor": GATE + "c = Mul (x, b) y = Div (c, three)",
    "another_value": GATE + "d = Exp (x) c = Mul (d, b) y = Div (c, six)",
    "division_of_six": GATE + "d = Add (b, one) y = Div (six, d)",
    "other_slope": "c = HardSigmoid (x) y = Mul (x, c)",
}


@pytest.mark.parametrize("name", SWISH)
def test_hard_swish_in_every_order(name, parse, assert_same):
    model = model_of(parse, "{ " + SWISH[name] + " }")
    fused = model.clone()
    assert FuseHardActivations().run(fused)
    assert operators(fused) == ["HardSwish"]
    assert_same(model, fused, X)
    assert not FuseHardActivations().run(fused)


@pytest.mark.parametrize("name", SIGMOID)
def test_hard_sigmoid(name, parse, assert_same):
    model = model_of(parse, "{ " + SIGMOID[name] + " }")
    fused = model.clone()
    assert FuseHardActivations().run(fused)
    assert operators(fused) == ["HardSigmoid"]
    assert_same(model, fused, X)
    assert not FuseHardActivations().run(fused)


@pytest.mark.parametrize("name", NEITHER)
def test_what_only_looks_like_it(name, parse):
    model = model_of(parse, "{ " + NEITHER[name] + " }")
    before = to_text(model)
    assert not FuseHardActivations().run(model)
    assert to_text(model) == before


def test_text(parse, golden):
    """Squeeze and excitation as MobileNetV3 exports it, and a swish whose gate is read twice."""
    model = model_of(
        parse,
        "{ a = Conv (x, w) p = Add (a, three) q = Clip (p, zero, six) r = Mul (a, q)"
        " s = Div (r, six) g = GlobalAveragePool (s) h = Conv (g, u) k = Add (h, three)"
        " l = Clip (k, zero, six) m = Div (l, six) y = Mul (s, m) z = Exp (q) }",
        "g (float[N,3,8,8] x) => (float[N,4,8,8] y, float[N,4,8,8] z) ",
        w=np.ones((4, 3, 1, 1), np.float32),
        u=np.ones((4, 4, 1, 1), np.float32),
    )
    before = to_text(model)
    assert FuseHardActivations().run(model)
    golden("fuse_hard_activations", f"{before}--- fuse-hard-activations\n{to_text(model)}")


def test_outputs_of_the_model_between(parse, assert_same):
    """The user reads the gate as well."""
    model = model_of(
        parse,
        "{ a = Add (x, three) b = Clip (a, zero, six) s = Div (b, six) y = Mul (x, s) }",
        "g (float[N,4] x) => (float[N,4] s, float[N,4] y) ",
    )
    fused = simplify(model)
    assert [v.name for v in fused.graph.outputs] == ["s", "y"]
    assert_same(model, fused, X)


@pytest.mark.parametrize("dtype", ["double", "float16"])
def test_other_floats_still_run(dtype, parse, assert_same):
    """onnxruntime has no hard-swish for them: what ran before has to run afterwards."""
    numpy = {"double": np.float64, "float16": np.float16}[dtype]
    tensors = {k: v.astype(numpy) for k, v in CONSTANTS.items()}
    model = model_of(
        parse, "{ " + SWISH["product_then_sixth"] + " }", HEAD.replace("float", dtype), **tensors
    )
    assert_same(model, simplify(model), {"x": X["x"].astype(numpy)}, tolerance=2e-2)


def test_constants_that_spread_the_value(parse, assert_same):
    """A constant of higher rank, or of more elements, gives the result another shape."""
    for shape in ((1, 1, 1), (1, 1)):
        model = model_of(
            parse,
            "{ " + SWISH["product_then_sixth"] + " }",
            "g (float[4] x) => (float[?,?,?] y) " if len(shape) == 3
            else "g (float[4] x) => (float[?,?] y) ",
            three=np.full(shape, 3, np.float32),
        )  # fmt: skip
        assert_same(model, simplify(model), {"x": X["x"][0]})


NEUTRAL = [("Mul", 1.0), ("Div", 1.0), ("Add", 0.0), ("Sub", 0.0)]


@pytest.mark.parametrize(("operator", "neutral"), NEUTRAL)
def test_operations_that_do_nothing(operator, neutral, parse, assert_same):
    model = model_of(parse, f"{{ a = {operator} (x, c) y = Exp (a) }}", c=np.float32(neutral))
    fused = simplify(model)
    assert operators(fused) == ["Exp"]
    assert_same(model, fused, X)


@pytest.mark.parametrize(
    ("body", "constant"),
    [
        ("a = Div (c, x) y = Exp (a)", np.float32(1)),
        ("a = Sub (c, x) y = Exp (a)", np.float32(0)),
        ("a = Mul (x, c) y = Exp (a)", np.float32(0)),
    ],
)
def test_operations_that_do_something(body, constant, parse, assert_same):
    model = model_of(parse, f"{{ {body} }}", c=constant)
    assert not FuseHardActivations().run(model.clone())
    assert_same(model, simplify(model), X)


def test_a_neutral_constant_of_higher_rank_changes_the_shape(parse, assert_same):
    model = model_of(
        parse,
        "{ a = Mul (x, c) y = Exp (a) }",
        "g (float[N,4] x) => (float[1,N,4] y) ",
        c=np.ones((1, 1, 1), np.float32),
    )
    assert_same(model, simplify(model), X)


# --- spelled out at random -----------------------------------------------------------------------

SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def spelled(draw):
    """Steps of Add, Mul, Div, Sub, Clip, Relu and products of earlier values, by the constants that
    hard-swish is made of."""
    lines, values, tensors = [], ["x"], {}
    for step, number in zip(range(draw(st.integers(2, 9))), itertools.count(), strict=False):
        kind = draw(st.sampled_from(["scalar", "scalar", "clip", "product", "swish", "relu"]))
        source, new = draw(st.sampled_from(values[-3:])), f"v{step}"
        if kind == "scalar":
            operator = draw(st.sampled_from(["Add", "Mul", "Div", "Sub"]))
            tensors[f"c{number}"] = np.float32(draw(st.sampled_from([3, 6, 1 / 6, 1, 0.5, 2])))
            lines.append(f"{new} = {operator} ({source}, c{number})")
        elif kind == "clip":
            tensors |= {"lo": np.float32(0), "hi": np.float32(6)}
            lines.append(f"{new} = Clip ({source}, lo, hi)")
        elif kind == "relu":
            lines.append(f"{new} = Relu ({source})")
        elif kind == "product":
            lines.append(f"{new} = Mul ({source}, {draw(st.sampled_from(values[-4:]))})")
        else:
            tensors |= {"t": np.float32(3), "lo": np.float32(0), "hi": np.float32(6)}
            lines.append(f"{new}a = Add ({source}, t) {new}b = Clip ({new}a, lo, hi)")
            lines.append(f"{new}c = Mul ({source}, {new}b) {new} = Div ({new}c, hi)")
            values.append(f"{new}b")
        values.append(new)
    outputs = dict.fromkeys([draw(st.sampled_from(values[1:])), values[-1]])
    declared = ", ".join(f"float[N,4] {name}" for name in outputs)
    return f"g (float[N,4] x) => ({declared}) {{ {' '.join(lines)} }}", tensors


@SETTINGS
@given(spelled())
def test_any_spelling_computes_the_same(parse, run, spelling):
    text, tensors = spelling
    model = canonicalize(parse(text, **tensors))
    if not len(model.graph):
        return
    fused = simplify(model)
    feeds = {"x": X["x"] / 8}
    expected, found = run(model, feeds), run(fused, feeds)
    assert list(found) == list(expected)
    for name, array in expected.items():
        scale = max(1.0, float(np.abs(array).max()))
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5 * scale)
    assert to_text(simplify(fused)) == to_text(fused)
