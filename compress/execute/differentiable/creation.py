"""Tensors made from shapes and numbers."""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch import Tensor

from compress.execute.differentiable.registry import DTYPES, Attributes, operator


@operator("Shape")
def shape(attributes: Attributes, x: Tensor) -> Tensor:
    end = attributes.integer("end", x.ndim)
    sizes = list(x.shape)[slice(attributes.integer("start", 0), end)]
    return torch.tensor(sizes, dtype=torch.int64, device=x.device)


@operator("Size")
def size(attributes: Attributes, x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64, device=x.device)


@operator("ConstantOfShape")
def constant_of_shape(attributes: Attributes, sizes: Tensor) -> Tensor:
    value = attributes.tensor("value")
    value = torch.zeros(1) if value is None else value
    if value.is_floating_point() and attributes.mode.floats is not torch.float32:
        value = value.to(attributes.mode.floats)
    return torch.full(sizes.tolist(), value.item(), dtype=value.dtype, device=sizes.device)


@operator("Range")
def range_(attributes: Attributes, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    first, last, step = start.item(), limit.item(), delta.item()
    count = max(0, -int(-(last - first) // step))
    return start + delta * torch.arange(count, device=start.device).to(start.dtype)


def _unknown_type(attributes: Attributes, node: ir.Node) -> str | None:
    return None if attributes.integer("dtype", 1) in DTYPES else "torch has no such type"


@operator("EyeLike", refuse=_unknown_type)
def eye_like(attributes: Attributes, x: Tensor) -> Tensor:
    kind = attributes.dtype(attributes.integer("dtype", 1)) if attributes.has("dtype") else x.dtype
    rows = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    columns = torch.arange(x.shape[1], device=x.device)
    return (columns - rows == attributes.integer("k", 0)).to(kind)


@operator("NonZero")
def non_zero(attributes: Attributes, x: Tensor) -> Tensor:
    return torch.nonzero(x).T


@operator("OneHot")
def one_hot(attributes: Attributes, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """Indices count from the end where they are negative; beyond the depth nothing is hot."""
    count, axis = int(depth), attributes.integer("axis", -1)
    axis += indices.ndim + 1 if axis < 0 else 0
    places = indices.to(torch.int64).unsqueeze(axis)
    places = torch.where(places < 0, places + count, places)
    line = torch.arange(count, device=indices.device)
    line = line.reshape([-1 if a == axis else 1 for a in range(indices.ndim + 1)])
    return torch.where(places == line, values[1], values[0])
