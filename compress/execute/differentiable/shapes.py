"""Operators that rearrange elements, or copy them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

from compress.execute.differentiable.registry import Attributes, operator
from compress.execute.differentiable.windows import as_pad

LARGEST = (2**31 - 1, 2**63 - 1)


@operator("Reshape")
def reshape(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    sizes = shape.tolist()
    if not attributes.integer("allowzero", 0):
        sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    return x.reshape(sizes)


@operator("Flatten")
def flatten(attributes: Attributes, x: Tensor) -> Tensor:
    axis = attributes.integer("axis", 1)
    axis += x.ndim if axis < 0 else 0
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _axes(attributes: Attributes, given: Tensor | None) -> tuple[int, ...] | None:
    return attributes.integers("axes") if given is None else tuple(given.tolist())


@operator("Squeeze")
def squeeze(attributes: Attributes, x: Tensor, given: Tensor | None = None) -> Tensor:
    axes = _axes(attributes, given)
    return x.squeeze() if axes is None else x.squeeze(axes)


@operator("Unsqueeze")
def unsqueeze(attributes: Attributes, x: Tensor, given: Tensor | None = None) -> Tensor:
    axes = _axes(attributes, given) or ()
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operator("Transpose")
def transpose(attributes: Attributes, x: Tensor) -> Tensor:
    return x.permute(attributes.integers("perm") or tuple(reversed(range(x.ndim))))


@operator("Concat")
def concatenate(attributes: Attributes, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, attributes.integer("axis", 0))


@operator("Split", outputs=None)
def split(attributes: Attributes, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = attributes.integer("axis", 0)
    sizes = attributes.integers("split") if given is None else given.tolist()
    if sizes is None:
        count, total = attributes.integer("num_outputs", attributes.outputs), x.shape[axis]
        most = -(-total // count)
        sizes = [most] * (count - 1) + [total - most * (count - 1)]
    return tuple(torch.split(x, list(sizes), axis))


@operator("Slice")
def slice_(
    attributes: Attributes,
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    first, last = starts.tolist(), ends.tolist()
    along = list(range(len(first))) if axes is None else axes.tolist()
    by = [1] * len(first) if steps is None else steps.tolist()
    for axis, start, end, step in zip(along, first, last, by, strict=True):
        x = _sliced(x, axis % x.ndim, _places(start, end, step, x.shape[axis]))
    return x


def _places(start: int, end: int, step: int, size: int) -> range:
    """What a slice takes; backwards, Python has other bounds than ONNX."""
    start += size if start < 0 else 0
    if step > 0:
        return range(*slice(max(0, start), end, step).indices(size))
    # as onnxruntime has it, the largest numbers mean the end in this direction, too
    end = -1 if end in LARGEST else max(-1, end + size if end < 0 else end)
    return range(min(max(0, start), size - 1), min(end, size - 1), step)


def _sliced(x: Tensor, axis: int, places: range) -> Tensor:
    if len(places) == 0:
        return x.narrow(axis, 0, 0)
    low, step = min(places[0], places[-1]), abs(places.step)
    part = x.narrow(axis, low, step * (len(places) - 1) + 1)
    if step > 1:
        part = part[(slice(None),) * axis + (slice(None, None, step),)]
    return part.flip(axis) if places.step < 0 else part


@operator("Expand")
def expand(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    return x.broadcast_to(torch.broadcast_shapes(x.shape, tuple(shape.tolist())))


@operator("Tile")
def tile(attributes: Attributes, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(repeats.tolist())


def _unknown_padding(attributes: Attributes, node: ir.Node) -> str | None:
    mode = attributes.text("mode", "constant")
    return None if mode in ("constant", "reflect", "edge", "wrap") else f"mode = {mode}"


@operator("Pad", refuse=_unknown_padding)
def pad(
    attributes: Attributes,
    x: Tensor,
    pads: Tensor,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    """Negative padding cuts."""
    given, mode = pads.tolist(), attributes.text("mode", "constant")
    along = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes.tolist()]
    before, after = [0] * x.ndim, [0] * x.ndim
    for index, axis in enumerate(along):
        before[axis], after[axis] = given[index], given[len(along) + index]
    if mode == "constant":
        return F.pad(x, as_pad(before, after), value=0 if value is None else value.item())
    for axis in range(x.ndim):
        if before[axis] or after[axis]:
            x = _repeated(x, axis, before[axis], after[axis], mode)
    return x


def _repeated(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    size = x.shape[axis]
    places = torch.arange(-before, size + after, device=x.device)
    if mode == "edge":
        places = places.clamp(0, size - 1)
    elif mode == "wrap":
        places = places % size
    elif size == 1:
        places = torch.zeros_like(places)
    else:
        places = places % (2 * size - 2)
        places = torch.minimum(places, 2 * size - 2 - places)
    return x.index_select(axis, places)


@operator("DepthToSpace")
def depth_to_space(attributes: Attributes, x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    block = attributes.integer("blocksize", 1)
    depth = channels // block**2
    if attributes.text("mode", "DCR") == "DCR":
        y = x.reshape(batch, block, block, depth, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        y = x.reshape(batch, depth, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
    return y.reshape(batch, depth, height * block, width * block)


def _columns_first(attributes: Attributes, node: ir.Node) -> str | None:
    return None if attributes.text("mode", "DCR") == "DCR" else "mode = CRD"


@operator("SpaceToDepth", refuse=_columns_first)
def space_to_depth(attributes: Attributes, x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    block = attributes.integer("blocksize", 1)
    y = x.reshape(batch, channels, height // block, block, width // block, block)
    y = y.permute(0, 3, 5, 1, 2, 4)
    return y.reshape(batch, channels * block**2, height // block, width // block)


@operator("Trilu")
def triangle(attributes: Attributes, x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = 0 if k is None else int(k)
    return torch.triu(x, diagonal) if attributes.integer("upper", 1) else torch.tril(x, diagonal)


@operator("ReverseSequence")
def reverse_sequence(attributes: Attributes, x: Tensor, lengths: Tensor) -> Tensor:
    time, batch = attributes.integer("time_axis", 0), attributes.integer("batch_axis", 1)
    steps = torch.arange(x.shape[time], device=x.device)
    ends = lengths.unsqueeze(1)
    places = torch.where(steps < ends, ends - 1 - steps, steps)
    shape: Sequence[int] = [x.shape[a] if a in (time, batch) else 1 for a in range(x.ndim)]
    aligned = (places if batch < time else places.T).reshape(shape)
    return torch.gather(x, time, aligned.expand(x.shape))
