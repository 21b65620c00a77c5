"""Random small models: the canonical form computes the same and is a fixed point."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from compress.graph.canonical import SUPPORTED_OPSET, canonicalize
from compress.graph.printer import to_text

CHANNELS, SIZE = 4, 5
"""Every value is float32 (N, 4, 5, 5), so that any operator may follow any other."""


class Builder:
    """Grows a model of one opset from drawn choices."""

    def __init__(self, opset: int, seed: int) -> None:
        self.opset, self.random = opset, np.random.default_rng(seed)
        self.nodes: list = []
        self.initializers: dict[str, np.ndarray] = {}
        self.values = ["x"]

    def name(self) -> str:
        return f"v{len(self.nodes)}_{len(self.initializers)}"

    def constant(self, array: np.ndarray, as_node: bool = False) -> str:
        name = f"c{len(self.initializers)}_{len(self.nodes)}"
        if as_node:
            self.nodes.append(
                helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))
            )
        else:
            self.initializers[name] = array
        return name

    def weight(self, *shape: int) -> str:
        array = (self.random.standard_normal(shape) * 0.5).astype(np.float32)
        return self.constant(array, as_node=bool(self.random.integers(2)))

    def node(self, op_type: str, inputs: list[str], **attributes) -> str:
        output = self.name()
        self.nodes.append(helper.make_node(op_type, inputs, [output], **attributes))
        return output

    def ints(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64))

    def with_axes(self, op_type: str, x: str, axes: list[int], since: int, **attributes) -> str:
        if self.opset < since:
            return self.node(op_type, [x], axes=axes, **attributes)
        return self.node(op_type, [x, self.ints(*axes)], **attributes)


def convolve(b, x, _):
    return b.node("Conv", [x, b.weight(CHANNELS, CHANNELS, 3, 3)], pads=[1, 1, 1, 1])


def convolve_grouped(b, x, _):
    inputs = [x, b.weight(CHANNELS, 2, 1, 1), b.weight(CHANNELS)]
    return b.node("Conv", inputs, group=2, kernel_shape=[1, 1])


def normalize(b, x, _):
    statistics = [b.weight(CHANNELS) for _ in range(3)]
    variance = b.constant(b.random.uniform(0.5, 2, CHANNELS).astype(np.float32))
    return b.node("BatchNormalization", [x, *statistics, variance], epsilon=1e-3)


def flatten_and_back(b, x, _):
    flat = b.node("Flatten", [x], axis=1)
    return b.node("Reshape", [flat, b.ints(-1, CHANNELS, SIZE, SIZE)])


def reshape_by_shape(b, x, _):
    shape = b.node("Shape", [x])
    batch = b.node("Gather", [shape, b.constant(np.array(0, np.int64))], axis=0)
    batch = b.with_axes("Unsqueeze", batch, [0], 13)
    target = b.node("Concat", [batch, b.ints(CHANNELS, SIZE, SIZE)], axis=0)
    return b.node("Reshape", [x, target])


def transpose_twice(b, x, _):
    there = b.node("Transpose", [x], perm=[0, 2, 3, 1])
    return b.node("Transpose", [there], perm=[0, 3, 1, 2])


def swap_square(b, x, _):
    return b.node("Transpose", [x], perm=[0, 1, 3, 2])


def squeeze_and_back(b, x, _):
    wide = b.with_axes("Unsqueeze", x, [1], 13)
    return b.with_axes("Squeeze", wide, [1], 13)


def drop(b, x, _):
    return b.node("Dropout", [x], ratio=0.3) if b.opset < 12 else b.node("Dropout", [x])


def clip(b, x, _):
    return b.node("Clip", [x, b.constant(np.float32(-1)), b.constant(np.float32(2))])


def pad_nothing(b, x, _):
    return b.node("Pad", [x, b.ints(*[0] * 8)])


def slice_everything(b, x, _):
    return b.node("Slice", [x, b.ints(0), b.ints(2**62), b.ints(2)])


def reduce_and_spread(b, x, _):
    mean = b.with_axes("ReduceMean", x, [2, 3], 18, keepdims=1)
    return b.node("Sub", [x, mean])


def softmax(b, x, _):
    return b.node("Softmax", [x], axis=int(b.random.integers(1, 4)))


def constant_arithmetic(b, x, _):
    total = b.node("Add", [b.weight(1), b.weight(CHANNELS, 1, 1)])
    return b.node("Mul", [x, b.node("Exp", [total])])


def decided_if(b, x, y):
    condition = b.constant(np.array(bool(b.random.integers(2))))
    output, branches = b.name(), []
    for name, source in (("then", x), ("else", y)):
        info = helper.make_tensor_value_info(f"{output}{name}", TensorProto.FLOAT, None)
        inner = [
            helper.make_node("Neg", [source], [f"{output}{name}_"]),
            helper.make_node("Identity", [f"{output}{name}_"], [f"{output}{name}"]),
        ]
        branches.append(helper.make_graph(inner, f"{output}{name}", [], [info]))
    b.nodes.append(
        helper.make_node(
            "If", [condition], [output], then_branch=branches[0], else_branch=branches[1]
        )
    )
    return output


STEPS = [
    convolve, convolve_grouped, normalize, flatten_and_back, reshape_by_shape, transpose_twice,
    swap_square, squeeze_and_back, drop, clip, pad_nothing, slice_everything, reduce_and_spread,
    softmax, constant_arithmetic, decided_if,
    lambda b, x, _: b.node("Relu", [x]),
    lambda b, x, _: b.node("Identity", [x]),
    lambda b, x, _: b.node("Cast", [x], to=TensorProto.FLOAT),
    lambda b, x, _: b.node("Tanh", [x]),
    lambda b, x, y: b.node("Add", [x, y]),
    lambda b, x, y: b.node("Mul", [x, y]),
]  # fmt: skip


@st.composite
def models(draw):
    opset = draw(st.sampled_from([11, 12, 13, 17, 20, SUPPORTED_OPSET, SUPPORTED_OPSET + 1]))
    b = Builder(opset, draw(st.integers(0, 2**16)))
    for _ in range(draw(st.integers(1, 10))):
        recent = st.integers(1, min(4, len(b.values)))
        x, y = b.values[-draw(recent)], b.values[-draw(recent)]
        b.values.append(draw(st.sampled_from(STEPS))(b, x, y))
    made = b.values[1:]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    shape = ["N", CHANNELS, SIZE, SIZE]
    graph = helper.make_graph(
        b.nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in b.initializers.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10 if opset > 20 else 8
    )


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)  # fmt: skip
@given(proto=models(), batch=st.integers(1, 3))
def test_canonical_form_computes_the_same_and_is_a_fixed_point(proto, batch, assert_same):
    model = ir.from_proto(proto)
    before = to_text(model, weights=True)
    result = canonicalize(model)
    assert to_text(model, weights=True) == before
    text = to_text(result, weights=True)
    assert to_text(canonicalize(result), weights=True) == text
    assert [v.name for v in result.graph.outputs] == [v.name for v in model.graph.outputs]
    x = np.random.default_rng(batch).standard_normal((batch, CHANNELS, SIZE, SIZE))
    assert_same(proto, result, {"x": x.astype(np.float32)}, tolerance=1e-3)
