"""Ifs that are decided become their branch; the others stay untouched."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from compress.graph.canonical import canonicalize
from compress.graph.fold_control_flow import FoldControlFlow
from compress.graph.name_values import NameValues
from compress.graph.printer import to_text

X = {"x": np.array([1.0, -2.0], np.float32)}

NESTED = """
g (float[2] x) => (float[2] y, float[2] z) {
    a = Exp (x)
    y, z = If (yes) <
        then_branch = t () => (p, copy) <float[1] k = {2.0}> {
            copy = Identity (a)
            p = If (no) <
                then_branch = tt () => (dead) { dead = Neg (a) },
                else_branch = te () => (q) <float[1] k2 = {3.0}> { b = Mul (a, k) q = Add (b, k2) }
            >
        },
        else_branch = e () => (r, s) { r = Abs (x) s = Neg (x) }
    >
}
"""


def test_branches_are_inlined_with_what_they_capture(parse, golden_pass, assert_same):
    model, before = (parse(NESTED, yes=np.array(True), no=np.array([False])) for _ in range(2))
    NameValues().run(model)
    golden_pass("fold_control_flow", model, FoldControlFlow())
    assert_same(before, model, X)


@pytest.mark.parametrize("truth", [True, False])
def test_outputs_that_are_initialisers_inputs_or_one_value_twice(parse, assert_same, truth):
    text = """g (float[2] x) => (float[2] y, float[2] z, float[2] w) {
        y, z, w = If (c) <
            then_branch = t () => (k, p, p2) <float[2] k = {5.0, 6.0}> {
                p = Neg (x) p2 = Identity (p) },
            else_branch = e () => (q, r, s) { q = Identity (x) r = Abs (x) s = Exp (r) }
        > }"""
    model, before = (parse(text, c=np.array(truth)) for _ in range(2))
    NameValues().run(model)
    assert FoldControlFlow().run(model)
    assert [v.name for v in model.graph.outputs] == ["y", "z", "w"]
    assert "If" not in {n.op_type for n in model.graph}
    assert_same(before, model, X)


def test_a_condition_decides_the_ifs_inside_its_branches(parse, assert_same):
    text = """g (float[2] x, bool c) => (float[2] y) {
        y = If (c) <
            then_branch = t () => (p) { p = If (c) <
                then_branch = tt () => (a) { a = Neg (x) },
                else_branch = te () => (b) { b = Abs (x) } > },
            else_branch = e () => (q) { q = If (c) <
                then_branch = et () => (d) { d = Exp (x) },
                else_branch = ee () => (f) { f = Ceil (x) } > }
        > }"""
    model, before = (parse(text) for _ in range(2))
    NameValues().run(model)
    assert FoldControlFlow().run(model)
    branches = {n: a.as_graph() for n, a in model.graph[0].attributes.items()}
    assert [n.op_type for n in branches["then_branch"]] == ["Neg"]
    assert [n.op_type for n in branches["else_branch"]] == ["Ceil"]
    for truth in (True, False):
        assert_same(before, model, {**X, "c": np.array(truth)})


def test_equal_names_in_branches_do_not_collide(parse, assert_same):
    text = """g (float[2] x) => (float[2] y) {
        m = If (c) < then_branch = t () => (o) <float[2] k = {1.0, 2.0}> { t = Add (x, k)
                                                                          o = Neg (t) },
                     else_branch = e () => (o) { o = Abs (x) } >
        y = If (c) < then_branch = t () => (o) <float[2] k = {3.0, 4.0}> { t = Mul (m, k)
                                                                          o = Neg (t) },
                     else_branch = e () => (o) { o = Abs (m) } >
        }"""
    model, before = (parse(text, c=np.array(True)) for _ in range(2))
    assert FoldControlFlow().run(model)
    NameValues().run(model)
    assert_same(before, model, X)


def test_undecided_ifs_and_loops_stay(parse):
    text = """g (float[2] x, bool c, int64 n) => (float[2] y, float[2] z) {
        y = If (c) < then_branch = t () => (p) { p = Neg (x) },
                     else_branch = e () => (q) { q = Abs (x) } >
        z = Loop (n, c, x) <body = b (int64 i, bool cond, float[2] v) => (bool cond2, float[2] u)
            { cond2 = Identity (cond) u = Exp (v) } > }"""
    model = parse(text)
    before = to_text(model)
    assert not FoldControlFlow().run(model)
    assert to_text(model) == before


def test_a_loop_body_is_cleaned_too(parse, assert_same):
    text = """g (float[2] x, int64 n, bool c) => (float[2] z) {
        z = Loop (n, c, x) <body = b (int64 i, bool cond, float[2] v) => (bool cond2, float[2] u)
            { cond2 = Identity (cond)
              u = If (yes) < then_branch = t () => (p) { p = Neg (v) },
                             else_branch = e () => (q) { q = Abs (v) } > } > }"""
    model, before = (parse(text, yes=np.array(True)) for _ in range(2))
    NameValues().run(model)
    assert FoldControlFlow().run(model)
    assert "If" not in to_text(model)
    assert_same(before, model, {**X, "n": np.array(3), "c": np.array(True)})


def nested(depth, condition):
    """Ifs within then-branches, `depth` of them; the innermost computes Neg."""
    info = [helper.make_tensor_value_info("v0", TensorProto.FLOAT, [2])]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["v0"])], "g0", [], info)
    for level in range(1, depth + 1):
        other = helper.make_graph(
            [helper.make_node("Abs", ["x"], [f"e{level}"])], f"e{level}", [],
            [helper.make_tensor_value_info(f"e{level}", TensorProto.FLOAT, [2])],
        )  # fmt: skip
        node = helper.make_node(
            "If", [condition], [f"v{level}"], then_branch=graph, else_branch=other
        )
        info = [helper.make_tensor_value_info(f"v{level}", TensorProto.FLOAT, [2])]
        graph = helper.make_graph([node], f"g{level}", [], info)
    graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("depth", [1, 10, 30])
def test_deep_nests_decided_by_a_constant_or_a_fixed_input(depth, run):
    proto = nested(depth, "c")
    proto.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    model = canonicalize(ir.from_proto(proto), fixed_inputs={"c": True})
    assert [n.op_type for n in model.graph] == ["Neg"]
    assert [v.name for v in model.graph.inputs] == ["x"]
    np.testing.assert_array_equal(run(model, X)[f"v{depth}"], -X["x"])


def test_ifs_decided_by_shapes(parse, run):
    # What TorchScript exports for `squeeze(1)`: is the dimension one?
    text = """g (float[N,C,3] x) => (float[?,?] y) {
        s = Shape (x) d = Gather (s, one) is = Equal (d, one)
        y = If (is) < then_branch = t () => (p) { p = Squeeze (x, axes) },
                      else_branch = e () => (q) { q = Flatten (x) } > }"""
    model = parse(text, one=np.array(1), axes=np.array([1]))
    assert "If" in to_text(canonicalize(model))
    fixed = canonicalize(model, shapes={"x": (-1, 1, 3)})
    assert "If" not in to_text(fixed)
    assert run(fixed, {"x": np.ones((2, 1, 3), np.float32)})["y"].shape == (2, 3)
