"""The edits under every rewrite keep names and shared tensors as they are."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from compress.graph.printer import to_text
from compress.graph.rewrite import (
    Names,
    add_initializer,
    initializer_tensor,
    remove_nodes,
    rename,
    replace_value,
    small_integers,
)


def values(model):
    return ir.convenience.create_value_mapping(model.graph)


def test_fresh_names_avoid_every_graph(parse):
    model = parse("g (float[2] x, bool c) => (float[2] y) { [y] y = If (c) <"
                  "then_branch = t () => (p) <float[1] k = {1.0}> { p = Add (x, k) },"
                  "else_branch = e () => (q) { q = Abs (x) } > }")  # fmt: skip
    names = Names(model)
    assert [names.value(hint) for hint in ("x", "k", "q", "new", "new")] == [
        "x_1", "k_1", "q_1", "new", "new_1",
    ]  # fmt: skip
    assert names.node("y") == "y_1"


def test_an_output_name_moves_to_the_replacement(parse):
    model = parse("g (float[2] x) => (float[2] y) { a = Relu (x) y = Neg (a) }")
    relu, neg = model.graph
    model.graph.outputs[0].metadata_props["unit"] = "m"
    replace_value(neg.outputs[0], relu.outputs[0], neg)
    remove_nodes([neg])
    assert [n.op_type for n in model.graph] == ["Relu"]
    [output] = model.graph.outputs
    assert (output.name, output.metadata_props) == ("y", {"unit": "m"})
    assert str(output.shape) == "[2]"


@pytest.mark.parametrize("replacement", ["x", "k", "z"])
def test_inputs_initialisers_and_outputs_keep_their_own_names(parse, replacement):
    model = parse("g (float[2] x) => (float[2] y, float[2] z) { z = Exp (x) y = Neg (z) "
                  "w = Abs (y) }", k=np.ones(2, "f"))  # fmt: skip
    neg = model.graph[1]
    replace_value(neg.outputs[0], values(model).get(replacement) or model.graph.initializers["k"],
                  neg)  # fmt: skip
    remove_nodes([neg])
    assert [v.name for v in model.graph.outputs] == ["y", "z"]
    carrier = model.graph.outputs[0].producer()
    assert (carrier.op_type, carrier.inputs[0].name) == ("Identity", replacement)
    assert model.graph[-1].inputs[0].name == replacement, "inner readers need no carrier"


def test_removing_a_node_releases_what_its_subgraphs_read(parse):
    model = parse("g (float[2] x, bool c) => (float[2] y) { a = Exp (x) d = If (c) <"
                  "then_branch = t () => (p) { p = Neg (a) },"
                  "else_branch = e () => (q) { q = Abs (a) } > y = Relu (x) }")  # fmt: skip
    exp, decision, _ = model.graph
    assert len(exp.outputs[0].uses()) == 2
    remove_nodes([decision])
    assert not exp.outputs[0].uses()
    remove_nodes([exp])
    assert [n.op_type for n in model.graph] == ["Relu"]


def test_renaming_keeps_the_name_of_the_tensor(parse):
    model = parse("g (float[2] x) => (float[2] y) { y = Add (x, k) }", k=np.ones(2, "f"))
    value = model.graph.initializers["k"]
    rename(value, "other")
    assert list(model.graph.initializers) == ["other"]
    assert value.const_value.name == "k"
    assert "%y:f32[2] = Add(%x, %other)" in to_text(model)


def test_constants_are_initialisers_nobody_can_feed(parse):
    model = parse("g (float[2] x, int64[2] fed) => (float[2] y) { y = own.Op (x, fed, k, f) }",
                  fed=np.array([1, 2]), k=np.array([3, 4], np.int32),
                  f=np.ones(2, "f"))  # fmt: skip
    x, fed, k, f = model.graph[0].inputs
    assert initializer_tensor(fed) is None
    assert small_integers(x) is None
    assert small_integers(k).tolist() == [3, 4]
    assert small_integers(k, limit=1) is None
    assert small_integers(f) is None
    assert small_integers(None) is None


def test_new_initialisers_know_their_type(parse):
    model = parse("g (float[2] x) => (float[2] y) { y = Relu (x) }")
    value = add_initializer(model.graph, "k", np.zeros((2, 3), np.float16))
    assert (value.dtype, str(value.shape)) == (ir.DataType.FLOAT16, "[2,3]")
    with pytest.raises(ValueError, match="already registered"):
        add_initializer(model.graph, "k", np.zeros(1))
