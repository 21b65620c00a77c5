"""Chains of reshapes and transposes become one node."""

from __future__ import annotations

import numpy as np
import pytest

from compress.graph.infer_shapes import InferShapes
from compress.graph.merge_layout import MergeLayout
from compress.graph.name_values import NameValues

CONSTANTS = {
    "one": np.array([1]),
    "zero": np.array([0]),
    "flat": np.array([-1, 12]),
    "wide": np.array([-1, 3, 2, 2]),
    "rows": np.array([0, 4, 3]),
    "loose": np.array([-1, 2]),
    "halves": np.array([0, 2, -1]),
}

TEXT = """
g (float[N,3,4] x) => (float[?,?] y, float[?,?,?] z) {
    a = Unsqueeze (x, one)
    b = Reshape (a, flat)
    y = Relu (b)
    c = Transpose <perm = [0, 2, 1]> (x)
    d = Transpose <perm = [1, 2, 0]> (c)
    z = Neg (d)
}
"""


def prepared(model):
    NameValues().run(model)
    InferShapes().run(model)
    return model


def test_chains_become_one(parse, golden_pass, assert_same):
    model, before = (prepared(parse(TEXT, **CONSTANTS)) for _ in range(2))
    golden_pass("merge_layout", model, MergeLayout())
    assert_same(before, model, {"x": np.arange(24, dtype=np.float32).reshape(2, 3, 4)})


@pytest.mark.parametrize(
    ("chain", "merged"),
    [
        ("a = Reshape (x, flat) y = Reshape (a, wide)", True),
        ("a = Flatten (x) y = Reshape (a, rows)", True),
        ("a = Unsqueeze (x, zero) y = Squeeze (a, zero)", False),
        ("a = Unsqueeze (x, zero) y = Unsqueeze (a, one)", False),
        # How many rows there are is known to nobody: two dimensions would have to be -1.
        ("a = Reshape (x, loose) y = Unsqueeze (a, one)", True),
        ("a = Transpose (x) b = Transpose (a) y = Transpose <perm = [1, 0, 2]> (b)", True),
        ("a = Relu (x) y = Reshape (a, rows)", False),
        ("a = Reshape (x, rows) y = Transpose (a)", False),
    ],
)
def test_merging_changes_no_output(chain, merged, parse, assert_same):
    text = f"g (float[N,3,4] x) => (float y) {{ {chain.replace('y =', 'k =')} y = Neg (k) }}"
    model, before = (prepared(parse(text, **CONSTANTS)) for _ in range(2))
    for each in (model, before):
        each.graph.outputs[0].shape = None
    InferShapes().run(before)
    assert MergeLayout().run(model) is merged
    assert not MergeLayout().run(model)
    assert_same(before, model, {"x": np.arange(24, dtype=np.float32).reshape(2, 3, 4)})


def test_two_unknown_dimensions_are_not_guessed(parse):
    text = """g (float[A,B] x, int64[2] s) => (float[?,?,?] y) {
        a = Reshape (x, s) y = Unsqueeze (a, one) }"""
    assert not MergeLayout().run(prepared(parse(text, **CONSTANTS)))


def test_a_symbol_is_not_traded_for_a_minus_one(parse):
    text = "g (float[A,B] x) => (float[?,?,?] y) { a = Reshape (x, k) y = Unsqueeze (a, zero) }"
    model = prepared(parse(text, k=np.array([0, 0]), **CONSTANTS))
    assert not MergeLayout().run(model)


def test_minus_one_becomes_zero_where_it_is_a_copy(parse, assert_same):
    text = "g (float[N,3,4] x) => (float[?,?] y) { k = Reshape (x, flat) y = Neg (k) }"
    model, before = (prepared(parse(text, **CONSTANTS)) for _ in range(2))
    assert MergeLayout().run(model)
    target = model.graph[0].inputs[1].const_value.numpy()
    assert target.tolist() == [0, 12]
    InferShapes().run(model)
    assert str(model.graph.outputs[0].shape) == "[N,12]"
    assert_same(before, model, {"x": np.ones((5, 3, 4), np.float32)})


def test_minus_one_that_is_no_copy_stays(parse):
    text = "g (float[N,3,4] x) => (float[?,?] y) { k = Reshape (x, loose) y = Neg (k) }"
    assert not MergeLayout().run(prepared(parse(text, **CONSTANTS)))


def test_the_first_stays_if_others_read_it(parse, assert_same):
    text = """g (float[N,3,4] x) => (float[?,?] p, float[?,?,?,?] q) {
        a = Reshape (x, flat) p = Relu (a) b = Reshape (a, wide) q = Neg (b) }"""
    model, before = (prepared(parse(text, **CONSTANTS)) for _ in range(2))
    assert MergeLayout().run(model)
    assert_same(before, model, {"x": np.ones((5, 3, 4), np.float32)})
