"""The same thing is computed and stored once."""

from __future__ import annotations

import numpy as np
import pytest

from compress.graph.merge_duplicates import MergeDuplicates
from compress.graph.order import all_nodes

TEXT = """
g (float[N,2] x) => (float[N,2] y, float[N,2] z, float[N,2] w) {
    a = Add (x, one)
    b = Add (x, uno)
    y = Softmax <axis = 1> (a)
    z = Softmax <axis = 1> (b)
    p = Pow (a, two)
    q = Pow (b, two)
    w = Mul (p, q)
}
"""


def test_equal_nodes_and_initialisers_become_one(parse, golden_pass, assert_same):
    constants = {"one": np.ones(2, "f"), "uno": np.ones(2, "f"), "two": np.full(2, 2, "f")}
    model, before = (parse(TEXT, **constants) for _ in range(2))
    golden_pass("merge_duplicates", model, MergeDuplicates())
    assert_same(before, model, {"x": np.arange(6, dtype=np.float32).reshape(3, 2)})


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Softmax <axis = 0> (x)", "Softmax <axis = 1> (x)"),
        ("Elu <alpha = 1.0> (x)", "Elu <alpha = 1.5> (x)"),
        ("Elu <alpha = 1.0> (x)", "Elu (x)"),
        ("Sub (x, k)", "Sub (k, x)"),
        ("RandomUniformLike (x)", "RandomUniformLike (x)"),
        ("Dropout (x)", "Dropout (x)"),
        ("own.Op (x)", "own.Op (x)"),
        ("Clip (x, f)", "Clip (x, , f)"),
        ("Cast <to = 1> (x)", "com.microsoft.Cast <to = 1> (x)"),
    ],
)
def test_what_differs_stays(parse, left, right):
    text = f"g (float[2,2] x) => (float[2,2] y) {{ a = {left} b = {right} y = Add (a, b) }}"
    model = parse(text, k=np.ones((2, 2), "f"), f=np.float32(0))
    assert not MergeDuplicates().run(model)


def test_contents_are_compared_in_full(parse):
    # A sample of the elements is equal; one element in between is not.
    one = np.zeros(100_000, np.float32)
    other = one.copy()
    other[12_345] = 1
    text = "g (float[100000] x) => (float[100000] y) { a = Add (x, k) y = Mul (a, l) }"
    assert not MergeDuplicates().run(parse(text, k=one, l=other))
    assert MergeDuplicates().run(parse(text, k=one, l=one.copy()))


def test_equal_bytes_of_other_dtypes_stay(parse):
    text = (
        "g (float[1] x, int32[1] i) => (float[1] y, int32[1] j) { y = Add (x, k) j = Add (i, l) }"
    )
    assert not MergeDuplicates().run(parse(text, k=np.zeros(1, "f"), l=np.zeros(1, np.int32)))


def test_an_output_left_out_by_the_first_is_taken_from_it(parse, assert_same):
    text = """g (float[1,1,2,2] x) => (float[1,1,1,1] y, int64[1,1,1,1] i) {
        a, b = MaxPool <kernel_shape = [2, 2]> (x)
        c, i = MaxPool <kernel_shape = [2, 2]> (x)
        y = Add (a, c) }"""
    model, before = parse(text), parse(text)
    model.graph[0].outputs[1].name = ""
    assert MergeDuplicates().run(model)
    assert len([n for n in all_nodes(model.graph) if n.op_type == "MaxPool"]) == 1
    assert_same(before, model, {"x": np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)})


def test_initialisers_that_are_outputs_stay(parse):
    text = (
        "g (float[1] x) => (float[1] k, float[1] l, float[1] y) { a = Add (x, k) y = Mul (a, l) }"
    )
    model = parse(text, k=np.ones(1, "f"), l=np.ones(1, "f"))
    assert not MergeDuplicates().run(model)
