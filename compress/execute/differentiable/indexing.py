"""Reading and writing elements by their indices."""

from __future__ import annotations

import math

import onnx_ir as ir
import torch
from torch import Tensor

from compress.execute.differentiable.registry import Attributes, operator

REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
"""ONNX's `reduction` -> torch's `reduce`."""


def _counted(indices: Tensor, size: int) -> Tensor:
    """int64 indices from the start of an axis."""
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + size, indices)


@operator("Gather")
def gather(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = attributes.integer("axis", 0) % x.ndim
    places = _counted(indices, x.shape[axis])
    y = x.index_select(axis, places.reshape(-1))
    return y.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


@operator("GatherElements")
def gather_elements(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = attributes.integer("axis", 0) % x.ndim
    return torch.gather(x, axis, _counted(indices, x.shape[axis]))


@operator("GatherND")
def gather_nd(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    batch, depth = attributes.integer("batch_dims", 0), indices.shape[-1]
    groups = math.prod(x.shape[:batch])
    inner = x.shape[batch : batch + depth]
    rest = x.shape[batch + depth :]
    places = _linear(indices, inner).reshape(groups, -1)
    offsets = torch.arange(groups, device=x.device).unsqueeze(1) * math.prod(inner)
    rows = x.reshape(groups * math.prod(inner), *rest)
    return rows.index_select(0, (places + offsets).reshape(-1)).reshape(
        [*indices.shape[:-1], *rest]
    )


def _linear(indices: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Positions in a flattened tensor of these sizes; the last axis of `indices` goes."""
    places = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=indices.device)
    for axis, size in enumerate(sizes):
        places = places * size + _counted(indices[..., axis], size)
    return places


def _unknown_reduction(attributes: Attributes, node: ir.Node) -> str | None:
    reduction = attributes.text("reduction", "none")
    return None if reduction in ("none", *REDUCTIONS) else f"reduction = {reduction}"


def _scattered(
    attributes: Attributes, x: Tensor, axis: int, places: Tensor, updates: Tensor
) -> Tensor:
    reduction = attributes.text("reduction", "none")
    if reduction == "none":
        return x.scatter(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, REDUCTIONS[reduction], include_self=True)


@operator("ScatterElements", "Scatter", refuse=_unknown_reduction)
def scatter_elements(attributes: Attributes, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis = attributes.integer("axis", 0) % x.ndim
    return _scattered(attributes, x, axis, _counted(indices, x.shape[axis]), updates)


@operator("ScatterND", refuse=_unknown_reduction)
def scatter_nd(attributes: Attributes, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    depth = indices.shape[-1]
    count, width = math.prod(x.shape[:depth]), math.prod(x.shape[depth:])
    places = _linear(indices, x.shape[:depth]).reshape(-1, 1).expand(-1, width)
    rows, new = x.reshape(count, width), updates.reshape(-1, width)
    return _scattered(attributes, rows, 0, places, new).reshape(x.shape)


@operator("Compress")
def compress(attributes: Attributes, x: Tensor, condition: Tensor) -> Tensor:
    source = x if attributes.has("axis") else x.reshape(-1)
    axis = attributes.integer("axis", 0)
    return source.index_select(axis, torch.nonzero(condition).reshape(-1))
