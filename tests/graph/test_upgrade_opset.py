"""Old models compute after the upgrade what onnxruntime computed before it."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from compress.errors import ModelError
from compress.graph.infer_shapes import InferShapes
from compress.graph.lift_constants import LiftConstants
from compress.graph.name_values import NameValues
from compress.graph.opset_adapters import ADAPTERS
from compress.graph.upgrade_opset import IR_VERSION, SUPPORTED_OPSET, UpgradeOpset

RNG = np.random.default_rng(0)


def model_of(opset, nodes, inputs, outputs, initializers=None, dtype=np.float32):
    """A ModelProto; `inputs` name -> shape (or array giving dtype and shape)."""
    infos = []
    for name, shape in inputs.items():
        array = np.asarray(shape) if isinstance(shape, np.ndarray) else np.zeros(shape, dtype)
        elem = helper.np_dtype_to_tensor_dtype(array.dtype)
        infos.append(helper.make_tensor_value_info(name, elem, array.shape))
    graph = helper.make_graph(
        nodes,
        "g",
        infos,
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(v, k) for k, v in (initializers or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6)


def upgraded(proto, check=True):
    model = ir.from_proto(proto)
    NameValues().run(model)
    InferShapes().run(model)
    assert UpgradeOpset().run(model)
    assert model.opset_imports[""] == SUPPORTED_OPSET
    LiftConstants().run(model)
    InferShapes().run(model)
    if check:
        onnx.checker.check_model(ir.to_proto(model))
    assert not UpgradeOpset().run(model)
    return model


N = helper.make_node
X = {"x": (2, 3, 4, 5)}


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


CASES = {
    "batch_norm_7_spatial": (
        7,
        [N("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], spatial=1)],
        X,
        {"s": floats(3), "b": floats(3), "m": floats(3), "v": abs(floats(3))},
    ),
    "batch_norm_7_per_element": (
        7,
        [N("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], spatial=0, epsilon=1e-3)],
        X,
        {
            "s": floats(3, 4, 5),
            "b": floats(3, 4, 5),
            "m": floats(3, 4, 5),
            "v": abs(floats(3, 4, 5)),
        },
    ),
    "batch_norm_9": (
        9,
        [N("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"])],
        X,
        {"s": floats(3), "b": floats(3), "m": floats(3), "v": abs(floats(3))},
    ),
    "clip_7": (7, [N("Clip", ["x"], ["y"], min=-0.5, max=0.25)], X, {}),
    "clip_10_one_bound": (10, [N("Clip", ["x"], ["y"], max=0.25)], X, {}),
    "dropout_7": (7, [N("Dropout", ["x"], ["d"], ratio=0.7), N("Relu", ["d"], ["y"])], X, {}),
    "dropout_10": (10, [N("Dropout", ["x"], ["y"], ratio=0.7)], X, {}),
    "grid_sample_16": (
        16,
        [N("GridSample", ["x", "grid"], ["y"], mode="bilinear")],
        X,
        {"grid": RNG.uniform(-1, 1, (2, 2, 3, 2)).astype(np.float32)},
    ),
    "hardmax_11": (11, [N("Hardmax", ["x"], ["y"])], X, {}),
    "log_softmax_11": (11, [N("LogSoftmax", ["x"], ["y"], axis=2)], X, {}),
    "softmax_7_default": (7, [N("Softmax", ["x"], ["y"])], X, {}),
    "softmax_11_last": (11, [N("Softmax", ["x"], ["y"], axis=3)], X, {}),
    "softmax_12_negative": (12, [N("Softmax", ["x"], ["y"], axis=-2)], X, {}),
    "softmax_12_ones_behind": (12, [N("Softmax", ["x"], ["y"], axis=1)], {"x": (2, 5, 1, 1)}, {}),
    "pad_7": (7, [N("Pad", ["x"], ["y"], pads=[0, 0, 1, 2, 0, 0, 3, 0], value=1.5)], X, {}),
    "pad_10_reflect": (
        10,
        [N("Pad", ["x"], ["y"], mode="reflect", pads=[0, 0, 1, 2, 0, 0, 1, 0])],
        X,
        {},
    ),
    "pad_12": (
        12,
        [N("Pad", ["x", "p"], ["y"], mode="edge")],
        X,
        {"p": np.array([0, 0, 1, 2, 0, 0, 1, 0])},
    ),
    "reduce_sum_11": (11, [N("ReduceSum", ["x"], ["y"], axes=[1, -1], keepdims=0)], X, {}),
    "reduce_sum_12_all": (12, [N("ReduceSum", ["x"], ["y"])], X, {}),
    **{
        f"{name}_13": (13, [N(name, ["x"], ["y"], axes=[2], keepdims=1)], X, {})
        for name in (
            "ReduceL1",
            "ReduceL2",
            "ReduceLogSumExp",
            "ReduceMax",
            "ReduceMean",
            "ReduceMin",
            "ReduceProd",
            "ReduceSumSquare",
        )
    },
    "reduce_mean_9_all": (9, [N("ReduceMean", ["x"], ["y"], keepdims=0)], X, {}),
    "resize_10_enlarge": (
        10,
        [N("Resize", ["x", "s"], ["y"], mode="nearest")],
        X,
        {"s": np.array([1, 1, 2.5, 2], np.float32)},
    ),
    "resize_10_shrink": (
        10,
        [N("Resize", ["x", "s"], ["y"], mode="nearest")],
        {"x": (1, 1, 9, 7)},
        {"s": np.array([1, 1, 0.6, 0.5], np.float32)},
    ),
    "resize_10_both_ways": (
        10,
        [N("Resize", ["x", "s"], ["y"], mode="nearest")],
        {"x": (1, 1, 9, 7)},
        {"s": np.array([1, 1, 0.6, 2], np.float32)},
    ),
    "resize_10_linear": (
        10,
        [N("Resize", ["x", "s"], ["y"], mode="linear")],
        X,
        {"s": np.array([1, 1, 2.5, 2], np.float32)},
    ),
    "resize_11_sizes": (
        11,
        [
            N(
                "Resize",
                ["x", "roi", "none", "sizes"],
                ["y"],
                mode="cubic",
                coordinate_transformation_mode="align_corners",
            )
        ],
        X,
        {
            "roi": np.zeros(0, np.float32),
            "none": np.zeros(0, np.float32),
            "sizes": np.array([2, 3, 8, 9]),
        },
    ),
    "resize_11_tf_half_pixel": (
        11,
        [
            N(
                "Resize",
                ["x", "roi", "s"],
                ["y"],
                mode="nearest",
                coordinate_transformation_mode="tf_half_pixel_for_nn",
                nearest_mode="floor",
            )
        ],
        {"x": (1, 1, 7, 9)},
        {"roi": np.zeros(0, np.float32), "s": np.array([1, 1, 1.7, 0.6], np.float32)},
    ),
    "upsample_7": (
        7,
        [N("Upsample", ["x"], ["y"], mode="nearest", scales=[1.0, 1.0, 2.0, 3.0])],
        X,
        {},
    ),
    "upsample_7_linear": (
        7,
        [N("Upsample", ["x"], ["y"], mode="linear", scales=[1.0, 1.0, 2.0, 1.5])],
        X,
        {},
    ),
    "upsample_9": (
        9,
        [N("Upsample", ["x", "s"], ["y"], mode="nearest")],
        X,
        {"s": np.array([1, 1, 2, 1.5], np.float32)},
    ),
    "roi_align_10": (
        10,
        [
            N(
                "RoiAlign",
                ["x", "rois", "batch"],
                ["y"],
                output_height=2,
                output_width=2,
                sampling_ratio=2,
            )
        ],
        X,
        {"rois": np.array([[0, 0, 3, 3], [1, 1, 4, 3]], np.float32), "batch": np.array([0, 1])},
    ),
    "scatter_9": (
        9,
        [N("Scatter", ["x", "i", "u"], ["y"], axis=1)],
        {"x": (2, 4)},
        {"i": np.array([[1], [3]]), "u": floats(2, 1)},
    ),
    "slice_7": (7, [N("Slice", ["x"], ["y"], starts=[1, -3], ends=[1000, -1], axes=[1, 3])], X, {}),
    "slice_9_no_axes": (9, [N("Slice", ["x"], ["y"], starts=[0, 1], ends=[1, 3])], X, {}),
    "split_11": (11, [N("Split", ["x"], ["y", "z"], axis=3, split=[2, 3])], X, {}),
    "split_13_equal": (13, [N("Split", ["x"], ["y", "z"], axis=2)], X, {}),
    "split_7_equal": (7, [N("Split", ["x"], ["y", "z", "w"], axis=1)], X, {}),
    "squeeze_11": (11, [N("Squeeze", ["x"], ["y"], axes=[-2])], {"x": (1, 3, 1, 2)}, {}),
    "squeeze_12_all": (12, [N("Squeeze", ["x"], ["y"])], {"x": (1, 3, 1, 2)}, {}),
    "unsqueeze_12": (12, [N("Unsqueeze", ["x"], ["y"], axes=[0, -1])], X, {}),
    "top_k_7": (7, [N("TopK", ["x"], ["y", "z"], k=2, axis=2)], X, {}),
    "top_k_10": (10, [N("TopK", ["x", "k"], ["y", "z"])], X, {"k": np.array([3])}),
    "dft_17": (17, [N("DFT", ["x"], ["y"], axis=1)], {"x": (1, 6, 1)}, {}),
    "gemm_9": (
        9,
        [N("Gemm", ["x", "w", "b"], ["y"], transB=1)],
        {"x": (2, 3)},
        {"w": floats(4, 3), "b": floats(4)},
    ),
    "average_pool_7": (
        7,
        [N("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])],
        X,
        {},
    ),
    "max_pool_8": (8, [N("MaxPool", ["x"], ["y"], kernel_shape=[2, 2])], X, {}),
    "lstm_7": (
        7,
        [N("LSTM", ["x", "w", "r"], ["y"], hidden_size=3)],
        {"x": (4, 1, 2)},
        {"w": floats(1, 12, 2), "r": floats(1, 12, 3)},
    ),
    "prelu_7": (7, [N("PRelu", ["x", "s"], ["y"])], X, {"s": floats(3, 1, 1)}),
    "arg_max_11": (11, [N("ArgMax", ["x"], ["y"], axis=-1)], X, {}),
    "depth_to_space_7": (
        7,
        [N("DepthToSpace", ["x"], ["y"], blocksize=2)],
        {"x": (1, 8, 2, 3)},
        {},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_old_operators_compute_the_same(case, assert_same):
    opset, nodes, inputs, initializers = CASES[case]
    outputs = [name for node in nodes for name in node.output if name != "d"]
    proto = model_of(opset, nodes, inputs, outputs, initializers)
    feeds = {name: floats(*shape) for name, shape in inputs.items()}
    assert_same(proto, upgraded(proto), feeds)


def test_text_before_and_after(golden_pass):
    nodes = [
        N("Clip", ["x"], ["c"], min=0.0, max=6.0),
        N("ReduceMean", ["c"], ["m"], axes=[2, 3]),
        N("Squeeze", ["m"], ["s"], axes=[2, 3]),
        N("Softmax", ["s"], ["y"]),
        N("Softmax", ["x"], ["z"], axis=2),
    ]
    model = ir.from_proto(model_of(10, nodes, X, ["y", "z"]))
    NameValues().run(model)
    InferShapes().run(model)
    golden_pass("upgrade_opset", model, UpgradeOpset())


def test_bounds_take_the_dtype_of_the_data(assert_same):
    proto = model_of(7, [N("Pad", ["x"], ["y"], pads=[1, 0], value=2.0)], {"x": (4,)}, ["y"],
                     dtype=np.float64)  # fmt: skip
    assert_same(proto, upgraded(proto), {"x": RNG.standard_normal(4)})
    proto = model_of(10, [N("Clip", ["x"], ["y"], min=0.0)], {"x": (4,)}, ["y"], dtype=np.float16)
    model = upgraded(proto)
    assert all(v.dtype == ir.DataType.FLOAT16 for v in model.graph.initializers.values())


def test_group_normalization_18_gets_scales_per_channel():
    nodes = [N("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)]
    scale, bias = floats(2), floats(2)
    proto = model_of(18, nodes, {"x": (2, 6, 5)}, ["y"], {"s": scale, "b": bias})
    x = floats(2, 6, 5)
    [found] = ReferenceEvaluator(ir.to_proto(upgraded(proto))).run(None, {"x": x})
    grouped = x.reshape(2, 2, 15)
    normal = (grouped - grouped.mean(2, keepdims=True)) / np.sqrt(
        grouped.var(2, keepdims=True) + 1e-5
    )
    expected = normal * scale.reshape(2, 1) + bias.reshape(2, 1)
    np.testing.assert_allclose(found.reshape(2, 2, 15), expected, rtol=1e-4, atol=1e-5)


def test_unknown_rank_and_dtype_do_not_stop_the_upgrade(assert_same):
    # The shape of a Reshape to a fed target is unknown, rank included.
    nodes = [
        N("Reshape", ["x", "target"], ["r"]),
        N("Clip", ["r"], ["c"], min=-1.0),
        N("Softmax", ["c"], ["y"], axis=1),
    ]
    target = np.array([2, 3, 4])
    proto = model_of(9, nodes, {"x": (6, 4), "target": target}, ["y"])
    proto.graph.input[1].type.tensor_type.shape.Clear()
    proto.graph.input[1].type.tensor_type.ClearField("shape")
    # onnx's checker wants a shape for every output; onnxruntime does not.
    assert_same(proto, upgraded(proto, check=False), {"x": floats(6, 4), "target": target})


def test_bodies_of_control_flow_are_upgraded(assert_same):
    branches = [
        helper.make_graph(
            [N("ReduceSum", ["x"], ["r"], axes=[1]), N("Softmax", ["r"], [f"o{i}"], axis=0)],
            f"b{i}",
            [],
            [helper.make_empty_tensor_value_info(f"o{i}")],
        )
        for i in (0, 1)
    ]
    node = N("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])
    proto = model_of(11, [node], {"x": (2, 3), "c": np.zeros((), bool)}, ["y"])
    for truth in (True, False):
        assert_same(proto, upgraded(proto), {"x": floats(2, 3), "c": np.array(truth)})


def test_functions_are_upgraded_with_the_model(assert_same):
    body = helper.make_function(
        "own", "Shrink", ["a"], ["b"],
        [N("Squeeze", ["a"], ["s"], axes=[0]), N("ReduceSum", ["s"], ["b"], axes=[0])],
        [helper.make_opsetid("", 11)],
    )  # fmt: skip
    proto = model_of(11, [N("Shrink", ["x"], ["y"], domain="own")], {"x": (1, 3, 4)}, ["y"])
    proto.ir_version = 8
    proto.functions.append(body)
    proto.opset_import.append(helper.make_opsetid("own", 1))
    model = ir.from_proto(proto)
    NameValues().run(model)
    InferShapes().run(model)
    UpgradeOpset().run(model)
    assert [f.opset_imports[""] for f in model.functions.values()] == [SUPPORTED_OPSET]
    assert_same(proto, model, {"x": floats(1, 3, 4)})


@pytest.mark.parametrize("opset", [SUPPORTED_OPSET, SUPPORTED_OPSET + 1])
def test_newer_models_keep_their_opset(opset):
    model = ir.from_proto(model_of(opset, [N("Relu", ["x"], ["y"])], X, ["y"]))
    model.ir_version = IR_VERSION
    assert not UpgradeOpset().run(model)
    assert model.opset_imports[""] == opset


def test_opset_6_is_refused():
    model = ir.from_proto(model_of(6, [N("Relu", ["x"], ["y"])], X, ["y"]))
    with pytest.raises(ModelError, match=r"opset 6.*oldest that is supported is 7"):
        UpgradeOpset().run(model)


@pytest.mark.parametrize(
    ("opset", "node", "reason"),
    [
        (
            8,
            N(
                "Scan",
                ["", "s", "x"],
                ["y", "z"],
                name="scan0",
                num_scan_inputs=1,
                body=helper.make_graph(
                    [N("Add", ["a", "b"], ["c"])],
                    "b",
                    [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "ab"],
                    [helper.make_tensor_value_info("c", TensorProto.FLOAT, [2])] * 2,
                ),
            ),
            "scan0",
        ),
        (9, N("BatchNormalization", list("xssss"), ["y", "z"], name="bn0"), r"bn0.*training"),
    ],
)
def test_what_has_no_newer_form_is_refused_by_name(opset, node, reason):
    inputs = {"x": (1, 2, 2), "s": (2,)}
    model = ir.from_proto(model_of(opset, [node], inputs, ["y", "z"]))
    with pytest.raises(ModelError, match=reason) as caught:
        UpgradeOpset().run(model)
    assert "\n" not in str(caught.value)


REVIEWED = {
    # Their signatures changed, but an old node says the same in the new version: a widened or
    # optional input, an output renamed, an attribute whose default is the old behaviour.
    ("ArgMax", 12), ("ArgMin", 12), ("AveragePool", 10), ("AveragePool", 19), ("Cast", 19),
    ("CastLike", 19), ("Constant", 11), ("Constant", 12), ("DepthToSpace", 11),
    ("DequantizeLinear", 13), ("DequantizeLinear", 21), ("Dropout", 12), ("GRU", 14),
    ("GatherND", 12), ("Gemm", 11), ("LSTM", 14), ("LpPool", 18), ("MaxPool", 8), ("MaxPool", 10),
    ("OptionalHasElement", 18), ("Pad", 18), ("QuantizeLinear", 13), ("QuantizeLinear", 19),
    ("QuantizeLinear", 21), ("RNN", 14), ("Reshape", 14), ("Resize", 18), ("ScatterElements", 16),
    ("ScatterND", 16), ("Shape", 15), ("TopK", 11),
}  # fmt: skip


def test_every_change_of_signature_is_adapted_or_reviewed():
    def signature(schema):
        attributes = schema.attributes.values()
        return (
            [(i.option, len(schema.inputs)) for i in schema.inputs],
            [o.option for o in schema.outputs],
            sorted((a.name, a.type, a.required, str(a.default_value)) for a in attributes),
            schema.deprecated,
        )

    history = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            history.setdefault(schema.name, {})[schema.since_version] = schema
    unseen = set()
    for name, versions in history.items():
        ordered = sorted(versions)
        for old, new in itertools.pairwise(ordered):
            changed = signature(versions[old]) != signature(versions[new])
            if 7 < new <= SUPPORTED_OPSET and changed and (name, new) not in ADAPTERS:
                unseen.add((name, new))
    assert unseen - REVIEWED == set()
