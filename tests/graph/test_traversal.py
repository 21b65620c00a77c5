"""Questions about a graph, and the edits that every rewrite needs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from compress.graph.traversal import (
    constant,
    consumers,
    is_constant,
    is_op,
    new_initializer,
    rank,
    remove_dead,
    replace,
    scalar,
    sole_consumer,
    static_shape,
)

TEXT = (
    "g (float[N,4] x) => (float[N,4] c, float[N,4] y) { a = Mul (x, k) b = Exp (a) c = Tanh (b)"
    " d = Add (b, c) e = Add (d, d) y = Mul (e, v) }"
)


@pytest.fixture
def model(parse):
    return parse(TEXT, k=np.float32(2), v=np.ones(4, np.float32))


def value(model, name):
    return next(
        v
        for v in (
            *model.graph.inputs,
            *model.graph.initializers.values(),
            *(v for n in model.graph for v in n.outputs),
        )
        if v.name == name
    )


def test_constants(model):
    assert constant(value(model, "k")) == np.float32(2)
    assert scalar(value(model, "k")) == 2.0
    assert scalar(value(model, "v")) is None
    assert is_constant(value(model, "v"))
    for unknown in (value(model, "x"), value(model, "a"), None):
        assert constant(unknown) is None
        assert scalar(unknown) is None
        assert not is_constant(unknown)


def test_an_initialiser_that_is_an_input_too_is_no_constant(model):
    """The caller may set another one."""
    k = value(model, "k")
    model.graph.inputs.append(k)
    assert constant(k) is None
    assert scalar(k) is None
    assert not is_constant(k)


def test_consumers(model):
    assert [n.op_type for n in consumers(value(model, "b"))] == ["Tanh", "Add"]
    assert sole_consumer(value(model, "b")) is None
    assert sole_consumer(value(model, "a")).op_type == "Exp"
    # one node that reads it twice
    assert sole_consumer(value(model, "d")).op_type == "Add"
    # the user reads it as well
    assert sole_consumer(value(model, "c")) is None
    assert sole_consumer(value(model, "y")) is None


def test_a_reader_inside_a_subgraph_is_no_sole_consumer(parse):
    model = parse(
        "g (bool flag, float[2] x) => (float[2] y) { a = Exp (x)"
        " y = If (flag) <then_branch = t () => (float[2] p) { p = Relu (a) },"
        " else_branch = e () => (float[2] q) { q = Exp (x) }> }"
    )
    assert sole_consumer(value(model, "a")) is None
    assert len(consumers(value(model, "a"))) == 1


def test_operators_are_told_by_domain(model):
    node = value(model, "a").producer()
    assert is_op(node, "Mul", "Div")
    assert not is_op(node, "Div")
    assert not is_op(node, "Mul", domain="com.microsoft")
    assert not is_op(None, "Mul")


def test_shapes(parse):
    model = parse("g (float[N,4] x, float[2,3] z) => (float[] y) { y = Size (z) }")
    x, z = model.graph.inputs
    assert (rank(x), rank(z), rank(None)) == (2, 2, None)
    assert (static_shape(x), static_shape(z), static_shape(None)) == (None, (2, 3), None)
    assert rank(ir.Value(name="unknown")) is None
    assert static_shape(ir.Value(name="unknown")) is None


def test_new_initialisers_get_free_names(model):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    first = new_initializer(model.graph, "w", array.T)
    second = new_initializer(model.graph, "w", array)
    assert (first.name, second.name) == ("w", "w_1")
    np.testing.assert_array_equal(constant(first), array.T)
    assert constant(first).flags.c_contiguous
    assert static_shape(first) == (3, 2)
    assert new_initializer(model.graph, "zero", np.float32(0)).shape == ir.Shape([])
    assert constant(model.graph.initializers["zero"]) == 0


def test_replace_keeps_the_names_of_outputs(model, run):
    """Everybody who read the old value reads the new one, the user by the name he knows."""
    x = np.float32([[1, 2, 3, 4]])
    old = value(model, "c")
    new = ir.node("Relu", [value(model, "b")], name="relu")
    new.outputs[0].name = "r"
    model.graph.insert_after(value(model, "b").producer(), new)
    replace(old, new.outputs[0])
    assert [v.name for v in model.graph.outputs] == ["c", "y"]
    assert model.graph.outputs[0].producer().op_type == "Relu"
    assert not old.uses()
    remove_dead([old.producer()])
    assert [n.op_type for n in model.graph] == ["Mul", "Exp", "Relu", "Add", "Add", "Mul"]
    found = run(model, {"x": x})
    np.testing.assert_allclose(found["c"], np.exp(2 * x), rtol=1e-5)
    np.testing.assert_allclose(found["y"], 4 * np.exp(2 * x), rtol=1e-5)


def test_replace_hands_on_shape_and_type_where_there_are_none(model):
    old = value(model, "d")
    new = ir.Value(name="new")
    model.graph.inputs.append(new)
    replace(old, new)
    assert new.dtype == old.dtype
    assert [n.op_type for n in consumers(new)] == ["Add"]


def test_what_only_dead_nodes_read_is_dead(parse):
    model = parse(
        "g (float[2] x) => (float[2] y) { a = Exp (x) b = Tanh (a) c = Neg (b) y = Relu (a) }"
    )
    remove_dead([value(model, "c").producer()])
    assert [n.op_type for n in model.graph] == ["Exp", "Relu"]
    # what is read stays, and a node that is gone already is no problem
    live = value(model, "a").producer()
    remove_dead([live, live])
    assert [n.op_type for n in model.graph] == ["Exp", "Relu"]
