"""How channels pass through operators that move values, or treat each channel by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.graph.traversal import attribute_int, attribute_ints, constant, is_constant
from compress.passes.prune.coupling import Couplings, Tensor
from compress.passes.prune.reshaping import regroup

Array = npt.NDArray[Any]


def broadcast(c: Couplings, x: Tensor, y: Tensor, last: int = 0) -> None:
    """Axes aligned from the right, `last` of them left out; those of size one are spread."""
    for back in range(last + 1, len(x.dims) + 1):
        if x.dims[-back] == 1:
            c.allow(x, -back)
            c.allow(y, -back)
        else:
            c.link(x, -back, y, -back)


def channelwise(c: Couplings, node: ir.Node) -> None:
    """Batch and channels pass, what follows them is mixed: pooling and its like."""
    x, y = c.input(node, 0), c.output(node)
    if x is None or any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
        return
    for axis in range(min(2, len(x.dims))):
        c.link(x, axis, y, axis)


def constant_axes(node: ir.Node, position: int) -> list[int] | None:
    """The constant input's numbers; empty if it is absent, None if it is not constant."""
    value = node.inputs[position] if position < len(node.inputs) else None
    if value is None:
        return []
    array = constant(value)
    return None if array is None else [int(i) for i in array.reshape(-1)]


def concat(c: Couplings, node: ir.Node) -> None:
    y, start = c.output(node), 0
    axis = attribute_int(node, "axis", 0) % len(y.dims)
    for position in range(len(node.inputs)):
        x = c.input(node, position)
        if x is None:
            continue
        for other in range(len(y.dims)):
            if other != axis:
                c.link(x, other, y, other)
        size = x.size(axis)
        if size is None or y.size(axis) is None:
            return
        c.link(x, axis, y, axis, (np.arange(size), start + np.arange(size)))
        start += size


def split(c: Couplings, node: ir.Node) -> None:
    x, start = c.input(node, 0), 0
    if x is None or (len(node.inputs) > 1 and constant(node.inputs[1]) is None):
        return
    axis = attribute_int(node, "axis", 0) % len(x.dims)
    for position in range(len(node.outputs)):
        y = c.output(node, position)
        for other in range(len(x.dims)):
            if other != axis:
                c.link(x, other, y, other)
        size = y.size(axis)
        if size is None or x.size(axis) is None:
            return
        c.link(x, axis, y, axis, (start + np.arange(size), np.arange(size)))
        start += size


def slice_ranges(node: ir.Node, dims: tuple[int | str, ...]) -> dict[int, range | None] | None:
    """Axis -> indices that a Slice takes, None where that is not known; None if nothing is."""
    starts, ends = constant_axes(node, 1), constant_axes(node, 2)
    axes, steps = constant_axes(node, 3), constant_axes(node, 4)
    if starts is None or ends is None or axes is None or steps is None:
        return None
    axes = axes or list(range(len(starts)))
    steps = steps or [1] * len(starts)
    result: dict[int, range | None] = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = dims[axis]
        result[axis % len(dims)] = (
            range(*slice(start, end, step).indices(size))
            if isinstance(size, int) and step > 0
            else None
        )
    return result


def slice_(c: Couplings, node: ir.Node) -> None:
    """One range per axis, with step one, can still be taken when indices before it are gone."""
    x, y = c.input(node, 0), c.output(node)
    ranges = None if x is None else slice_ranges(node, x.dims)
    if x is None or ranges is None:
        return
    for axis in range(len(x.dims)):
        if axis not in ranges:
            c.link(x, axis, y, axis)
            continue
        taken = ranges[axis]
        if taken is not None and taken.step == 1 and y.size(axis) == len(taken):
            c.link(x, axis, y, axis, (np.array(taken, int), np.arange(len(taken))))


def gather(c: Couplings, node: ir.Node) -> None:
    """Known indices pick channels; unknown ones (an embedding's) need every row."""
    x, y = c.input(node, 0), c.output(node)
    value = node.inputs[1]
    indices = constant(value)
    if x is None or value is None or (indices is None and value.shape is None):
        return
    rank = len(x.dims)
    axis = attribute_int(node, "axis", 0) % rank
    added = indices.ndim if indices is not None else len(value.shape or ())
    for other in set(range(rank)) - {axis}:
        target = other if other < axis else other + added - 1
        c.link(x, other, y, target)
        if x.constant and other == rank - 1:
            c.role("produces", node, x, other)
    size = x.size(axis)
    if size is None or indices is None:
        return
    picked = indices.reshape(-1).astype(int) % size
    if indices.ndim == 1 and is_constant(value):
        c.link(x, axis, y, axis, (picked, np.arange(len(picked))))
    else:
        c.block(x, axis, f"Gather {node.name} picks single ones of them", picked)


def transpose(c: Couplings, node: ir.Node) -> None:
    x, y = c.input(node, 0), c.output(node)
    if x is None:
        return
    perm = attribute_ints(node, "perm") or tuple(reversed(range(len(x.dims))))
    for target, source in enumerate(perm):
        c.link(x, source, y, target)


def reshape(c: Couplings, node: ir.Node) -> None:
    """Reshape needs a constant shape, which is rewritten; its relatives have none."""
    x, y = c.input(node, 0), c.output(node)
    if x is None or (node.op_type == "Reshape" and constant(node.inputs[1]) is None):
        return
    regroup(c, node, x, y)


def expand(c: Couplings, node: ir.Node) -> None:
    x, y = c.input(node, 0), c.output(node)
    if x is None or constant(node.inputs[1]) is None:
        return
    broadcast(c, x, y)


def depth_to_space(c: Couplings, node: ir.Node) -> None:
    x, y = c.input(node, 0), c.output(node)
    channels = None if x is None else x.size(1)
    if x is None or channels is None:
        return
    block = attribute_int(node, "blocksize", 1) ** 2
    mode = node.attributes.get("mode")
    index = np.arange(channels)
    crd = mode is not None and mode.as_string() == "CRD"
    c.link(x, 0, y, 0)
    c.link(x, 1, y, 1, (index, index // block if crd else index % (channels // block)))


def space_to_depth(c: Couplings, node: ir.Node) -> None:
    x, y = c.input(node, 0), c.output(node)
    outputs = y.size(1)
    if x is None or outputs is None:
        return
    block = attribute_int(node, "blocksize", 1) ** 2
    c.link(x, 0, y, 0)
    c.link(x, 1, y, 1, (np.arange(outputs) % (outputs // block), np.arange(outputs)))


def pad(c: Couplings, node: ir.Node) -> None:
    x, y = c.input(node, 0), c.output(node)
    pads, axes = constant(node.inputs[1]), constant_axes(node, 3)
    if x is None or pads is None or axes is None:
        return
    rank = len(x.dims)
    padded = [a % rank for a in axes] if axes else list(range(rank))
    count = len(padded)
    grown = {a for i, a in enumerate(padded) if pads[i] != 0 or pads[count + i] != 0}
    for axis in set(range(rank)) - grown:
        c.link(x, axis, y, axis)


def resize(c: Couplings, node: ir.Node) -> None:
    """Axes that keep their size pass; sizes, if given, must be known to be rewritten."""
    x, y = c.input(node, 0), c.output(node)
    sizes = node.inputs[3] if len(node.inputs) > 3 else None
    if x is None or attribute_ints(node, "axes") is not None:
        return
    if sizes is not None and constant(sizes) is None:
        return
    if x.dims[:2] == y.dims[:2]:
        channelwise(c, node)
