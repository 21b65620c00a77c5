"""Nodes that hand on what they read are gone, and only those."""

from __future__ import annotations

import numpy as np
import pytest

from compress.graph.eliminate_noops import EliminateNoOps
from compress.graph.infer_shapes import InferShapes
from compress.graph.name_values import NameValues

CONSTANTS = {
    "zeros": np.zeros(8, np.int64),
    "pads": np.array([0, 0, 0, 0, 0, 0, 1, 0]),
    "same": np.array([2, 3, 4, 5]),
    "last": np.array([0, 0, -1, 0]),
    "all": np.array([2**62, 2**31 - 1]),
    "copy": np.array([0, 0, -1, 5]),
    "other": np.array([3, 2, 4, 5]),
    "ones": np.ones(4, np.int64),
    "twos": np.array([1, 1, 2, 1]),
    "two_three": np.array([4, 5]),
    "start": np.array([0, 0]),
    "one_start": np.array([0, 1]),
    "far": np.array([2**31 - 1, 5]),
    "near": np.array([2, 4]),
    "axes": np.array([0, 3]),
    "back": np.array([-1, -1]),
    "unit": np.ones(4, np.float32),
    "scaled": np.array([1, 1, 2, 1], np.float32),
    "true": np.array(True),
    "ratio": np.float32(0.5),
    "none": np.zeros(0, np.int64),
    "f": np.float32(0),
    "i": np.int64(0),
}

GONE = [
    "Identity (x)",
    "Cast <to = 1> (x)",
    "CastLike (x, f)",
    "Clip (x)",
    "Concat <axis = 1> (x)",
    "Sum (x)",
    "Max (x)",
    "Mean (x)",
    "Dropout (x)",
    "Dropout (x, ratio)",
    "Expand (x, ones)",
    "Expand (x, two_three)",
    "Pad (x, zeros)",
    "Reshape (x, same)",
    "Reshape (x, copy)",
    "Resize (x, , unit)",
    "Slice (x, start, far, axes)",
    "Split <num_outputs = 1> (x)",
    "Squeeze (x)",
    "Tile (x, ones)",
    "Transpose <perm = [0, 1, 2, 3]> (x)",
    "Unsqueeze (x, none)",
]
STAYING = [
    "Cast <to = 7> (x)",
    "CastLike (x, i)",
    "Clip (x, f)",
    "Dropout (x, ratio, true)",
    "Pad (x, pads)",
    "Reshape (x, other)",
    "Resize (x, , scaled)",
    "Slice (x, start, near, axes)",
    "Slice (x, one_start, far, axes)",
    "Slice (x, start, far, axes, back)",
    "Tile (x, twos)",
    "Transpose (x)",
    "Transpose <perm = [0, 1, 3, 2]> (x)",
    "Relu (x)",
    "own.Identity (x)",
]


def prepared(parse, operator, shape="2,3,4,5"):
    text = (
        f"g (float[{shape}] x) => (float[?,?,?,?] y) {{ r = Neg (x) k = {operator} y = Abs (k) }}"
    )
    model = parse(text, **CONSTANTS)
    NameValues().run(model)
    InferShapes().run(model)
    return model


@pytest.mark.parametrize("operator", GONE)
def test_no_ops_are_gone(operator, parse, assert_same):
    model, before = (prepared(parse, operator) for _ in range(2))
    assert EliminateNoOps().run(model)
    assert [n.op_type for n in model.graph] == ["Neg", "Abs"]
    assert_same(before, model, {"x": np.ones((2, 3, 4, 5), np.float32)})


@pytest.mark.parametrize("operator", STAYING)
def test_what_changes_anything_stays(operator, parse):
    assert not EliminateNoOps().run(prepared(parse, operator))


@pytest.mark.parametrize(
    ("operator", "gone"),
    [
        ("Reshape (x, last)", True),
        ("Reshape (x, same)", False),
        ("Slice (x, start, far, axes)", False),
        ("Slice (x, start, all, axes)", True),
        ("Expand (x, ones)", True),
        ("Expand (x, same)", False),
        ("Squeeze (x)", False),
        ("Identity (x)", True),
    ],
)
def test_dynamic_dimensions_need_proof(operator, gone, parse):
    assert EliminateNoOps().run(prepared(parse, operator, "2,N,M,K")) is gone


def test_a_mask_that_is_read_keeps_the_dropout(parse):
    text = "g (float[2] x) => (float[2] y, bool[2] m) { a, m = Dropout (x) y = Relu (a) }"
    assert not EliminateNoOps().run(parse(text))


OUTPUTS = """
g (float[2] x, bool c) => (float[2] y, float[2] z, float[2] w, float[2] k) {
    a = Relu (x)
    y = Identity (a)
    b = Identity (x)
    z = Cast <to = 1> (b)
    w = Identity (y)
    k = Identity (constant)
}
"""


def test_names_of_outputs_survive(parse, golden_pass, assert_same):
    model, before = (parse(OUTPUTS, constant=np.ones(2, np.float32)) for _ in range(2))
    for each in (model, before):
        NameValues().run(each)
        InferShapes().run(each)
    golden_pass("eliminate_noops", model, EliminateNoOps())
    assert_same(before, model, {"x": np.array([1, -1], np.float32), "c": np.array(True)})


def test_outputs_of_branches_are_kept(parse, assert_same):
    text = """g (float[2] x, bool c) => (float[2] y) { a = Exp (x) y = If (c) <
        then_branch = t () => (p) { p = Identity (a) },
        else_branch = e () => (q) { r = Neg (x) s = Identity (r) q = Identity (s) } > }"""
    model, before = parse(text), parse(text)
    assert EliminateNoOps().run(model)
    branches = {n: a.as_graph() for n, a in model.graph[1].attributes.items()}
    assert [n.op_type for n in branches["then_branch"]] == ["Identity"]
    assert [n.op_type for n in branches["else_branch"]] == ["Neg"]
    for truth in (True, False):
        assert_same(before, model, {"x": np.ones(2, np.float32), "c": np.array(truth)})
