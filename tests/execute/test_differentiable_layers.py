"""Convolutions, pooling, normalisation, resizing and recurrent networks, as onnxruntime's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import test_differentiable_operators as operators
from test_differentiable_operators import (
    IMAGE,
    Case,
    X,
    check,
    check_gradient,
    floats,
    inside,
    integers,
    ints,
    positive,
    unary,
)

from compress.execute.differentiable.registry import OPERATORS

SEQUENCE = floats(2, 4, 11)
VOLUME = floats(1, 2, 5, 6, 7)


def conv(x: np.ndarray, weight: np.ndarray, bias: bool = True, **attributes: Any) -> Case:
    channels = weight.shape[0]
    return Case("Conv", [x, weight, *([floats(channels)] if bias else [])], attributes)


def transposed(x: np.ndarray, weight: np.ndarray, **attributes: Any) -> Case:
    channels = weight.shape[1] * attributes.get("group", 1)
    return Case("ConvTranspose", [x, weight, floats(channels)], attributes)


CASES: dict[str, Case] = {
    # convolutions
    "Conv 1d": conv(SEQUENCE, floats(6, 4, 3), strides=[2], pads=[1, 0]),
    "Conv 2d": conv(IMAGE, floats(6, 4, 3, 2), pads=[1, 1, 1, 1]),
    "Conv 2d without bias": conv(IMAGE, floats(6, 4, 3, 2), False, strides=[2, 1]),
    "Conv 2d, groups": conv(IMAGE, floats(8, 2, 3, 3), group=2, dilations=[2, 1]),
    "Conv depthwise": conv(IMAGE, floats(4, 1, 3, 3), group=4, pads=[0, 1, 2, 1]),
    "Conv 3d": conv(VOLUME, floats(3, 2, 3, 2, 3), pads=[1, 0, 1, 1, 0, 1], strides=[1, 2, 1]),
    "Conv SAME_UPPER": conv(IMAGE, floats(6, 4, 3, 2), auto_pad="SAME_UPPER", strides=[2, 2]),
    "Conv SAME_LOWER": conv(IMAGE, floats(6, 4, 4, 3), auto_pad="SAME_LOWER", strides=[1, 2]),
    "Conv VALID": conv(IMAGE, floats(6, 4, 3, 2), auto_pad="VALID"),
    "ConvTranspose 1d": transposed(SEQUENCE, floats(4, 3, 3), strides=[3]),
    "ConvTranspose 2d": transposed(IMAGE, floats(4, 3, 3, 2), strides=[2, 2], pads=[1, 0, 1, 0]),
    "ConvTranspose, output padding": transposed(
        IMAGE, floats(4, 3, 3, 3), strides=[2, 3], pads=[1, 1, 1, 1], output_padding=[1, 2]),
    "ConvTranspose beyond": transposed(
        IMAGE, floats(4, 3, 2, 2), strides=[3, 3], output_padding=[2, 1]),
    "ConvTranspose, asymmetric": transposed(
        IMAGE, floats(4, 3, 4, 3), strides=[2, 2], pads=[0, 1, 2, 0]),
    "ConvTranspose, groups": transposed(
        IMAGE, floats(4, 3, 3, 3), group=2, dilations=[2, 1], pads=[1, 1, 1, 1]),
    "ConvTranspose, output shape": transposed(
        IMAGE, floats(4, 3, 3, 3), strides=[2, 2], output_shape=[14, 12]),
    "ConvTranspose SAME_UPPER": transposed(
        IMAGE, floats(4, 3, 4, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    "ConvTranspose SAME_LOWER": transposed(
        IMAGE, floats(4, 3, 4, 3), strides=[2, 2], auto_pad="SAME_LOWER"),
    "ConvTranspose 3d": transposed(
        VOLUME, floats(2, 3, 2, 3, 2), strides=[2, 1, 2], output_padding=[1, 0, 1]),
    # pooling
    **{
        f"{op}{label}": unary(op, x, **attributes)
        for op in ("MaxPool", "AveragePool", "LpPool")
        for label, x, attributes in (
            (" 1d", SEQUENCE, {"kernel_shape": [3], "strides": [2]}),
            (" 2d", IMAGE, {"kernel_shape": [3, 2], "strides": [2, 2]}),
            (" 3d", VOLUME, {"kernel_shape": [2, 3, 2], "pads": [1, 1, 0, 1, 1, 0]}),
            (" without strides", IMAGE, {"kernel_shape": [2, 3]}),
            (" padded", IMAGE, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
            (" asymmetric", IMAGE, {"kernel_shape": [3, 3], "pads": [0, 1, 2, 1]}),
            (" widely padded", IMAGE, {"kernel_shape": [3, 3], "pads": [2, 2, 2, 2]}),
            (" dilated", IMAGE, {"kernel_shape": [2, 3], "dilations": [3, 2]}),
            (" up", IMAGE, {"kernel_shape": [2, 3], "strides": [3, 2], "ceil_mode": 1}),
            (" up and padded", IMAGE,
             {"kernel_shape": [3, 3], "strides": [2, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1}),
            (" SAME_UPPER", IMAGE,
             {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
            (" SAME_LOWER", IMAGE,
             {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
        )
    },
    "AveragePool, pads count": unary("AveragePool", IMAGE, kernel_shape=[3, 3],
                                     pads=[1, 0, 1, 2], count_include_pad=1),
    "AveragePool, pads count, up": unary(
        "AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 3], pads=[1, 1, 1, 1],
        count_include_pad=1, ceil_mode=1),
    "LpPool, p": unary("LpPool", IMAGE, kernel_shape=[3, 3], p=3),
    "MaxPool of integers": unary("MaxPool", integers(1, 2, 6, 6, dtype=np.int8),
                                 kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
    **{op: unary(op, IMAGE) for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")},
    "GlobalAveragePool 1d": unary("GlobalAveragePool", SEQUENCE),
    # normalisation
    "BatchNormalization": Case(
        "BatchNormalization", [IMAGE, floats(4), floats(4), floats(4), positive(4)],
        {"epsilon": 1e-2}, fixed=(3, 4)),
    "BatchNormalization of rows": Case(
        "BatchNormalization", [floats(5, 3), floats(3), floats(3), floats(3), positive(3)],
        fixed=(3, 4)),
    "LayerNormalization": Case("LayerNormalization", [X, floats(4), floats(4)]),
    "LayerNormalization on 1": Case("LayerNormalization", [X, floats(3, 4), floats(3, 4)],
                                    {"axis": 1, "epsilon": 1e-2}),
    "LayerNormalization without bias": Case("LayerNormalization", [X, floats(4)]),
    "LayerNormalization, statistics": Case("LayerNormalization", [X, floats(4), floats(4)],
                                           outputs=3),
    "InstanceNormalization": Case("InstanceNormalization", [IMAGE, floats(4), floats(4)]),
    "InstanceNormalization of one": Case("InstanceNormalization",
                                         [floats(2, 3, 1), floats(3), floats(3)], smooth=False),
    "GroupNormalization": Case("GroupNormalization", [IMAGE, floats(4), floats(4)],
                               {"num_groups": 2}),
    "LpNormalization": unary("LpNormalization", axis=1),
    "LpNormalization, p": unary("LpNormalization", p=1),
    "LpNormalization of zeros": unary("LpNormalization", np.zeros((2, 3), np.float32),
                                      smooth=False),
    "MeanVarianceNormalization": unary("MeanVarianceNormalization", IMAGE),
    "LRN": unary("LRN", IMAGE, size=3, alpha=0.5),
    # resizing
    **{
        f"Resize, {mode}, {way}, {label}": Case(
            "Resize", [IMAGE, None, np.float32([1, 1, *scales])],
            {"mode": mode, "coordinate_transformation_mode": way}, fixed=(2,))
        for mode in ("nearest", "linear")
        for way in ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "asymmetric",
                    "align_corners")
        for label, scales in (("up", (2, 1.5)), ("down", (0.7, 0.4)), ("mixed", (1.3, 0.15)))
    },
    **{
        f"Resize, {rounding}": Case(
            "Resize", [IMAGE, None, np.float32([1, 1, 2.5, 0.5])],
            {"nearest_mode": rounding, "coordinate_transformation_mode": "asymmetric"}, fixed=(2,))
        for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    },
    "Resize to sizes": Case("Resize", [IMAGE, None, None, ints(2, 4, 9, 11)], {"mode": "linear"}),
    "Resize, axes": Case("Resize", [IMAGE, None, None, ints(9, 5)],
                         {"mode": "linear", "axes": [3, 2]}),
    **{
        f"GridSample, {mode}, {padding}": Case(
            "GridSample",
            [IMAGE, 0.7 * floats(2, 3, 5, 2)],
            {"mode": mode, "padding_mode": padding, "align_corners": corners},
            smooth=padding != "reflection",
        )
        for mode, padding, corners in (
            ("linear", "zeros", 0),
            ("linear", "border", 1),
            ("nearest", "zeros", 1),
            ("cubic", "zeros", 0),
            ("linear", "reflection", 0),
        )
    },
    # recurrent networks
    **{
        f"{op}{label}": Case(
            op,
            [floats(5, 2, 3), inside(directions, gates * 4, 3), inside(directions, gates * 4, 4),
             *([inside(directions, gates * 8)] if states or directions == 2 else []),
             *([None, inside(directions, 2, 4)] if states else []),
             *([inside(directions, 2, 4) * 2] if states and op == "LSTM" else [])],
            {"hidden_size": 4, "direction": direction},
            outputs=3 if op == "LSTM" else 2)
        for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1))
        for label, direction, directions, states in (
            ("", "forward", 1, False), (" backwards", "reverse", 1, True),
            (" both ways", "bidirectional", 2, True), (" both ways from zero", "bidirectional", 2,
                                                       False))
    },
    "GRU, linear before reset": Case(
        "GRU", [floats(5, 2, 3), inside(1, 12, 3), inside(1, 12, 4), inside(1, 24)],
        {"hidden_size": 4, "linear_before_reset": 1}, outputs=2),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_onnxruntime_computes(name: str) -> None:
    check(CASES[name])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.differentiable])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    check_gradient(CASES[name])


NEWER = {"RMSNormalization", "Swish", "Scatter"}
"""In operator sets that the canonical form does not have yet, or no more."""


def test_every_operator_is_tested() -> None:
    tested = {(case.domain, case.op_type) for case in (operators.CASES | CASES).values()}
    assert OPERATORS.keys() - tested == {("", op_type) for op_type in NEWER}
