"""The canonical form computes the same, keeps what users see, and is a fixed point."""

from __future__ import annotations

import time

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_networks import floats, network

from compress.errors import ModelError, UsageError
from compress.graph.canonical import SUPPORTED_OPSET, canonicalize
from compress.graph.order import all_graphs, all_nodes
from compress.graph.printer import to_text

RNG = np.random.default_rng(2)
TEXT = """
<ir_version: 8, opset_import: ["" : 11]>
g (float[N,3,8,8] x) => (float[rows,?] y, float[N,4,4,4] z) {
    w = Constant <value = float[4,3,2,2] {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0,
        12.0, 13.0, 14.0, 15.0, 16.0, 17.0, 18.0, 19.0, 20.0, 21.0, 22.0, 23.0, 24.0, 25.0, 26.0,
        27.0, 28.0, 29.0, 30.0, 31.0, 32.0, 33.0, 34.0, 35.0, 36.0, 37.0, 38.0, 39.0, 40.0, 41.0,
        42.0, 43.0, 44.0, 45.0, 46.0, 47.0, 48.0}> ()
    [head] c = Conv <strides = [2, 2]> (x, w)
    n = BatchNormalization (c, scale, shift, mean, variance)
    d = Dropout <ratio = 0.5> (n)
    z = Identity (d)
    s = Shape (x)
    index = Constant <value_int = 0> ()
    batch = Gather <axis = 0> (s, index)
    batch1 = Unsqueeze <axes = [0]> (batch)
    rest = Constant <value_ints = [-1]> ()
    target = Concat <axis = 0> (batch1, rest)
    f = Reshape (d, target)
    dead = Exp (f)
    y = Softmax (f)
}
"""
STATISTICS = {
    "scale": np.array([1, 2, 3, 4], np.float32),
    "shift": np.array([4, 3, 2, 1], np.float32),
    "mean": np.array([5, 6, 7, 8], np.float32),
    "variance": np.array([1, 4, 9, 16], np.float32),
}
FEED = {"x": RNG.standard_normal((2, 3, 8, 8)).astype(np.float32)}


def test_everything_together(parse, golden, assert_same):
    model = parse(TEXT, **STATISTICS)
    result = canonicalize(model)
    golden("canonical", f"{to_text(model)}--- canonical\n{to_text(result)}")
    assert_same(model, result, FEED, tolerance=1e-4)
    onnx.checker.check_model(ir.to_proto(result), full_check=True)


def test_the_argument_is_left_alone(parse):
    model = parse(TEXT, **STATISTICS)
    nodes = list(model.graph)
    model.graph.extend(reversed(nodes))
    before = to_text(model, weights=True)
    order, proto = list(model.graph), ir.to_proto(model).SerializeToString(deterministic=True)
    tensors = {name: v.const_value for name, v in model.graph.initializers.items()}
    canonicalize(model, shapes={"x": (1, 3, 8, 8)})
    assert to_text(model, weights=True) == before
    assert list(model.graph) == order
    assert ir.to_proto(model).SerializeToString(deterministic=True) == proto
    assert all(model.graph.initializers[n].const_value is t for n, t in tensors.items())


def test_tensors_are_shared_not_copied(parse):
    weight = np.ones((3, 4), np.float32)
    model = parse("g (float[N,3] x) => (float[N,4] y) { y = MatMul (x, w) }", w=weight)
    result = canonicalize(model)
    assert result.graph.initializers["w"].const_value is model.graph.initializers["w"].const_value


def test_what_users_see_survives(parse):
    model = parse(TEXT, **STATISTICS)
    model.metadata_props["labels"] = "cat,dog"
    model.producer_name, model.producer_version = "trainer", "1.2"
    model.doc_string, model.domain, model.model_version = "About it.", "org.example", 7
    model.graph.name, model.graph.doc_string = "net", "The net."
    model.graph.inputs[0].doc_string = "An image."
    model.graph.outputs[0].metadata_props["meaning"] = "probabilities"
    model.graph.node("head").doc_string = "The first layer."
    result = canonicalize(model)
    assert result.metadata_props == {"labels": "cat,dog"}
    assert (result.producer_name, result.producer_version) == ("trainer", "1.2")
    assert (result.doc_string, result.domain, result.model_version) == (
        "About it.", "org.example", 7,
    )  # fmt: skip
    assert (result.graph.name, result.graph.doc_string) == ("net", "The net.")
    assert result.graph.inputs[0].doc_string == "An image."
    assert result.graph.outputs[0].metadata_props["meaning"] == "probabilities"
    assert result.graph.node("head").doc_string == "The first layer."
    assert [v.name for v in result.graph.inputs] == ["x"]
    assert [v.name for v in result.graph.outputs] == ["y", "z"]


def test_dynamic_dimensions_stay_dynamic_and_can_be_fixed(parse, run):
    model = parse(TEXT, **STATISTICS)
    result = canonicalize(model)
    assert [str(v.shape) for v in result.graph.outputs] == ["[N,64]", "[N,4,4,4]"]
    for batch in (1, 5):
        assert run(result, {"x": np.zeros((batch, 3, 8, 8), "f")})["y"].shape == (batch, 64)
    fixed = canonicalize(model, shapes={"x": (6, 3, 8, 8)})
    assert [str(v.shape) for v in fixed.graph.outputs] == ["[6,64]", "[6,4,4,4]"]
    with pytest.raises(UsageError, match="its inputs are: x"):
        canonicalize(model, shapes={"X": (1, 3, 8, 8)})


def test_unsound_models_are_refused():
    with pytest.raises(ModelError, match="the model has no nodes"):
        canonicalize(ir.Model(ir.Graph([], [], nodes=[]), ir_version=10))


def test_initialisers_listed_as_inputs(assert_same):
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "old",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("x", "w")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.array([2, 3], np.float32), "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 7)], ir_version=3)
    model = ir.from_proto(proto)
    result = canonicalize(model)
    assert [v.name for v in result.graph.inputs] == ["x"]
    assert result.ir_version >= 10
    assert_same(model, result, {"x": np.ones(2, np.float32)})
    overridden = canonicalize(model, fixed_inputs={"w": [5.0, 6.0]})
    assert_same(overridden, overridden, {"x": np.ones(2, np.float32)})
    assert overridden.graph.initializers["w"].const_value.numpy().tolist() == [5, 6]


FUNCTIONS = """
<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
g (float[2] x) => (float[2] y) { a = own.Twice <by = 2.0> (x) y = own.Twice (a) }
<domain: "own", opset_import: ["" : 17, "own" : 1]>
Twice <by : float = 3.0> (v) => (w) { k = Constant <value_float : float = @by> ()
                                      u = own.Inner (v) w = Mul (u, k) }
<domain: "own", opset_import: ["" : 17]>
Inner (v) => (w) { axes = Constant <value_ints = [0]> () s = ReduceMean <axes = [0]> (v)
                   w = Add (v, s) }
"""


def test_functions_are_inlined(parse, assert_same):
    model = parse(FUNCTIONS)
    result = canonicalize(model)
    assert not result.functions
    assert {n.op_type for n in result.graph} == {"ReduceMean", "Add", "Mul"}
    assert_same(model, result, {"x": np.array([1, 2], np.float32)})


def test_functions_in_a_circle_are_refused(parse):
    circle = FUNCTIONS.replace("w = Add (v, s)", "w = own.Twice (s)").replace(
        'opset_import: ["" : 17]>', 'opset_import: ["" : 17, "own" : 1]>'
    )
    with pytest.raises(ModelError, match="own::Inner -> own::Twice"):
        canonicalize(parse(circle))


def test_foreign_operators_pass_through(parse):
    text = """g (float[N,4] x) => (float[N,4] y) {
        a = Identity (x) b = own.Magic <strength = 3> (a, k) c = com.microsoft.Gelu (b)
        d = Dropout (c) y = own.Magic (d, k2) }"""
    result = canonicalize(parse(text, k=np.ones(3, "f"), k2=np.ones(3, "f")))
    assert [n.op_type for n in result.graph] == ["Magic", "Gelu", "Magic"]
    assert result.opset_imports == {"": SUPPORTED_OPSET, "com.microsoft": 1, "own": 1}


def test_what_stays_of_control_flow_is_cleaned_inside_and_around(parse, assert_same):
    text = """g (float[2] x, int64 n, bool c) => (float[2] y, float[2] z) {
        i = Identity (x) two = Add (one, one)
        y = Loop (n, c, i) <body = b (int64 k, bool cond, float[2] v) => (bool cond2, float[2] u)
            { cond2 = Identity (cond) j = Identity (v) h = Mul (j, two) dead = Exp (j)
              u = Dropout (h) } >
        z = If (c) < then_branch = t () => (p) { q = Neg (i) p = Identity (q) },
                     else_branch = e () => (r) { r = Abs (i) } > }"""
    model = parse(text, one=np.float32(1))
    result = canonicalize(model)
    found = [n.op_type for n in all_nodes(result.graph)]
    assert found == ["Loop", "If", "Identity", "Mul", "Neg", "Abs"]
    for truth in (True, False):
        feeds = {"x": np.ones(2, "f"), "n": np.array(3), "c": np.array(truth)}
        assert_same(model, result, feeds)


def test_equal_arguments_give_equal_bytes(parse):
    protos = {
        ir.to_proto(canonicalize(parse(TEXT, **STATISTICS))).SerializeToString(deterministic=True)
        for _ in range(3)
    }
    assert len(protos) == 1


def test_names_are_unique_and_complete(parse):
    result = canonicalize(parse(TEXT, **STATISTICS))
    nodes = [n.name for n in all_nodes(result.graph)]
    values = [v.name for g in all_graphs(result.graph) for n in g for v in n.outputs]
    values += [*result.graph.initializers, *(v.name for v in result.graph.inputs)]
    assert all(nodes)
    assert all(values)
    assert len(set(nodes)) == len(nodes)
    assert len(set(values)) == len(values)


def test_weights_beyond_two_gigabytes(parse, tmp_path):
    # A sparse file: no disk space, and only the scan for NaN ever looks at it.
    rows, columns = 26_000, 22_000
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(rows * columns * 4)
    model = parse('<ir_version: 8, opset_import: ["" : 11]> g (float[N,26000] x) => (float[N,?] y)'
                  "{ a = MatMul (x, w) y = Softmax (a) }", w=np.zeros((1, 1), "f"))  # fmt: skip
    value = model.graph.initializers["w"]
    value.const_value = ir.ExternalTensor(
        "weights.bin", 0, rows * columns * 4, ir.DataType.FLOAT,
        shape=ir.Shape([rows, columns]), name="w", base_dir=tmp_path,
    )  # fmt: skip
    value.shape = ir.Shape([rows, columns])
    result = canonicalize(model)
    assert result.opset_imports[""] == SUPPORTED_OPSET
    assert str(result.graph.outputs[0].shape) == "[N,22000]"
    assert result.graph.initializers["w"].const_value is value.const_value


def test_a_long_chain_takes_no_recursion_and_bounded_time():
    x = ir.val("x", ir.DataType.FLOAT, [4])
    nodes = []
    for index in range(20_000):
        op_type = ("Relu", "Neg", "Identity")[index % 3]
        nodes.append(ir.node(op_type, [nodes[-1].outputs[0] if nodes else x]))
    nodes[-1].outputs[0].name = "y"
    graph = ir.Graph([x], nodes[-1].outputs, nodes=nodes, opset_imports={"": 13})
    started = time.perf_counter()
    result = canonicalize(ir.Model(graph, ir_version=8))
    assert len(result.graph) == 13_334
    assert time.perf_counter() - started < 25


def test_batch_norms_can_be_kept_for_training():
    model = ir.from_proto(
        network(
            "g (float[N,3,6,6] x) => (float[N,4,6,6] y) {"
            " a = Conv <pads = [1,1,1,1]> (x, w) y = BatchNormalization (a, s, b, m, v) }",
            w=floats(4, 3, 3, 3),
            s=floats(4, seed=1) + 1,
            b=floats(4, seed=2),
            m=floats(4, seed=3),
            v=abs(floats(4, seed=4)) + 0.5,
        )
    )
    kept = canonicalize(model, keep_batch_norm=True)
    assert [n.op_type for n in kept.graph] == ["Conv", "BatchNormalization"]
    assert [n.op_type for n in canonicalize(kept).graph] == ["Conv"]
