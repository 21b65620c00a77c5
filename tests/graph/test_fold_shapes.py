"""Shape arithmetic over known dimensions becomes constants."""

from __future__ import annotations

import numpy as np
import pytest

from compress.graph.fold_shapes import FoldShapes
from compress.graph.infer_shapes import InferShapes
from compress.graph.name_values import NameValues

FLATTEN = """
g (float[N,8,T] x) => (float[?,?] y, float[?,?,?] e) {
    s = Shape (x)
    n = Gather <axis = 0> (s, zero)
    c = Gather <axis = 0> (s, one)
    two = Mul (c, c)
    n1 = Unsqueeze (n, axis0)
    c1 = Unsqueeze (c, axis0)
    t = Concat <axis = 0> (n1, minus)
    y = Reshape (x, t)
    target = Concat <axis = 0> (n1, c1, one1)
    z = Slice (x, start, end, axis2)
    e = Expand (z, target)
}
"""
CONSTANTS = {
    "zero": np.array(0),
    "one": np.array(1),
    "axis0": np.array([0]),
    "axis2": np.array([2]),
    "minus": np.array([-1]),
    "start": np.array([0]),
    "end": np.array([1]),
    "one1": np.array([1]),
}


def prepared(model):
    NameValues().run(model)
    InferShapes().run(model)
    return model


def test_dynamic_entries_become_copies(parse, golden_pass, assert_same):
    model, before = (prepared(parse(FLATTEN, **CONSTANTS)) for _ in range(2))
    golden_pass("fold_shapes", model, FoldShapes())
    assert_same(before, model, {"x": np.arange(48, dtype=np.float32).reshape(2, 8, 3)})


def folded_value(parse, expression, name="k", dims="2,3,4"):
    """What `name` becomes, with x: [2,3,4] and s = Shape(x) = {2,3,4}; None if no constant."""
    text = f"g (float[{dims}] x) => (int64[?] y) {{ s = Shape (x) {expression} y = Neg ({name}) }}"
    constants = {f"c{i}": np.array(i) for i in range(-1, 6)} | {
        "v0": np.array([0]), "v1": np.array([1]), "v2": np.array([2]), "vm1": np.array([-1]),
        "far": np.array([2**62]), "none": np.array([], np.int64),
    }  # fmt: skip
    model = prepared(parse(text, **constants))
    FoldShapes().run(model)
    value = model.graph.initializers.get(name)
    return None if value is None else value.const_value.numpy().tolist()


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("k = Identity (s)", None),
        ("k = Shape <start = 1> (x)", [3, 4]),
        ("k = Shape <start = -2, end = -1> (x)", [3]),
        ("k = Size (x)", 24),
        ("k = Gather (s, c1)", 3),
        ("k = Gather (s, vm1)", [4]),
        ("k = Gather (s, c5)", None),
        ("k = Slice (s, v1, far)", [3, 4]),
        ("k = Slice (s, vm1, far)", [4]),
        ("k = Slice (s, v0, v2, v0, v2)", None),
        ("a = Slice (s, v0, v1) k = Concat <axis = 0> (a, vm1, a)", [2, -1, 2]),
        ("a = Gather (s, c1) k = Unsqueeze (a, v0)", [3]),
        ("a = Slice (s, v1, v2) k = Squeeze (a, v0)", 3),
        ("a = Slice (s, v1, v2) k = Reshape (a, none)", 3),
        ("a = Gather (s, c1) k = Reshape (a, vm1)", [3]),
        ("a = Cast <to = 6> (s) k = Cast <to = 7> (a)", [2, 3, 4]),
        ("k = Add (s, v1)", [3, 4, 5]),
        ("a = Gather (s, c2) k = Div (a, c2)", 2),
        ("a = Gather (s, c2) k = Sub (c1, a)", -3),
        ("a = Gather (s, c2) b = Sub (c1, a) k = Div (b, c2)", None),
        ("a = Gather (s, c2) k = Div (a, c0)", None),
        ("k = Mul (s, far)", None),
    ],
)
def test_rules(parse, expression, expected):
    assert folded_value(parse, expression) == expected


def test_dynamic_dimensions_stay_unknown(parse):
    assert folded_value(parse, "k = Gather (s, c0)", dims="N,3,4") is None
    assert folded_value(parse, "k = Gather (s, c1)", dims="N,3,4") == 3
    assert folded_value(parse, "k = Size (x)", dims="N,3,4") is None


def test_two_unknown_entries_leave_the_reshape(parse):
    text = """g (float[A,B] x, float[B,A] z) => (float[?,?] y) {
        s = Shape (z) y = Reshape (x, s) }"""
    model = prepared(parse(text))
    assert not FoldShapes().run(model)


def test_declared_output_dimensions_are_not_trusted(parse):
    # The file claims that `a` has the shape of `x`; it has whatever `count` says.
    text = """g (float[N,M] x, int64[2] count) => (float[N,M] a, float[?,?] y) {
        a = Reshape (x, count) s = Shape (a) y = Reshape (x, s) }"""
    model = prepared(parse(text))
    assert str(model.graph.outputs[0].shape) == "[N,M]"
    assert not FoldShapes().run(model)


def test_numbers_that_do_not_fit_are_left_to_the_runtime(parse):
    text = """g (float[3000000000] x) => (int32[?] y) { s = Shape (x) k = Cast <to = 6> (s)
        y = Neg (k) }"""
    model = prepared(parse(text))
    FoldShapes().run(model)
    assert "k" not in model.graph.initializers
