"""All forms of Constant become initialisers."""

from __future__ import annotations

import numpy as np
import pytest

from compress.errors import ModelError
from compress.graph.lift_constants import LiftConstants

TEXT = """
g (float[2] x, bool c) => (float[2] y, float[2] k, int64 i) {
    one = Constant <value_float = 1.5> ()
    many = Constant <value_floats = [1.0, 2.0]> ()
    i = Constant <value_int = 3> ()
    k = Constant <value = float[2] {3.0, 4.0}> ()
    a = Mul (x, many)
    b = Add (a, one)
    y = If (c) <
        then_branch = t () => (p) { n = Constant <value_ints = [2]> () p = Tile (x, n) },
        else_branch = e () => (q) { q = Constant <value = float[2] {5.0, 6.0}> () }
    >
}
"""


def test_constants_become_initialisers(parse, golden_pass, assert_same):
    model, before = parse(TEXT), parse(TEXT)
    golden_pass("lift_constants", model, LiftConstants())
    assert_same(before, model, {"x": np.ones(2, np.float32), "c": np.array(False)})


def test_strings(parse):
    model = parse('g () => (string[2] y) { s = Constant <value_strings = ["a", "b"]> () '
                  "y = Identity (s) }")  # fmt: skip
    assert LiftConstants().run(model)
    assert model.graph.initializers["s"].const_value.numpy().tolist() == [b"a", b"b"]


def test_metadata_moves_with_the_value(parse):
    model = parse("g (float x) => (float y) { k = Constant <value_float = 2.0> () y = Add (x, k) }")
    model.graph[0].outputs[0].metadata_props["origin"] = "here"
    LiftConstants().run(model)
    assert model.graph.initializers["k"].metadata_props == {"origin": "here"}


def test_constant_without_value_is_named(parse):
    model = parse("g () => (float y) { [broken] k = Constant () y = Identity (k) }")
    with pytest.raises(ModelError, match="Constant node 'broken' holds no dense tensor"):
        LiftConstants().run(model)


def test_nothing_to_lift(parse):
    assert not LiftConstants().run(parse("g (float x) => (float y) { y = Relu (x) }"))
