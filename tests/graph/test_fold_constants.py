"""What depends on initialisers alone is computed beforehand, within bounds."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from compress.graph.fold_constants import FoldConstants
from compress.graph.infer_shapes import InferShapes
from compress.graph.name_values import NameValues

TEXT = """
g (float[N,3] x, bool c) => (float[N,2] y, float[3,2] t) {
    t = Transpose <perm = [1, 0]> (w)
    s = Add (two, three)
    r = Sqrt (s)
    scaled = Mul (t, r)
    m = MatMul (x, scaled)
    y = If (c) <
        then_branch = a () => (p) { k = Neg (two) p = Mul (m, k) },
        else_branch = b () => (q) { q = Mul (m, r) }
    >
}
"""


def prepared(model):
    NameValues().run(model)
    InferShapes().run(model)
    return model


def test_constant_parts_are_computed(parse, golden_pass, assert_same):
    values = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "two": np.float32(2),
        "three": np.float32(3),
    }
    model, before = (prepared(parse(TEXT, **values)) for _ in range(2))
    golden_pass("fold_constants", model, FoldConstants())
    for truth in (True, False):
        feeds = {"x": np.ones((4, 3), np.float32), "c": np.array(truth)}
        assert_same(before, model, feeds)


@pytest.mark.parametrize(
    "node",
    [
        "a = RandomUniformLike (k)",
        "a = Bernoulli (k)",
        "q = QuantizeLinear (k, s, z) a = DequantizeLinear (q, s, z)",
        "a = own.Magic (k)",
    ],
)
def test_what_must_stay_stays(parse, node):
    model = parse(
        f"g (float[2] x) => (float[2] y) {{ {node} y = Add (x, a) }}",
        k=np.array([0.5, 0.25], np.float32),
        s=np.float32(0.1),
        z=np.uint8(0),
    )
    assert not FoldConstants().run(prepared(model))


def test_outputs_may_grow_to_the_bound_only(parse):
    text = "g (float[1] x) => (float[?] y) { k = Expand (one, n) y = Add (x, k) }"
    constants = {"one": np.ones(1, np.float32), "n": np.array([1000])}
    assert FoldConstants(max_output_bytes=4000).run(prepared(parse(text, **constants)))
    assert not FoldConstants(max_output_bytes=3999).run(prepared(parse(text, **constants)))
    assert not FoldConstants(max_total_bytes=3000).run(prepared(parse(text, **constants)))
    # Weights are folded at any size as long as they do not grow.
    text = "g (float[1] x) => (float[?] y) { k = Transpose (w) y = Mul (x, k) }"
    assert FoldConstants(max_output_bytes=1).run(prepared(parse(text, w=np.ones((50, 60), "f"))))


def test_a_bomb_is_not_unpacked(parse):
    text = """g (float[1] x) => (float[?] y) {
        a = ConstantOfShape (n) b = Tile (a, m) y = Add (x, b) }"""
    model = parse(text, n=np.array([1 << 40]), m=np.array([1 << 20]))
    assert not FoldConstants().run(prepared(model))


def test_one_failing_node_does_not_keep_the_others(parse, assert_same):
    # The Gather's index is out of range; onnxruntime says so when it runs.
    text = """g (float[2] x) => (float[2] y, float[1] z) {
        good = Neg (k) bad = Gather (k, i) after = Exp (bad) y = Mul (x, good)
        z = Mul (after, good1) }"""
    model = prepared(parse(text, k=np.ones(2, "f"), i=np.array([7]), good1=np.ones(1, "f")))
    assert FoldConstants().run(model)
    assert [n.op_type for n in model.graph] == ["Gather", "Exp", "Mul", "Mul"]
    assert "good" in model.graph.initializers


def test_constant_graph_output_keeps_its_name(parse, run):
    model = prepared(parse("g (float x) => (float k, float y) { k = Neg (c) y = Mul (x, k) }",
                           c=np.float32(3)))  # fmt: skip
    assert FoldConstants().run(model)
    assert [n.op_type for n in model.graph] == ["Identity", "Mul"]
    found = run(model, {"x": np.array(2, np.float32)})
    assert found == {"k": -3.0, "y": -6.0}
    assert not FoldConstants().run(model)


def test_bfloat16_is_left_alone(parse):
    model = parse("g (bfloat16[2] x) => (bfloat16[2] y) { k = Neg (c) y = Add (x, k) }",
                  c=np.zeros(2, "f"))  # fmt: skip
    value = model.graph.initializers["c"]
    value.const_value = ir.tensor(np.zeros(2, ir.DataType.BFLOAT16.numpy()))
    value.type = ir.TensorType(ir.DataType.BFLOAT16)
    assert not FoldConstants().run(prepared(model))
