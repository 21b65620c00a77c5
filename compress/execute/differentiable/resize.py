"""Resizing, axis by axis, and sampling at any places."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

from compress.execute.differentiable.registry import Attributes, operator

Places = npt.NDArray[np.float32]
Coordinates = Callable[[Places, int, int, np.float32], Places]


def _half_pixel(places: Places, old: int, new: int, scale: np.float32) -> Places:
    return (places + 0.5) / scale - 0.5


def _symmetric(places: Places, old: int, new: int, scale: np.float32) -> Places:
    offset = np.float32(old / 2) * (1 - np.float32(new) / (scale * np.float32(old)))
    # as onnxruntime: the offset in single precision, the rest in double
    return np.asarray(offset + ((places + 0.5) / np.float64(scale) - 0.5), dtype=np.float32)


def _pytorch(places: Places, old: int, new: int, scale: np.float32) -> Places:
    return _half_pixel(places, old, new, scale) if new > 1 else np.zeros_like(places)


def _asymmetric(places: Places, old: int, new: int, scale: np.float32) -> Places:
    return places / scale


def _corners(places: Places, old: int, new: int, scale: np.float32) -> Places:
    return places * np.float32(old - 1) / np.float32(max(1, new - 1))


COORDINATES: dict[str, Coordinates] = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _symmetric,
    "pytorch_half_pixel": _pytorch,
    "asymmetric": _asymmetric,
    "align_corners": _corners,
}
"""(places in the output, old size, new size, scale) -> places in the input, between pixels.

In single precision, as runtimes compute them: rounding decides where one lies in the middle.
"""

ROUNDING: dict[str, Callable[[Places], Places]] = {
    "round_prefer_floor": lambda places: np.ceil(places - 0.5),
    "round_prefer_ceil": lambda places: np.floor(places + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _limits(attributes: Attributes, node: ir.Node) -> str | None:
    mode = attributes.text("mode", "nearest")
    if mode not in ("nearest", "linear"):
        return f"mode = {mode}"
    if attributes.integer("antialias", 0):
        return "antialias = 1"
    way = attributes.text("coordinate_transformation_mode", "half_pixel")
    if way not in COORDINATES:
        return f"coordinate_transformation_mode = {way}"
    way = attributes.text("nearest_mode", "round_prefer_floor")
    if mode == "nearest" and way not in ROUNDING:
        return f"nearest_mode = {way}"
    policy = attributes.text("keep_aspect_ratio_policy", "stretch")
    return None if policy == "stretch" else f"keep_aspect_ratio_policy = {policy}"


@operator("Resize", refuse=_limits)
def resize(
    attributes: Attributes,
    x: Tensor,
    region: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    axes = [axis % x.ndim for axis in attributes.integers("axes") or range(x.ndim)]
    if sizes is not None and sizes.numel():
        new = [int(size) for size in sizes.tolist()]
        factors = [size / x.shape[axis] for axis, size in zip(axes, new, strict=True)]
    elif scales is not None:
        factors = scales.tolist()
        new = [math.floor(x.shape[axis] * f) for axis, f in zip(axes, factors, strict=True)]
    else:
        raise ValueError("neither scales nor sizes")
    if all(size == x.shape[axis] for axis, size in zip(axes, new, strict=True)):
        return x
    for axis, size, factor in zip(axes, new, factors, strict=True):
        if factor != 1 or size != x.shape[axis]:
            x = _resized(attributes, x, axis, size, factor)
    return x


def _resized(attributes: Attributes, x: Tensor, axis: int, size: int, scale: float) -> Tensor:
    last = x.shape[axis] - 1
    way = COORDINATES[attributes.text("coordinate_transformation_mode", "half_pixel")]
    places = way(np.arange(size, dtype=np.float32), last + 1, size, np.float32(scale))
    if attributes.text("mode", "nearest") == "nearest":
        rounded = ROUNDING[attributes.text("nearest_mode", "round_prefer_floor")](places)
        return x.index_select(axis, _indices(rounded, last, x))
    places = np.clip(places, 0, last)
    low = np.floor(places)
    share = torch.from_numpy(places - low).to(x)
    share = share.reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    first = x.index_select(axis, _indices(low, last, x))
    second = x.index_select(axis, _indices(low + 1, last, x))
    return first + (second - first) * share


def _indices(places: Places, last: int, like: Tensor) -> Tensor:
    return torch.from_numpy(np.clip(places, 0, last).astype(np.int64)).to(like.device)


SAMPLING = {
    "linear": "bilinear",
    "bilinear": "bilinear",
    "nearest": "nearest",
    "cubic": "bicubic",
    "bicubic": "bicubic",
}
"""ONNX's `mode`, new and old, -> torch's."""


def _unknown_sampling(attributes: Attributes, node: ir.Node) -> str | None:
    mode = attributes.text("mode", "linear")
    return None if mode in SAMPLING else f"mode = {mode}"


@operator("GridSample", refuse=_unknown_sampling)
def grid_sample(attributes: Attributes, x: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(
        x,
        grid,
        SAMPLING[attributes.text("mode", "linear")],
        attributes.text("padding_mode", "zeros"),
        bool(attributes.integer("align_corners", 0)),
    )
