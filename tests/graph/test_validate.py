"""What is no sound model is refused in one line that names the culprit."""

from __future__ import annotations

import time

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto

from compress.errors import ModelError
from compress.graph.validate import DEEPEST_NESTING, quantized_nodes, unknown_operators, validate


def assert_refused(model, message):
    with pytest.raises(ModelError) as caught:
        validate(model)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def chain(*op_types):
    x = ir.val("x", ir.DataType.FLOAT, [2])
    nodes = []
    for op_type in op_types:
        nodes.append(ir.node(op_type, nodes[-1].outputs if nodes else [x]))
        nodes[-1].outputs[0].name = f"v{len(nodes)}"
        nodes[-1].name = f"n{len(nodes)}"
    graph = ir.Graph([x], nodes[-1].outputs if nodes else [], nodes=nodes, opset_imports={"": 21})
    return ir.Model(graph, ir_version=10)


def test_sound_models_pass(parse):
    validate(chain("Relu", "Neg"))
    validate(parse("g (float[2] x, bool c) => (float[2] y) { k = Exp (x) y = If (c) <"
                   "then_branch = t () => (p) { p = Neg (k) },"
                   "else_branch = e () => (q) { q = Abs (k) } > }"))  # fmt: skip


def test_empty_graph():
    assert_refused(chain(), "the model has no nodes")


def test_no_outputs():
    model = chain("Relu")
    model.graph.outputs.clear()
    assert_refused(model, "the model has no outputs")


def test_cycle():
    model = chain("Relu", "Neg", "Abs")
    model.graph[0].replace_input_with(0, model.graph[2].outputs[0])
    assert_refused(model, "cycle through Relu node 'n1'")


def test_undefined_value():
    model = chain("Relu", "Neg")
    model.graph[1].replace_input_with(0, ir.val("ghost"))
    assert_refused(model, "Neg node 'n2' reads 'ghost', which nothing defines")


def test_undefined_output():
    model = chain("Relu")
    model.graph.outputs.append(ir.val("ghost", ir.DataType.FLOAT, [2]))
    assert_refused(model, "nothing computes the output 'ghost'")


def test_value_of_another_branch(parse):
    model = parse("g (float[2] x, bool c) => (float[2] y) { y = If (c) <"
                  "then_branch = t () => (p) { inner = Exp (x) p = Neg (inner) },"
                  "else_branch = e () => (q) { q = Abs (x) } > }")  # fmt: skip
    branches = [a.as_graph() for a in model.graph[0].attributes.values()]
    inner = branches[0][0].outputs[0]
    branches[1][0].replace_input_with(0, inner)
    assert_refused(model, "reads 'inner', which nothing defines")


def test_names_defined_twice():
    model = chain("Relu", "Neg")
    model.graph[0].outputs[0].name = "x"
    assert_refused(model, "the value 'x' is defined twice")
    model = chain("Relu", "Neg")
    model.graph.outputs.append(model.graph.outputs[0])
    assert_refused(model, "the output 'v2' is listed twice")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("(seq(float[2]) x) => (float[2] y)", "input 'x' is of type sequence"),
        ("(float[2] x) => (seq(float[2]) y)", "output 'y' is of type sequence"),
        ("(optional(float[2]) x) => (float[2] y)", "input 'x' is of type optional"),
    ],
)
def test_only_tensors_go_in_and_out(parse, header, message):
    assert_refused(parse(f"g {header} {{ y = own.Op (x) }}"), message)


@pytest.mark.parametrize(
    ("value", "shape", "message"),
    [
        (np.nan, (2, 3), "'w' of MatMul node 'y' holds NaN"),
        (np.inf, (2, 3), "'w' of MatMul node 'y' holds infinity"),
        (-np.inf, (2, 3), "holds infinity"),
        (1, (2, 0), "the weight 'w' of MatMul node 'y' is empty"),
    ],
)
@pytest.mark.parametrize("as_node", [False, True])
def test_broken_weights(parse, value, shape, message, as_node):
    weight = np.ones(shape, np.float32)
    weight[-1:, -1:] = value
    model = parse("g (float[N,2] x) => (float[N,?] y) { y = MatMul (x, w) }", w=weight)
    if as_node:
        initializer = model.graph.initializers.pop("w")
        node = ir.node("Constant", [], {"value": ir.tensor(weight)})
        node.outputs[0].name = "w"
        initializer.replace_all_uses_with(node.outputs[0])
        model.graph.insert_before(model.graph[0], node)
    assert_refused(model, message)


def test_half_precision_and_bfloat16_weights(parse):
    for dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT8E5M2):
        for value, sound in ((1.0, True), (np.nan, False)):
            model = parse("g (float[N,2] x) => (float[N,?] y) { y = MatMul (x, w) }",
                          w=np.zeros((2, 2), np.float32))  # fmt: skip
            array = np.full((2, 2), value).astype(dtype.numpy())
            model.graph.initializers["w"].const_value = ir.tensor(array)
            if sound:
                validate(model)
            else:
                assert_refused(model, "holds NaN")


def test_infinite_masks_and_a_single_nan_are_no_weights(parse):
    mask = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    text = "g (float[4,4] x) => (float[4,4] y) { a = Add (x, mask) y = Max (a, nothing) }"
    validate(parse(text, mask=mask, nothing=np.float32(np.nan)))
    assert_refused(parse(text, mask=mask * np.nan, nothing=np.float32(0)), "'mask' holds NaN")


def test_weights_are_read_in_pieces(parse):
    pieces = []

    class Watched(np.ndarray):
        def max(self, *args, **kwargs):
            pieces.append(self.nbytes)
            return super().max(*args, **kwargs)

    array = np.zeros(30_000_000, np.float32).view(Watched)
    model = parse("g (float[30000000] x) => (float[30000000] y) { y = Add (x, w) }",
                  w=np.zeros(1, "f"))  # fmt: skip
    tensor = ir.LazyTensor(lambda: ir.tensor(array), dtype=ir.DataType.FLOAT,
                           shape=ir.Shape([30_000_000]), name="w")  # fmt: skip
    tensor.numpy = lambda: array
    model.graph.initializers["w"].const_value = tensor
    validate(model)
    assert sum(pieces) == array.nbytes
    assert max(pieces) <= 64 << 20


def test_unreadable_weights(parse, tmp_path):
    model = parse(
        "g (float[N,2] x) => (float[N,?] y) { y = MatMul (x, w) }", w=np.ones((2, 2), "f")
    )
    model.graph.initializers["w"].const_value = ir.ExternalTensor(
        "gone.bin", 0, 16, ir.DataType.FLOAT, shape=ir.Shape([2, 2]), name="w", base_dir=tmp_path
    )
    assert_refused(model, "the tensor 'w' of MatMul node 'y' cannot be read")
    untyped = TensorProto(name="w", dims=[2, 2], raw_data=b"\0" * 16)
    model.graph.initializers["w"].const_value = ir.serde.deserialize_tensor(untyped)
    assert_refused(model, "the tensor 'w' of MatMul node 'y' has no dtype")
    proto = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 2], raw_data=b"\0" * 9)
    model.graph.initializers["w"].const_value = ir.serde.deserialize_tensor(proto)
    assert_refused(model, "the tensor 'w' of MatMul node 'y' cannot be read")


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("y = Relu (x, x)", "Relu node 'y' has 2 inputs; 1 to 1 are right"),
        ("y, z = Relu (x)", "Relu node 'y' has 2 outputs"),
        ("y = Conv (x)", "Conv node 'y' has 1 inputs"),
        ("y = Cast (x)", "Cast node 'y' lacks the attribute 'to'"),
        ("y = Elu <alpha = 1> (x)", "'alpha' of Elu node 'y' is of type INT; FLOAT is right"),
    ],
)
def test_standard_operators_are_checked_against_the_opset(parse, node, message):
    assert_refused(parse(f"g (float[2] x) => (float[2] y) {{ {node} }}"), message)


def test_operators_newer_than_the_opset(parse):
    text = (
        '<ir_version: 8, opset_import: ["" : 13]> g (float[2] x) => (float[2] y) { y = Gelu (x) }'
    )
    assert_refused(parse(text), "Gelu node 'y' does not exist in opset 13")


def test_opsets():
    model = chain("Relu")
    model.opset_imports[""] = 999
    assert_refused(model, "the model uses opset 999; the newest that is supported is")
    del model.opset_imports[""]
    assert_refused(model, "Relu node 'n1' is of the standard opset, which is not imported")


def nested(depth):
    x, condition = ir.val("x", ir.DataType.FLOAT, [2]), ir.val("c", ir.DataType.BOOL, [])

    def graph_of(node, inputs=()):
        return ir.Graph(inputs, node.outputs, nodes=[node], opset_imports={"": 21})

    node = ir.node("Neg", [x])
    for _ in range(depth):
        branches = {"then_branch": graph_of(node), "else_branch": graph_of(ir.node("Abs", [x]))}
        node = ir.node("If", [condition], branches)
    return ir.Model(graph_of(node, [x, condition]), ir_version=10)


def test_nesting_is_bounded():
    validate(nested(DEEPEST_NESTING))
    assert_refused(nested(DEEPEST_NESTING + 1), f"nested deeper than {DEEPEST_NESTING}")
    assert_refused(nested(2_000), f"nested deeper than {DEEPEST_NESTING}")


def test_large_graphs_take_no_recursion_and_little_time():
    model = chain(*["Relu"] * 50_000)
    started = time.perf_counter()
    validate(model)
    assert time.perf_counter() - started < 10


def test_unknown_operators_are_listed(parse):
    model = parse("""
        <ir_version: 10, opset_import: ["" : 21, "own" : 1, "com.microsoft" : 1]>
        g (float[2] x) => (float[2] y) { a = own.Known (x) b = com.microsoft.Gelu (a)
                                         y = own.Foreign (b) }
        <domain: "own", opset_import: ["" : 21]> Known (a) => (b) { b = Relu (a) }
    """)
    validate(model)
    assert [n.op_type for n in unknown_operators(model)] == ["Foreign"]


def test_quantised_models_are_recognised(parse):
    model = parse("""g (float[2,2] x) => (float[2,2] y) {
        q = QuantizeLinear (x, s) d = DequantizeLinear (q, s)
        i = MatMulInteger (q, q) f = Cast <to = 1> (i) e = com.microsoft.QLinearAdd (q, s, q, q)
        y = Add (d, f) }""", s=np.float32(1))  # fmt: skip
    found = [n.op_type for n in quantized_nodes(model)]
    assert found == ["QuantizeLinear", "DequantizeLinear", "MatMulInteger", "QLinearAdd"]
    assert quantized_nodes(chain("Relu")) == []
