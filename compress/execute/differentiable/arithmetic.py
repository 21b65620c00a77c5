"""Arithmetic, comparisons and logic, element by element."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compress.execute.differentiable.registry import DTYPES, Attributes, operator

ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "Identity": lambda x: x,
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Abs": torch.abs,
    "Sqrt": torch.sqrt,
    "Exp": torch.exp,
    "Log": torch.log,
    "Erf": torch.erf,
    "Reciprocal": torch.reciprocal,
    "Sign": torch.sign,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "Asin": torch.asin,
    "Acos": torch.acos,
    "Atan": torch.atan,
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Tanh": torch.tanh,
    "Asinh": torch.asinh,
    "Acosh": torch.acosh,
    "Atanh": torch.atanh,
    "Equal": torch.eq,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "Not": torch.logical_not,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "BitwiseNot": torch.bitwise_not,
    "IsNaN": torch.isnan,
    "Where": torch.where,
}
"""Operators without attributes that torch has as they are."""


class Elementwise:
    """One of torch's functions as an operator."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, attributes: Attributes, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


for _op_type, _function in ELEMENTWISE.items():
    operator(_op_type)(Elementwise(_function))


@operator("Div")
def divide(attributes: Attributes, x: Tensor, y: Tensor) -> Tensor:
    """Integers are divided as in C, towards zero."""
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


@operator("Mod")
def modulo(attributes: Attributes, x: Tensor, y: Tensor) -> Tensor:
    return torch.fmod(x, y) if attributes.integer("fmod", 0) else torch.remainder(x, y)


@operator("Pow")
def power(attributes: Attributes, x: Tensor, y: Tensor) -> Tensor:
    """The result has the dtype of the base."""
    if not x.is_floating_point() and y.is_floating_point():
        return torch.pow(x.double(), y).to(x.dtype)
    return torch.pow(x, y).to(x.dtype)


@operator("Max")
def maximum(attributes: Attributes, *inputs: Tensor) -> Tensor:
    return functools.reduce(torch.maximum, inputs)


@operator("Min")
def minimum(attributes: Attributes, *inputs: Tensor) -> Tensor:
    return functools.reduce(torch.minimum, inputs)


@operator("Sum")
def total(attributes: Attributes, *inputs: Tensor) -> Tensor:
    return functools.reduce(torch.add, inputs)


@operator("Mean")
def mean(attributes: Attributes, *inputs: Tensor) -> Tensor:
    return functools.reduce(torch.add, inputs) / len(inputs)


@operator("IsInf")
def is_infinite(attributes: Attributes, x: Tensor) -> Tensor:
    low = (x == -math.inf) & bool(attributes.integer("detect_negative", 1))
    return low | ((x == math.inf) & bool(attributes.integer("detect_positive", 1)))


@operator("BitShift")
def bit_shift(attributes: Attributes, x: Tensor, y: Tensor) -> Tensor:
    left = attributes.text("direction", "LEFT") == "LEFT"
    return torch.bitwise_left_shift(x, y) if left else torch.bitwise_right_shift(x, y)


def _unknown_type(attributes: Attributes, node: object) -> str | None:
    return None if attributes.integer("to", 1) in DTYPES else "torch has no such type"


@operator("Cast", refuse=_unknown_type)
def cast(attributes: Attributes, x: Tensor) -> Tensor:
    return x.to(attributes.dtype(attributes.integer("to", 1)))


@operator("CastLike")
def cast_like(attributes: Attributes, x: Tensor, like: Tensor) -> Tensor:
    return x.to(like.dtype)
