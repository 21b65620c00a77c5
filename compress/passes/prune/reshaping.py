"""Where channels go in a Reshape: runs of axes with the same elements, and their indices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.passes.prune.coupling import Couplings, Tensor

Array = npt.NDArray[Any]
Dim = int | str

MOST_ELEMENTS = 1 << 22
"""Runs with more elements are not traced."""

STAND_INS = (2, 3)
"""Sizes tried for dynamic dimensions; what holds for both is taken to hold for all."""


@dataclasses.dataclass(frozen=True)
class Size:
    """A product of numbers and named dimensions."""

    number: int
    names: tuple[str, ...] = ()

    def times(self, dim: Dim) -> Size:
        """This size multiplied by one more dimension."""
        if isinstance(dim, int):
            return Size(self.number * dim, self.names)
        return Size(self.number, tuple(sorted((*self.names, dim))))


def aligned(
    source: Sequence[Dim], target: Sequence[Dim]
) -> tuple[list[tuple[list[int], list[int]]], dict[str, Size]] | None:
    """The shortest runs of axes of both shapes that hold the same elements, in order.

    Axes of size one are left out. A name of the target that the source does not have stands for
    what is left over; its size is returned by name. None if the shapes cannot be told to fit.
    """
    known: dict[str, Size] = {}
    extra = [d for d in target if isinstance(d, str) and d not in source]
    if len(extra) > 1:
        return None
    if extra:
        left, rest = Size(1), [d for d in target if d != extra[0]]
        names = [d for d in source if isinstance(d, str)]
        for dim in rest:
            if isinstance(dim, str):
                if dim not in names:
                    return None
                names.remove(dim)
        whole = math.prod(d for d in source if isinstance(d, int))
        part = math.prod(d for d in rest if isinstance(d, int))
        if part == 0 or whole % part:
            return None
        left = Size(whole // part, tuple(sorted(names)))
        known[extra[0]] = left

    def expanded(size: Size, dim: Dim) -> Size:
        if isinstance(dim, str) and dim in known:
            for name in known[dim].names:
                size = size.times(name)
            return size.times(known[dim].number)
        return size.times(dim)

    ones = [[i for i, d in enumerate(dims) if d != 1] for dims in (source, target)]
    runs: list[tuple[list[int], list[int]]] = []
    left_axes, right_axes = ones[0][:], ones[1][:]
    while left_axes or right_axes:
        run: tuple[list[int], list[int]] = ([], [])
        left, right = Size(1), Size(1)
        while not run[0] or not run[1] or left != right:
            # the side that is behind takes its next axis
            behind = left.number * 2 ** len(left.names) <= right.number * 2 ** len(right.names)
            if (behind or not right_axes) and left_axes:
                axis = left_axes.pop(0)
                run[0].append(axis)
                left = expanded(left, source[axis])
            elif right_axes:
                axis = right_axes.pop(0)
                run[1].append(axis)
                right = expanded(right, target[axis])
            else:
                return None
        runs.append(run)
    return runs, known


def regroup(c: Couplings, node: ir.Node, x: Tensor, y: Tensor) -> None:
    """Links the axes of `x` and `y`, which hold the same elements in the same order.

    Of a run of several axes one carries the channels, so that whole blocks of indices of the
    other shape go; the remaining axes of the run stay as they are. That is the first axis unless
    `c.carriers` says otherwise.
    """
    found = aligned(x.dims, y.dims)
    if found is None:
        return
    runs, known = found
    for number, (ins, outs) in enumerate(runs):
        if len(ins) == len(outs) == 1:
            c.link(x, ins[0], y, outs[0])
            continue
        carrier = next((a for a in ins if not c.blocked(x, a)), None)
        choice = c.carriers.get(f"{node.name}/{number}", 0)
        if carrier is None or choice >= len(outs) or y.size(outs[choice]) is None:
            continue
        links = _links(
            [x.dims[a] for a in ins],
            ins.index(carrier),
            [y.dims[a] for a in outs],
            choice,
            known,
        )
        if links is None:
            continue
        c.link(x, carrier, y, outs[choice], links)
        atoms = x.atoms[carrier]
        if len(outs) > 1 and atoms is not None:
            c.choices[f"{node.name}/{number}"] = (len(outs), atoms)


def _links(
    before: Sequence[Dim], carrier: int, after: Sequence[Dim], choice: int, known: dict[str, Size]
) -> tuple[Array, Array] | None:
    """Which indices of axis `carrier` of `before` share elements with which of `choice`."""
    dynamic = any(isinstance(d, str) for d in (*before, *after))
    keys: list[Array] = []
    for stand_in in STAND_INS if dynamic else (1,):
        ins = [_number(d, stand_in, known) for d in before]
        outs = [_number(d, stand_in, known) for d in after]
        if not 0 < math.prod(ins) <= MOST_ELEMENTS:
            return None
        width = outs[choice]
        keys.append(np.unique(_coordinate(ins, carrier) * width + _coordinate(outs, choice)))
    pairs = np.unique(np.concatenate(keys))
    return pairs // width, pairs % width


def _number(dim: Dim, stand_in: int, known: dict[str, Size]) -> int:
    if isinstance(dim, int):
        return dim
    if dim in known:
        return known[dim].number * int(stand_in ** len(known[dim].names))
    return stand_in


def _coordinate(sizes: Sequence[int], axis: int) -> Array:
    """The index along `axis` of each element, in row-major order."""
    inner = math.prod(sizes[axis + 1 :])
    return np.arange(math.prod(sizes), dtype=np.int64) // inner % sizes[axis]
