"""Shapes are derived anew, and dynamic dimensions stay dynamic."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from compress.errors import ModelError
from compress.graph.infer_shapes import InferShapes
from compress.graph.name_values import NameValues


def shape(value):
    return None if value.shape is None else str(value.shape)


def by_name(model):
    return ir.convenience.create_value_mapping(model.graph)


CONVOLUTION = """
g (float[?,3,H,W] x, float[?,5] z) => (float[?,4,?,?] y, float[n,5] w) {
    a = Conv <kernel_shape = [3, 3], strides = [2, 2]> (x, k)
    b = Relu (a)
    y = Add (b, a)
    w = Exp (z)
}
"""


def test_dynamic_dimensions_get_stable_names(parse, golden_pass):
    model = parse(CONVOLUTION, k=np.zeros((4, 3, 3, 3), np.float32))
    NameValues().run(model)
    golden_pass("infer_shapes", model, InferShapes())


def test_stale_shapes_are_forgotten(parse):
    model = parse("g (float[N,4] x) => (float[7,7] y) { a = Relu (x) y = Neg (a) }")
    inner = model.graph[0].outputs[0]
    inner.shape, inner.type = ir.Shape([9, 9, 9]), ir.TensorType(ir.DataType.INT8)
    assert InferShapes().run(model)
    assert (inner.dtype, shape(inner)) == (ir.DataType.FLOAT, "[N,4]")
    assert shape(model.graph.outputs[0]) == "[N,4]"


def test_negative_dimensions_are_dynamic():
    x = ir.val("x", ir.DataType.FLOAT, [-1, 3])
    node = ir.node("Relu", [x])
    node.outputs[0].name = "y"
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 21})
    InferShapes().run(ir.Model(graph, ir_version=10))
    assert shape(x) == "[x_d0,3]"
    assert shape(node.outputs[0]) == "[x_d0,3]"


def test_declared_output_dimensions_survive_where_nothing_better_is_known(parse):
    text = "g (float[N,6] x, int64[2] s) => (float[rows,3] y) { y = Reshape (x, s) }"
    model = parse(text)
    InferShapes().run(model)
    assert shape(model.graph.outputs[0]) == "[rows,3]"


def test_foreign_operators_keep_what_the_file_says(parse):
    model = parse("g (float[N] x) => (float[N] y) { a = own.Magic (x) y = Relu (a) }")
    inner = model.graph[0].outputs[0]
    inner.type, inner.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([ir.SymbolicDim("K"), 2])
    InferShapes().run(model)
    assert shape(inner) == "[K,2]"
    assert shape(model.graph.outputs[0]) == "[K,2]"


def test_group_normalization_has_the_shape_of_its_input(parse):
    model = parse("g (float[N,4,T] x) => (float[?,?,?] y) "
                  "{ a = GroupNormalization <num_groups = 2> (x, s, s) y = Relu (a) }",
                  s=np.ones(4, np.float32))  # fmt: skip
    InferShapes().run(model)
    assert shape(by_name(model)["a"]) == "[N,4,T]"


def test_types_are_not_shared_with_a_clone(parse):
    model = parse("g (float[N] x) => (int64[N] y) { y = Cast <to = 7> (x) }")
    copy = model.clone()
    copy.graph[0].attributes["to"] = ir.AttrInt64("to", ir.DataType.INT32.value)
    InferShapes().run(copy)
    assert copy.graph.outputs[0].dtype == ir.DataType.INT32
    assert model.graph.outputs[0].dtype == ir.DataType.INT64


def test_values_in_subgraphs_are_typed(parse):
    model = parse("g (float[2,3] x, bool c) => (float[?,?] y) { y = If (c) <"
                  "then_branch = t () => (p) { m = Transpose (x) p = Relu (m) },"
                  "else_branch = e () => (q) { q = Neg (x) } > }")  # fmt: skip
    InferShapes().run(model)
    assert shape(by_name(model)["m"]) == "[3,2]"


def test_weights_are_neither_serialised_nor_lost(parse):
    class Untouchable(ir.LazyTensor):
        def tobytes(self):
            raise AssertionError("the weights were read")

    weight = Untouchable(
        lambda: pytest.fail("the weights were read"),
        dtype=ir.DataType.FLOAT, shape=ir.Shape([100_000, 50_000]), name="w",
    )  # fmt: skip
    model = parse("g (float[N,100000] x) => (float[N,?] y) { y = MatMul (x, w) }",
                  w=np.zeros((1, 1), np.float32))  # fmt: skip
    value = model.graph.initializers["w"]
    value.const_value, value.shape = weight, weight.shape
    InferShapes().run(model)
    assert shape(model.graph.outputs[0]) == "[N,50000]"
    assert value.const_value is weight


def test_refusal_is_one_line(parse, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise onnx.shape_inference.InferenceError("first\nsecond")

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", refuse)
    with pytest.raises(ModelError, match="shape inference refuses the model: first second"):
        InferShapes().run(parse("g (float x) => (float y) { y = Relu (x) }"))
