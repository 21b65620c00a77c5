"""What no output depends on is gone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from compress.graph.eliminate_dead import EliminateDead

TEXT = """
g (float[1,1,4,4] x, float[2] unread, bool c) => (float[1,1,2,2] y, float[2] constant) {
    dead = Exp (x)
    deader = Add (dead, two)
    only_dead_if = Neg (x)
    nothing = If (c) <
        then_branch = t () => (p) { p = Abs (only_dead_if) },
        else_branch = e () => (q) { inner_dead = Log (x) q = Ceil (only_dead_if) }
    >
    m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
    y = Clip (m, zero)
}
"""


def test_dead_parts_are_removed(parse, golden_pass, assert_same):
    constants = {"two": np.float32(2), "zero": np.float32(0), "constant": np.ones(2, np.float32)}
    model, before = (parse(TEXT, **constants) for _ in range(2))
    pool, clip = list(model.graph)[-2:]
    pool.resize_outputs(2)
    pool.outputs[1].name = "indices"
    clip.resize_inputs(3)
    golden_pass("eliminate_dead", model, EliminateDead())
    feeds = {"x": np.ones((1, 1, 4, 4), "f"), "unread": np.ones(2, "f"), "c": np.array(True)}
    assert_same(before, model, feeds)


def test_dead_nodes_in_live_branches(parse):
    model = parse("""g (float[2] x, bool c) => (float[2] y) { outer = Exp (x) y = If (c) <
        then_branch = t () => (p) <float[1] k = {1.0}> { u = Add (outer, k) p = Abs (x) },
        else_branch = e () => (q) { q = Ceil (x) } > }""")
    assert EliminateDead().run(model)
    assert [n.op_type for n in model.graph] == ["If"]
    branch = model.graph[0].attributes["then_branch"].as_graph()
    assert [n.op_type for n in branch] == ["Abs"]
    assert not branch.initializers


def test_required_outputs_stay(parse):
    text = "g (float[4] x) => (float[2] y) { y, z = Split <num_outputs = 2> (x) }"
    model = parse(text)
    EliminateDead().run(model)
    assert len(model.graph[0].outputs) == 2


def test_functions_and_imports_nobody_uses(parse):
    model = parse("""
        <ir_version: 10, opset_import: ["" : 21, "own" : 1, "other" : 1]>
        g (float[2] x) => (float[2] y) { y = own.Used (x) }
        <domain: "own", opset_import: ["" : 21, "own" : 1]> Used (a) => (b) { b = own.Inner (a) }
        <domain: "own", opset_import: ["" : 21]> Inner (a) => (b) { b = Relu (a) }
        <domain: "own", opset_import: ["" : 21]> Unused (a) => (b) { b = Neg (a) }
    """)
    assert EliminateDead().run(model)
    assert [name for _, name, _ in model.functions] == ["Used", "Inner"]
    plain = parse("g (float[2] x) => (float[2] y) { y = com.microsoft.Gelu (x) }")
    assert EliminateDead().run(plain)
    assert set(plain.opset_imports) == {"", "com.microsoft"}


def test_long_dead_chain():
    x = ir.val("x", ir.DataType.FLOAT, [1])
    nodes = [ir.node("Relu", [x], name="live")]
    nodes[0].outputs[0].name = "y"
    for index in range(50_000):
        nodes.append(ir.node("Neg", [nodes[-1].outputs[0] if index else x]))
    graph = ir.Graph([x], nodes[0].outputs, nodes=nodes, opset_imports={"": 21})
    assert EliminateDead().run(ir.Model(graph, ir_version=10))
    assert [n.name for n in graph] == ["live"]
