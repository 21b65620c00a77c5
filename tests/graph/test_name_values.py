"""Everything gets a name of its own, and the names that users see survive."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from compress.graph.name_values import NameValues

TEXT = """
g (float[2] x, bool c) => (float[2] y) {
    [same] a = Relu (x)
    [same] b = Neg (a)
    y = If (c) <
        then_branch = t () => (out) { a = Abs (b) out = Exp (a) },
        else_branch = e () => (out) { out = Log (b) }
    >
}
"""


def test_names_become_unique(parse, golden_pass, assert_same):
    model = parse(TEXT)
    # onnxruntime itself refuses equal names, of nodes as of values.
    own = TEXT.replace("[same]", "").replace(
        "a = Abs (b) out = Exp (a)", "k = Abs (b) out = Exp (k)"
    )
    before = parse(own)
    golden_pass("name_values", model, NameValues())
    for truth in (True, False):
        feeds = {"x": np.array([1.0, 2.0], np.float32), "c": np.array(truth)}
        assert_same(before, model, feeds)


def test_nameless_values_are_named_after_their_node():
    x = ir.val("x", ir.DataType.FLOAT, [1])
    first = ir.node("Relu", [x], name="first")
    second = ir.node("Relu", first.outputs)
    second.outputs[0].name = "y"
    graph = ir.Graph([x], second.outputs, nodes=[first, second], opset_imports={"": 21})
    first.outputs[0].name, second.name = "", ""
    assert NameValues().run(ir.Model(graph, ir_version=10))
    assert [n.name for n in graph] == ["first", "y"]
    assert [n.outputs[0].name for n in graph] == ["first", "y"]


def test_left_out_outputs_stay_left_out(parse):
    model = parse("g (float[1,1,4,4] x) => (float[1,1,4,4] y) "
                  "{ y = MaxPool <kernel_shape = [1, 1]> (x) }")  # fmt: skip
    node = model.graph[0]
    node.resize_outputs(2)
    node.outputs[1].name = ""
    NameValues().run(model)
    assert [v.name for v in node.outputs] == ["y", ""]


def test_renaming_leaves_a_shared_tensor_alone(parse):
    model = parse("""g (float[2] x, bool c) => (float[2] y) { y = If (c) <
        then_branch = t () => (p) <float[1] k = {1.0}> { p = Add (x, k) },
        else_branch = e () => (q) <float[1] k = {2.0}> { q = Add (x, k) } > }""")
    copy = model.clone()
    branches = [a.as_graph() for a in model.graph[0].attributes.values()]
    assert NameValues().run(copy)
    assert [list(g.initializers) for g in branches] == [["k"], ["k"]]
    assert [g.initializers["k"].const_value.name for g in branches] == ["k", "k"]
