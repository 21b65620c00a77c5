"""Reductions along axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compress.execute.differentiable.registry import Attributes, operator

Axes = tuple[int, ...]


def _product(x: Tensor, axes: Axes) -> Tensor:
    for axis in axes:
        x = x.prod(axis, keepdim=True)
    return x


def _mean(x: Tensor, axes: Axes) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim=True)
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return torch.div(x.sum(axes, keepdim=True), count, rounding_mode="trunc")


REDUCTIONS: dict[str, Callable[[Tensor, Axes], Any]] = {
    "ReduceSum": lambda x, axes: x.sum(axes, keepdim=True),
    "ReduceMean": _mean,
    "ReduceMax": lambda x, axes: x.amax(axes, keepdim=True),
    "ReduceMin": lambda x, axes: x.amin(axes, keepdim=True),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes: x.abs().sum(axes, keepdim=True),
    "ReduceL2": lambda x, axes: torch.linalg.vector_norm(x, 2, axes, keepdim=True),
    "ReduceLogSum": lambda x, axes: x.sum(axes, keepdim=True).log(),
    "ReduceLogSumExp": lambda x, axes: torch.logsumexp(x, axes, keepdim=True),
    "ReduceSumSquare": lambda x, axes: x.square().sum(axes, keepdim=True),
}
"""(tensor, axes in order) -> the reduced tensor, all axes kept as size 1."""


class Reduction:
    """One of the reductions as an operator."""

    def __init__(self, function: Callable[[Tensor, Axes], Any]) -> None:
        self.function = function

    def __call__(self, attributes: Attributes, x: Tensor, given: Tensor | None = None) -> Tensor:
        axes = attributes.integers("axes") if given is None else tuple(given.tolist())
        if not axes:
            if attributes.integer("noop_with_empty_axes", 0):
                return self.function(x.unsqueeze(0), (0,)).squeeze(0).to(x.dtype)
            axes = tuple(range(x.ndim))
        axes = tuple(sorted({axis % x.ndim for axis in axes})) if x.ndim else ()
        if not axes:
            return self.function(x.unsqueeze(0), (0,)).squeeze(0).to(x.dtype)
        # torch widens integers where it adds them up
        y = self.function(x, axes).to(x.dtype)
        if attributes.integer("keepdims", 1):
            return y
        return y.reshape([size for axis, size in enumerate(x.shape) if axis not in axes])


for _op_type, _function in REDUCTIONS.items():
    operator(_op_type)(Reduction(_function))


def _place_of(attributes: Attributes, x: Tensor, largest: bool) -> Tensor:
    axis, keep = attributes.integer("axis", 0), bool(attributes.integer("keepdims", 1))
    last = bool(attributes.integer("select_last_index", 0))
    source = x.flip(axis) if last else x
    found = (source.argmax if largest else source.argmin)(axis, keepdim=keep)
    return x.shape[axis] - 1 - found if last else found


@operator("ArgMax")
def arg_max(attributes: Attributes, x: Tensor) -> Tensor:
    return _place_of(attributes, x, True)


@operator("ArgMin")
def arg_min(attributes: Attributes, x: Tensor) -> Tensor:
    return _place_of(attributes, x, False)


@operator("TopK", outputs=2)
def top_k(attributes: Attributes, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Of equal values the one with the lower index comes first."""
    axis, largest = attributes.integer("axis", -1), bool(attributes.integer("largest", 1))
    values, indices = torch.sort(x, dim=axis, descending=largest, stable=True)
    count = int(k)
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)


@operator("CumSum")
def cumulative_sum(attributes: Attributes, x: Tensor, axis: Tensor) -> Tensor:
    dim = int(axis)
    backwards = bool(attributes.integer("reverse", 0))
    source = x.flip(dim) if backwards else x
    y = source.cumsum(dim).to(x.dtype)
    if attributes.integer("exclusive", 0):
        y = torch.cat(
            [torch.zeros_like(y.narrow(dim, 0, 1)), y.narrow(dim, 0, y.shape[dim] - 1)], dim
        )
    return y.flip(dim) if backwards else y
