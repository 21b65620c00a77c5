"""Channels physically removed: smaller weights, and every number in the graph that counts them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.errors import UsageError
from compress.graph.base import Pass
from compress.graph.infer_shapes import InferShapes
from compress.graph.traversal import (
    attribute_int,
    constant,
    is_constant,
    new_initializer,
    owner,
)
from compress.passes.prune.groups import ChannelGroup, find_groups
from compress.passes.prune.moving import slice_ranges
from compress.passes.prune.rules import whole_groups

Array = npt.NDArray[Any]


def round_to(count: int, multiple: int = 8, *, most: int | None = None) -> int:
    """The multiple nearest to `count`, at least one multiple; at most `most` if that is given.

    Kernels work on channels in blocks: 57 channels take as long as 64.
    """
    nearest = max(multiple, (count + multiple // 2) // multiple * multiple)
    return nearest if most is None else min(nearest, most)


@dataclasses.dataclass(frozen=True)
class RemoveChannels(Pass):
    """The units of coupling groups that are not kept disappear from the graph.

    Given:   a = Conv(x, V, b)      V (64, 3, 3, 3), b (64,)
             y = Conv(Relu(a), W)   W (32, 64, 3, 3)
    Result:  a = Conv(x, V', b')    V' (48, 3, 3, 3), b' (48,)
             y = Conv(Relu(a), W')  W' (32, 48, 3, 3)

    The network then computes what it computed with the weights that read the removed channels set
    to zero, apart from rounding; except where a group is not `exact`.

    1. Initialisers are cut along every axis that belongs to the group. One that others read
       uncut, or cut differently, stays for them; the cut one gets a new name.
    2. Numbers that count channels follow: `group` of convolutions, shapes of Reshape and Expand,
       sizes of Split and Resize, bounds of Slice, indices of Gather, groups of normalisations.
    3. Shapes are inferred anew.

    Attributes:
        kept: group name (see `find_groups`) -> indices of the units to keep, sorted; groups that
            are not named keep all.
        groups: of the model exactly as it is (new biases count), to save the search; None: found.
    """

    name: ClassVar[str] = "remove-channels"

    kept: Mapping[str, Sequence[int]]
    groups: tuple[ChannelGroup, ...] | None = None

    def run(self, model: ir.Model) -> bool:
        """Remove in place.

        Raises:
            UsageError: a group is unknown or not removable, or its units are not a sorted choice
                of at least one.
        """
        if not self.kept:
            return False
        groups = {g.name: g for g in (self.groups or find_groups(model))}
        masks = _Masks()
        for name, kept in self.kept.items():
            masks.add(_checked(groups, name, kept), np.asarray(kept, np.int64))
        if not masks.axes:
            return False
        nodes = list(model.graph)
        numbers: _Numbers = {}
        for node in nodes:
            if node.op_type in REWRITES and not node.domain:
                numbers.update(
                    ((node, position), array)
                    for position, array in REWRITES[node.op_type](node, masks).items()
                )
        _exchange_constants(model.graph, nodes, masks, numbers)
        for node in nodes:
            for value in node.outputs:
                masks.resize(value)
        InferShapes().run(model)
        return True


def _checked(groups: Mapping[str, ChannelGroup], name: str, kept: Sequence[int]) -> ChannelGroup:
    group = groups.get(name)
    if group is None:
        raise UsageError(f"no coupling group is called {name}")
    if not group.removable:
        raise UsageError(f"channels of group {name} cannot be removed: {group.reason}")
    if not kept or list(kept) != sorted(set(kept)) or not 0 <= kept[0] <= kept[-1] < group.channels:
        raise UsageError(
            f"group {name}: units to keep must be sorted numbers below {group.channels}, at least "
            "one of them"
        )
    return group


class _Masks:
    """Which indices stay, per axis of a value, or of an input of a node for vectors."""

    def __init__(self) -> None:
        self.axes: dict[tuple[str, tuple[str, int] | None], dict[int, set[int]]] = {}

    def add(self, group: ChannelGroup, kept: Array) -> None:
        gone = np.setdiff1d(np.arange(group.channels), kept)
        if not len(gone):
            return
        for member in group.members:
            axes = self.axes.setdefault((member.value, member.reader), {})
            axes.setdefault(member.axis, set()).update(member.indices[gone].reshape(-1).tolist())

    def of_value(self, value: ir.Value) -> Mapping[int, set[int]]:
        """Axis -> removed indices of a value."""
        return self.axes.get((str(value.name), None), {})

    def of_input(self, node: ir.Node, position: int) -> Mapping[int, set[int]]:
        """Axis -> removed indices of what a node reads."""
        value = node.inputs[position]
        if value is None:
            return {}
        own = self.axes.get((str(value.name), (str(node.name), position)))
        return own if own is not None else self.of_value(value)

    def resize(self, value: ir.Value) -> None:
        """Sets the shape that a value has from now on."""
        gone = self.of_value(value)
        if gone and value.shape is not None:
            value.shape = ir.Shape(
                d - len(gone.get(axis, ())) if isinstance(d, int) else d
                for axis, d in enumerate(value.shape)
            )


_Numbers = dict[tuple[ir.Node, int], Array]
"""What nodes read at a position from now on, in place of the constant that is there."""


def _exchange_constants(
    graph: ir.Graph, nodes: Sequence[ir.Node], masks: _Masks, numbers: _Numbers
) -> None:
    """Constants are cut and replaced; readers of one that want the same share the new one."""
    wanted: dict[ir.Value, dict[object, list[tuple[ir.Node, int]]]] = {}
    for node in nodes:
        for position, value in enumerate(node.inputs):
            if value is not None and is_constant(value):
                key = _wish(node, position, masks, numbers)
                wanted.setdefault(value, {}).setdefault(key, []).append((node, position))
    for value, wishes in wanted.items():
        array = constant(value)
        assert array is not None
        name = str(value.name)
        for wish, readers in wishes.items():
            if wish is None:
                continue
            new = numbers.get(readers[0])
            if new is None:
                new = _cut(array, masks.of_input(*readers[0]))
            if len(readers) == len(value.uses()) and not value.is_graph_output():
                del graph.initializers[name]
            replacement = new_initializer(graph, name, new.astype(array.dtype))
            for node, position in readers:
                node.replace_input_with(position, replacement)


def _wish(node: ir.Node, position: int, masks: _Masks, numbers: _Numbers) -> object:
    """Tells apart what readers of one constant want of it; None if it may stay as it is."""
    new = numbers.get((node, position))
    if new is not None:
        old = constant(node.inputs[position])
        return None if old is not None and np.array_equal(new, old) else new.tobytes()
    gone = masks.of_input(node, position)
    return tuple((axis, *sorted(gone[axis])) for axis in sorted(gone)) or None


def _cut(array: Array, gone: Mapping[int, set[int]]) -> Array:
    for axis, indices in gone.items():
        array = np.delete(array, sorted(indices), axis)
    return array


Rewrite = Callable[[ir.Node, _Masks], dict[int, Array]]
"""Changes a node's attributes; returns new numbers for constants that it reads, by position."""


def _dims(value: ir.Value | None) -> tuple[int | str, ...]:
    """The dimensions that a tensor has before anything is removed."""
    array = constant(value)
    if array is not None:
        return tuple(array.shape)
    if value is None or value.shape is None:
        return ()
    return tuple(d if isinstance(d, int) else str(d) for d in value.shape)


def _convolution(node: ir.Node, masks: _Masks) -> dict[int, Array]:
    """The weight's second axis has the channels of one group, for both kinds of convolution."""
    groups, weight = attribute_int(node, "group", 1), _dims(node.inputs[1])
    inner = weight[1] if weight else None
    if isinstance(inner, int) and whole_groups(inner, groups):
        _scale_attribute(node, "group", masks)
    return {}


def _group_normalisation(node: ir.Node, masks: _Masks) -> dict[int, Array]:
    _scale_attribute(node, "num_groups", masks)
    return {}


def _scale_attribute(node: ir.Node, name: str, masks: _Masks) -> None:
    """Groups become fewer as their channels do."""
    removed, channels = masks.of_input(node, 0).get(1), _dims(node.inputs[0])[1]
    if removed and isinstance(channels, int):
        left = attribute_int(node, name, 1) * (channels - len(removed)) // channels
        node.attributes[name] = ir.AttrInt64(name, left)


def _target_shape(position: int) -> Rewrite:
    """A constant shape: dimensions that are numbers follow what is gone from the output."""

    def rewrite(node: ir.Node, masks: _Masks) -> dict[int, Array]:
        value = node.inputs[position] if position < len(node.inputs) else None
        gone, gone_before = masks.of_value(node.outputs[0]), masks.of_input(node, 0)
        shape, dims = constant(value), _dims(node.outputs[0])
        if shape is None or not gone:
            return {}
        numbers = shape.copy()
        # Expand's shape may be shorter than the output, aligned from the right
        shift = len(dims) - len(numbers)
        for axis, size in enumerate(dims[shift:], shift):
            # Reshape's zero repeats a dimension of the input, which may follow other channels
            repeats = numbers[axis - shift] == 0 and axis in {*gone, *gone_before}
            if isinstance(size, int) and (repeats or numbers[axis - shift] == size):
                numbers[axis - shift] = size - len(gone.get(axis, ()))
        return {position: numbers}

    return rewrite


def _split(node: ir.Node, masks: _Masks) -> dict[int, Array]:
    axis = attribute_int(node, "axis", 0) % len(_dims(node.inputs[0]))
    gone = [masks.of_value(v).get(axis, set()) for v in node.outputs]
    if not any(gone):
        return {}
    old = [int(_dims(v)[axis]) for v in node.outputs]
    sizes = np.array([s - len(g) for s, g in zip(old, gone, strict=True)], np.int64)
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        return {1: sizes}
    node.attributes.pop("num_outputs", None)
    node.resize_inputs(2)
    graph = owner(node)
    node.replace_input_with(1, new_initializer(graph, f"{node.name}.sizes", sizes))
    return {}


def _slice(node: ir.Node, masks: _Masks) -> dict[int, Array]:
    gone = masks.of_input(node, 0)
    ranges = slice_ranges(node, _dims(node.inputs[0])) or {}
    starts, ends = constant(node.inputs[1]), constant(node.inputs[2])
    if starts is None or ends is None:
        return {}
    starts, ends = starts.copy(), ends.copy()
    for place, (axis, taken) in enumerate(ranges.items()):
        if taken is None or not gone.get(axis):
            continue
        start = taken.start - sum(i < taken.start for i in gone[axis])
        starts[place] = start
        ends[place] = start + len(taken) - sum(i in taken for i in gone[axis])
    return {1: starts, 2: ends}


def _gather(node: ir.Node, masks: _Masks) -> dict[int, Array]:
    indices, dims = constant(node.inputs[1]), _dims(node.inputs[0])
    axis = attribute_int(node, "axis", 0) % max(1, len(dims))
    gone = masks.of_input(node, 0).get(axis)
    if indices is None or not gone:
        return {}
    size = int(dims[axis])
    place = np.cumsum(~np.isin(np.arange(size), list(gone))) - 1
    picked = indices.astype(np.int64) % size
    picked = picked[~np.isin(picked, list(gone))] if picked.ndim == 1 else picked
    return {1: place[picked]}


REWRITES: dict[str, Rewrite] = {
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Expand": _target_shape(1),
    "Gather": _gather,
    "GroupNormalization": _group_normalisation,
    "Reshape": _target_shape(1),
    "Resize": _target_shape(3),
    "Slice": _slice,
    "Split": _split,
}
"""What an operator says about numbers of channels outside of its weights."""
