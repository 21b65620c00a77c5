"""Pooling of one to three dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.execute.differentiable.convolution import CONVOLUTIONS
from compress.execute.differentiable.registry import Attributes, operator
from compress.execute.differentiable.windows import Windows, as_pad, limits, windows

MAXIMA: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
MEANS: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _place(attributes: Attributes, x: Tensor) -> tuple[Windows, tuple[int, ...]]:
    """The windows, and by how much the last of each axis reaches beyond the padding."""
    kernel = attributes.integers("kernel_shape") or ()
    place = windows(attributes, x.shape[2:], kernel)
    beyond = [0] * len(kernel)
    if attributes.integer("ceil_mode", 0):
        for axis, size in enumerate(x.shape[2:]):
            beyond[axis] = _beyond(size, place, axis)
    return place, tuple(beyond)


def _beyond(size: int, place: Windows, axis: int) -> int:
    stride, reach = place.strides[axis], place.reach[axis]
    padded = size + place.before[axis] + place.after[axis]
    steps = -(-(padded - reach) // stride)
    if steps * stride >= size + place.before[axis]:
        # a window that would lie in the padding alone is left out
        steps -= 1
    return max(0, steps * stride + reach - padded)


def _padded(x: Tensor, place: Windows, beyond: Sequence[int], value: float) -> Tensor:
    after = [a + b for a, b in zip(place.after, beyond, strict=True)]
    if not any(place.before) and not any(after):
        return x
    return F.pad(x, as_pad(place.before, after), value=value)


@operator("MaxPool", refuse=limits)
def max_pool(attributes: Attributes, x: Tensor) -> Tensor:
    place, beyond = _place(attributes, x)
    wide = x if x.is_floating_point() else x.float()
    function = MAXIMA[x.ndim - 2]
    half = all(2 * p <= k for p, k in zip(place.before, place.kernel, strict=True))
    if place.symmetric and half and not any(beyond):
        y = function(wide, place.kernel, place.strides, place.before, place.dilations)
    else:
        wide = _padded(wide, place, beyond, -math.inf)
        y = function(wide, place.kernel, place.strides, 0, place.dilations)
    return y.to(x.dtype)


@operator("AveragePool", refuse=limits)
def average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    place, beyond = _place(attributes, x)
    plain = all(d == 1 for d in place.dilations)
    if plain and not any((*place.before, *place.after, *beyond)):
        return MEANS[x.ndim - 2](x, place.kernel, place.strides)
    ones = torch.ones_like(x[:1, :1])
    inside = float(attributes.integer("count_include_pad", 0))
    counted = _padded(_padded(ones, place, (0,) * len(beyond), inside), _none(place), beyond, 0.0)
    counts = _sums(counted, place)
    return _sums(_padded(x, place, beyond, 0.0), place) / counts


@operator("LpPool", refuse=limits)
def lp_pool(attributes: Attributes, x: Tensor) -> Tensor:
    place, beyond = _place(attributes, x)
    p = attributes.integer("p", 2)
    return _sums(_padded(x.abs() ** p, place, beyond, 0.0), place) ** (1 / p)


def _none(place: Windows) -> Windows:
    zeros = (0,) * len(place.kernel)
    return Windows(place.kernel, place.strides, place.dilations, zeros, zeros)


def _sums(x: Tensor, place: Windows) -> Tensor:
    """The sum over every window of an input that is padded already."""
    count = x.ndim - 2
    ones = torch.ones((1, 1, *place.kernel), dtype=x.dtype, device=x.device)
    flat = x.reshape(-1, 1, *x.shape[2:])
    y = CONVOLUTIONS[count](flat, ones, None, place.strides, 0, place.dilations)
    return y.reshape(*x.shape[:2], *y.shape[2:])


@operator("GlobalAveragePool")
def global_average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True) if x.ndim > 2 else x


@operator("GlobalMaxPool")
def global_max_pool(attributes: Attributes, x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.ndim)), keepdim=True) if x.ndim > 2 else x


@operator("GlobalLpPool")
def global_lp_pool(attributes: Attributes, x: Tensor) -> Tensor:
    axes = tuple(range(2, x.ndim))
    return torch.linalg.vector_norm(x, attributes.integer("p", 2), axes, keepdim=True)
