"""Every operator computes in torch what onnxruntime computes, and its gradient is that of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx_ir as ir
import pytest

from compress.execute.session import Runner

torch = pytest.importorskip("torch")

from compress.execute.differentiable import TorchModel  # noqa: E402

OPSETS = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]


def floats(*shape: int) -> np.ndarray:
    """Normal numbers, the same for the same shape, and none of them close to another or to 0."""
    generator = np.random.default_rng(int(np.prod(shape)) + 100 * len(shape))
    count = int(np.prod(shape))
    steps = generator.permutation(count) - count / 2 + 0.5
    return (steps * (4.0 / max(count, 1))).reshape(shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return np.abs(floats(*shape)) + np.float32(0.1)


def inside(*shape: int) -> np.ndarray:
    """Between -1 and 1."""
    return floats(*shape) * np.float32(0.45)


def integers(*shape: int, low: int = -9, high: int = 10, dtype: Any = np.int64) -> np.ndarray:
    generator = np.random.default_rng(int(np.prod(shape)) + 7)
    return generator.integers(low, high, shape).astype(dtype)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def booleans(*shape: int) -> np.ndarray:
    return floats(*shape) > 0


@dataclasses.dataclass
class Case:
    """One node. `fixed` inputs become initialisers, and no gradient is asked of them."""

    op_type: str
    inputs: list[np.ndarray | None]
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    outputs: int = 1
    domain: str = ""
    fixed: tuple[int, ...] = ()
    smooth: bool = True

    @property
    def differentiable(self) -> bool:
        """Whether there is anything to check the gradient of."""
        return self.smooth and any(
            array is not None and np.asarray(array).dtype.kind == "f" and index not in self.fixed
            for index, array in enumerate(self.inputs)
        )

    def model(self) -> ir.Model:
        names = ["" if array is None else f"i{k}" for k, array in enumerate(self.inputs)]
        arrays = {n: np.asarray(a) for n, a in zip(names, self.inputs, strict=True) if n}
        fixed = [f"i{k}" for k in self.fixed]
        results = [f"o{k}" for k in range(self.outputs)]
        node = onnx.helper.make_node(
            self.op_type, names, results, "node", domain=self.domain, **self.attributes
        )
        graph = onnx.helper.make_graph(
            [node],
            "g",
            [
                onnx.helper.make_tensor_value_info(
                    n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape
                )
                for n, a in arrays.items()
                if n not in fixed
            ],
            [onnx.ValueInfoProto(name=name) for name in results],
            [onnx.numpy_helper.from_array(arrays[name], name) for name in fixed],
        )
        return ir.from_proto(onnx.helper.make_model(graph, opset_imports=OPSETS, ir_version=10))

    def feeds(self) -> dict[str, np.ndarray]:
        return {
            f"i{k}": np.asarray(a)
            for k, a in enumerate(self.inputs)
            if a is not None and k not in self.fixed
        }


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, np.ndarray]) -> None:
    """Floats to 1e-4 of the largest magnitude, everything else exactly."""
    assert set(found) == set(expected)
    for name, right in expected.items():
        left = found[name].detach().numpy()
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        if right.dtype.kind == "f":
            finite = np.isfinite(right)
            np.testing.assert_array_equal(left[~finite], right[~finite])
            largest = np.abs(right[finite]).max(initial=1e-30)
            assert np.abs(left[finite] - right[finite]).max(initial=0) <= 1e-4 * largest
        else:
            np.testing.assert_array_equal(left, right)


def check(case: Case) -> None:
    model = case.model()
    feeds = case.feeds()
    expected = Runner(model)(feeds)
    module = TorchModel(model)
    assert_same(module({k: torch.from_numpy(a) for k, a in feeds.items()}), expected)


def check_gradient(case: Case) -> None:
    module = TorchModel(case.model()).double()
    feeds = {k: torch.from_numpy(a) for k, a in case.feeds().items()}
    names = [name for name, tensor in feeds.items() if tensor.is_floating_point()]
    points = [feeds[name].double().requires_grad_() for name in names]

    def function(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        results = module({**feeds, **dict(zip(names, tensors, strict=True))})
        return tuple(r for r in results.values() if r.is_floating_point())

    assert all(result.dtype == torch.float64 for result in function(*points))
    assert torch.autograd.gradcheck(function, points, fast_mode=True)


X = floats(2, 3, 4)
IMAGE = floats(2, 4, 7, 6)


def unary(op_type: str, x: np.ndarray = X, smooth: bool = True, **attributes: Any) -> Case:
    return Case(op_type, [x], attributes, smooth=smooth)


CASES: dict[str, Case] = {
    # arithmetic
    **{
        f"{op} of {kind}": Case(op, [a, b])
        for op in ("Add", "Sub", "Mul", "Max", "Min")
        for kind, a, b in (
            ("floats", floats(2, 3, 1), floats(4)),
            ("integers", integers(2, 3), integers(3, dtype=np.int64)),
            ("a scalar", X, np.float32(0.7)),
        )
    },
    "Div": Case("Div", [X, positive(3, 1)]),
    "Div of integers": Case("Div", [integers(4, 5), integers(5, low=1)]),
    "Pow": Case("Pow", [positive(2, 3), floats(3)]),
    "Pow of negatives": Case("Pow", [X, np.float32(2.0)], fixed=(1,)),
    "Pow by integers": Case("Pow", [X, np.int64(3)]),
    "Pow of integers": Case("Pow", [integers(3, 4), ints(2)]),
    "Mod": Case("Mod", [integers(3, 4), ints(4)]),
    "Mod of negatives": Case("Mod", [integers(3, 4), ints(-4)]),
    "Mod, fmod": Case("Mod", [integers(3, 4), ints(-4)], {"fmod": 1}),
    "Mod of floats": Case("Mod", [X, np.float32(0.7)], {"fmod": 1}, smooth=False),
    "Sum": Case("Sum", [X, floats(4), floats(3, 1)]),
    "Mean": Case("Mean", [X, floats(4), floats(3, 1)]),
    "Max of one": Case("Max", [X]),
    **{
        op: unary(op)
        for op in ("Identity", "Neg", "Abs", "Exp", "Erf", "Reciprocal", "Sin", "Cos", "Tanh",
                   "Atan", "Sinh", "Cosh", "Asinh", "Sign", "Floor", "Ceil", "Round")
    },
    **{op: unary(op, positive(3, 4)) for op in ("Sqrt", "Log")},
    **{op: unary(op, inside(3, 4)) for op in ("Asin", "Acos", "Atanh", "Tan")},
    "Acosh": unary("Acosh", positive(3, 4) + 1),
    "Round half to even": unary("Round", np.float32([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]),
                                 smooth=False),
    "Neg of integers": unary("Neg", integers(5)),
    "Abs of integers": unary("Abs", integers(5)),
    # comparisons and logic
    **{
        f"{op} of {kind}": Case(op, [a, b])
        for op in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
        for kind, a, b in (("floats", X, X[:, :1]), ("integers", integers(2, 9), integers(9)))
    },
    **{op: Case(op, [booleans(3, 4), booleans(4)]) for op in ("And", "Or", "Xor")},
    "Not": unary("Not", booleans(3, 4)),
    "Where": Case("Where", [booleans(3, 1), floats(3, 4), floats(4)]),
    **{f"Bitwise{op}": Case(f"Bitwise{op}", [integers(3, 4), integers(4)])
       for op in ("And", "Or", "Xor")},
    "BitwiseNot": unary("BitwiseNot", integers(5)),
    "BitShift": Case("BitShift", [integers(5, low=0, dtype=np.uint8), np.uint8(2)],
                     {"direction": "RIGHT"}),
    "IsNaN": unary("IsNaN", np.float32([1, np.nan, np.inf]), smooth=False),
    "IsInf": unary("IsInf", np.float32([-np.inf, np.nan, np.inf]), smooth=False,
                   detect_negative=0),
    # activations
    **{
        op: unary(op)
        for op in ("Relu", "Sigmoid", "HardSigmoid", "HardSwish", "LeakyRelu", "Elu", "Selu",
                   "Celu", "Softplus", "Softsign", "Mish", "Gelu", "Softmax", "LogSoftmax",
                   "ThresholdedRelu", "Hardmax", "Shrink")
    },
    "HardSigmoid, slope": unary("HardSigmoid", alpha=1 / 6, beta=0.45),
    "HardSwish beyond": unary("HardSwish", 3 * X),
    "LeakyRelu, slope": unary("LeakyRelu", alpha=0.3),
    "Elu, alpha": unary("Elu", alpha=0.4),
    "Selu, alpha": unary("Selu", alpha=1.2, gamma=0.9),
    "Celu, alpha": unary("Celu", alpha=1.7),
    "ThresholdedRelu, alpha": unary("ThresholdedRelu", alpha=0.43),
    "Shrink, bias": unary("Shrink", bias=0.3, lambd=0.77),
    "Softplus of large": unary("Softplus", 30 * X),
    "Gelu by tanh": unary("Gelu", approximate="tanh"),
    "Softmax on 1": unary("Softmax", axis=1),
    "LogSoftmax on 0": unary("LogSoftmax", axis=0),
    "Hardmax of equals": unary("Hardmax", np.float32([[1, 3, 3], [2, 2, 1]]), smooth=False),
    "PRelu": Case("PRelu", [IMAGE, floats(4, 1, 1)]),
    "Clip": Case("Clip", [X, np.float32(-0.51), np.float32(0.73)], fixed=(1, 2)),
    "Clip from below": Case("Clip", [X, np.float32(-0.51)], fixed=(1,)),
    "Clip from above": Case("Clip", [X, None, np.float32(0.51)], fixed=(2,)),
    "Clip without bounds": Case("Clip", [X]),
    "Clip upside down": Case("Clip", [X, np.float32(0.51), np.float32(-0.73)], fixed=(1, 2)),
    "Clip of integers": Case("Clip", [integers(9), np.int64(-2), np.int64(3)]),
    "Dropout": Case("Dropout", [X, np.float32(0.3)], outputs=2, fixed=(1,)),
    "QuickGelu": Case("QuickGelu", [X], {"alpha": 1.5}, domain="com.microsoft"),
    "FastGelu": Case("FastGelu", [X, floats(4)], domain="com.microsoft"),
    "BiasGelu": Case("BiasGelu", [X, floats(4)], domain="com.microsoft"),
    "Gelu of the runtime": Case("Gelu", [X], domain="com.microsoft"),
    # products
    "MatMul": Case("MatMul", [floats(2, 1, 3, 4), floats(5, 4, 2)]),
    "MatMul with vectors": Case("MatMul", [floats(4), floats(3, 4, 2)]),
    "MatMul of vectors": Case("MatMul", [floats(4), floats(4)]),
    "MatMul of integers": Case("MatMul", [integers(3, 4), integers(4, 2)]),
    "FusedMatMul": Case("FusedMatMul", [floats(2, 4, 3), floats(2, 5, 4)],
                        {"transA": 1, "transB": 1, "alpha": 0.3}, domain="com.microsoft"),
    "Gemm": Case("Gemm", [floats(3, 4), floats(4, 5), floats(5)]),
    "Gemm, alpha and beta": Case("Gemm", [floats(4, 3), floats(5, 4), floats(3, 1)],
                                 {"alpha": 0.5, "beta": 2.0, "transA": 1, "transB": 1}),
    "Gemm without C": Case("Gemm", [floats(3, 4), floats(4, 5)], {"alpha": 0.5}),
    "Gemm, scalar C": Case("Gemm", [floats(3, 4), floats(4, 5), np.float32(2)]),
    "Einsum": Case("Einsum", [floats(2, 3, 4), floats(2, 5, 4)], {"equation": "bij, bkj -> bik"}),
    "Einsum, ellipsis": Case("Einsum", [floats(2, 3, 4, 5)], {"equation": "...ij->...ji"}),
    "Einsum, diagonal": Case("Einsum", [floats(3, 3)], {"equation": "ii->i"}),
    # reductions
    **{
        f"{op}{label}": Case(op, [positive(2, 3, 4), axes], attributes)
        for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1",
                   "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare")
        for label, axes, attributes in (
            ("", None, {}),
            (", axes", ints(-1, 0), {"keepdims": 0}),
            (", one axis", ints(1), {}),
            (", no axes", ints(), {"keepdims": 0}),
            (", no operation", ints(), {"noop_with_empty_axes": 1}),
        )
    },
    "ReduceSum of integers": Case("ReduceSum", [integers(3, 4, dtype=np.int32), ints(1)]),
    "ReduceMax of integers": Case("ReduceMax", [integers(3, 4, dtype=np.int32), ints(0)]),
    "ReduceMean of integers": Case("ReduceMean", [integers(3, 4, dtype=np.int32), ints(0)]),
    "ReduceMin of booleans": Case("ReduceMin", [booleans(3, 4), ints(0)]),
    **{
        f"{op}{label}": unary(op, integers(4, 9, high=-4, dtype=np.int32), **attributes)
        for op in ("ArgMax", "ArgMin")
        for label, attributes in (
            ("", {}),
            (" on 1", {"axis": 1, "keepdims": 0}),
            (" the last", {"axis": -1, "select_last_index": 1}),
        )
    },
    "TopK": Case("TopK", [X, ints(2)], outputs=2),
    "TopK of the smallest": Case("TopK", [X, ints(2)], {"axis": 1, "largest": 0}, outputs=2),
    "TopK of equals": Case("TopK", [np.float32([[1, 3, 3, 2, 3]]), ints(2)], outputs=2,
                           smooth=False),
    **{
        f"CumSum{label}": Case("CumSum", [X, np.int64(axis)], attributes)
        for label, axis, attributes in (
            ("", 1, {}), (" backwards", -1, {"reverse": 1}), (" before", 2, {"exclusive": 1}),
            (" behind", 0, {"exclusive": 1, "reverse": 1}))
    },
    "CumSum of integers": Case("CumSum", [integers(9, dtype=np.int32), np.int32(0)]),
    # shapes
    "Reshape": Case("Reshape", [X, ints(0, -1)]),
    "Reshape, allowzero": Case("Reshape", [np.zeros((0, 3), np.float32), ints(3, 0)],
                               {"allowzero": 1}, smooth=False),
    "Flatten": unary("Flatten"),
    "Flatten at 0": unary("Flatten", axis=0),
    "Flatten at -1": unary("Flatten", axis=-1),
    "Squeeze": Case("Squeeze", [floats(1, 3, 1), ints(-1)]),
    "Squeeze all": Case("Squeeze", [floats(1, 3, 1)]),
    "Unsqueeze": Case("Unsqueeze", [floats(3, 2), ints(-1, 0)]),
    "Transpose": unary("Transpose", perm=[1, 2, 0]),
    "Transpose back": unary("Transpose"),
    "Concat": Case("Concat", [X, floats(2, 1, 4)], {"axis": -2}),
    "Split": Case("Split", [floats(7, 2)], {"num_outputs": 3}, outputs=3),
    "Split in sizes": Case("Split", [X, ints(1, 3)], {"axis": -1}, outputs=2),
    "Slice": Case("Slice", [X, ints(0, 1), ints(2, 3), ints(1, -1)]),
    "Slice backwards": Case("Slice", [X, ints(-1, 3), ints(-(2**62), 0), ints(1, 2), ints(-1, -2)]),
    "Slice in steps": Case("Slice", [floats(9), ints(1), ints(2**62), ints(0), ints(3)]),
    "Slice of nothing": Case("Slice", [X, ints(2), ints(1)], smooth=False),
    "Slice without axes": Case("Slice", [X, ints(0, 1, -2), ints(1, 9, -1)]),
    "Expand": Case("Expand", [floats(3, 1), ints(2, 1, 4)]),
    "Tile": Case("Tile", [floats(2, 3), ints(2, 3)]),
    **{
        f"Pad, {mode}": Case("Pad", [IMAGE, ints(0, 0, 2, 1, 0, 0, 1, 3)], {"mode": mode})
        for mode in ("constant", "reflect", "edge", "wrap")
    },
    "Pad, value": Case("Pad", [X, ints(0, 0, 1, 0, 2, 0), np.float32(1.5)], fixed=(2,)),
    "Pad, axes": Case("Pad", [X, ints(1, 2), None, ints(-1)], {"mode": "edge"}),
    "Pad, negative": Case("Pad", [IMAGE, ints(0, 0, -1, 2, 0, 1, 1, -2)]),
    "Pad of integers": Case("Pad", [integers(2, 3), ints(1, 0, 0, 2), np.int64(-7)]),
    "DepthToSpace DCR": unary("DepthToSpace", floats(2, 8, 3, 2), blocksize=2),
    "DepthToSpace CRD": unary("DepthToSpace", floats(2, 8, 3, 2), blocksize=2, mode="CRD"),
    "SpaceToDepth": unary("SpaceToDepth", floats(2, 3, 4, 6), blocksize=2),
    "Trilu": unary("Trilu", floats(2, 4, 5)),
    "Trilu below": Case("Trilu", [floats(4, 5), np.int64(-1)], {"upper": 0}),
    "ReverseSequence": Case("ReverseSequence", [floats(5, 3, 2), ints(2, 5, 1)]),
    "ReverseSequence, batch first": Case("ReverseSequence", [floats(3, 5, 2), ints(2, 5, 1)],
                                         {"batch_axis": 0, "time_axis": 1}),
    # made from shapes and numbers
    "Shape": unary("Shape"),
    "Shape in part": unary("Shape", start=-2, end=-1),
    "Shape beyond": unary("Shape", start=1, end=9),
    "Size": unary("Size"),
    "ConstantOfShape": Case("ConstantOfShape", [ints(2, 3)]),
    "ConstantOfShape, value": Case(
        "ConstantOfShape", [ints(2, 3)],
        {"value": onnx.helper.make_tensor("v", onnx.TensorProto.INT32, [1], [7])}),
    "Range": Case("Range", [np.int64(2), np.int64(11), np.int64(3)]),
    "Range backwards": Case("Range", [np.int64(5), np.int64(-3), np.int64(-2)]),
    "Range of nothing": Case("Range", [np.int64(5), np.int64(3), np.int64(1)]),
    "Range of floats": Case("Range", [np.float32(0.5), np.float32(2.1), np.float32(0.25)],
                            smooth=False),
    "EyeLike": unary("EyeLike", floats(3, 4), k=1),
    "EyeLike, dtype": unary("EyeLike", integers(3, 4), dtype=onnx.TensorProto.FLOAT, k=-1),
    "NonZero": unary("NonZero", integers(3, 4, low=-1, high=2), smooth=False),
    "OneHot": Case("OneHot", [integers(2, 3, low=-5, high=5), np.int64(5), np.float32([0.5, 3])]),
    "OneHot on 1": Case("OneHot", [integers(2, 3, low=0, high=9), np.int64(5), ints(0, 1)],
                        {"axis": 1}),
    **{
        f"Cast to {name}": unary("Cast", 3 * X, to=getattr(onnx.TensorProto, name))
        for name in ("INT64", "INT8", "BOOL", "DOUBLE", "FLOAT16")
    },
    "Cast from integers": unary("Cast", integers(5), to=onnx.TensorProto.FLOAT),
    "CastLike": Case("CastLike", [3 * X, ints(1)]),
    # indices
    "Gather": Case("Gather", [X, integers(2, 2, low=-3, high=3)], {"axis": 1}),
    "Gather one": Case("Gather", [X, np.int64(-1)]),
    "Gather a scalar": Case("Gather", [floats(4), np.int64(2)]),
    "GatherND of a scalar": Case("GatherND", [X, ints(1, 2, -1)]),
    "Gather by int32": Case("Gather", [X, integers(3, low=-2, high=2, dtype=np.int32)]),
    "GatherElements": Case("GatherElements", [X, integers(2, 2, 4, low=-3, high=3)], {"axis": 1}),
    "GatherND": Case("GatherND", [X, integers(5, 2, low=-2, high=2)]),
    "GatherND, batches": Case("GatherND", [floats(2, 3, 4, 5), integers(2, 6, 2, low=-3, high=3)],
                              {"batch_dims": 1}),
    **{
        f"ScatterElements, {reduction}": Case(
            "ScatterElements", [X, ints(0, -1, 1, 1).reshape(1, 1, 4), floats(1, 1, 4)],
            {"axis": 1, "reduction": reduction})
        for reduction in ("none", "add", "mul", "max", "min")
    },
    **{
        f"ScatterND, {reduction}": Case(
            "ScatterND", [floats(4, 3, 2), ints(0, 1, -1, 0).reshape(2, 2), floats(2, 2)],
            {"reduction": reduction})
        for reduction in ("none", "add", "mul", "max", "min")
    },
    "ScatterND of rows twice": Case(
        "ScatterND", [floats(4, 3), ints(1, 1).reshape(2, 1), floats(2, 3)],
        {"reduction": "add"}),
    "Compress": Case("Compress", [X, np.array([True, False, True])], {"axis": 1}),
    "Compress flat": Case("Compress", [X, np.array([False, True, True])]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_onnxruntime_computes(name: str) -> None:
    check(CASES[name])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.differentiable])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    check_gradient(CASES[name])
