"""Linear maps between feature maps: composed, added, and written back as one operator."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Offsets = tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class LinearMap:
    """y[o, p] = bias[o] + sum over i, t of weight[o, i, t] x[i, stride * p + start + t].

    Per spatial axis; without spatial axes it is a matrix. x is zero outside of its bounds. Every
    convolution without a nonlinearity is one (start is minus the padding, dilated and grouped
    kernels are filled up with zeros), and so is every sum and every chain of them: kernels grow to
    k1 + (k2 - 1) s1 and strides multiply, as in DepthShrinker and LayerMerge, which give the rule
    for stride 1, square kernels and one group.

    Attributes:
        weight: (out, in, *kernel) float64.
        bias: (out,) float64.
        start: offset of the first tap, per spatial axis.
        stride: per spatial axis.
        slack: an axis of size n becomes one of floor((n + slack) / stride) + 1.
        exact: whether it gives what its parts gave in turn, borders included. It does not where a
            part padded with zeros what is not zero beyond the border once parts are joined.
        diagonal: whether every channel is known to depend on itself alone (depthwise).
    """

    weight: Array
    bias: Array
    start: Offsets
    stride: Offsets
    slack: Offsets
    exact: bool = True
    diagonal: bool = False

    @property
    def kernel(self) -> Offsets:
        return tuple(self.weight.shape[2:])

    @property
    def pads(self) -> tuple[Offsets, Offsets]:
        """(before, after) as a convolution names them; negative ones cannot be written."""
        before = tuple(-s for s in self.start)
        sizes = zip(self.slack, self.kernel, before, strict=True)
        return before, tuple(slack + k - b for slack, k, b in sizes)

    @property
    def pointwise(self) -> bool:
        """One tap, at the position itself."""
        return all(k == 1 for k in self.kernel) and not any(self.start)

    def output_size(self, size: Offsets) -> Offsets:
        pairs = zip(size, self.slack, self.stride, strict=True)
        return tuple((n + slack) // stride + 1 for n, slack, stride in pairs)


def identity(channels: int, axes: int) -> LinearMap:
    """y = x."""
    weight = np.eye(channels).reshape(channels, channels, *(1,) * axes)
    ones = (1,) * axes
    return LinearMap(weight, np.zeros(channels), (0,) * axes, ones, (-1,) * axes, diagonal=True)


def convolution(
    weight: Array,
    bias: Array | None,
    *,
    strides: Offsets,
    pads: Offsets,
    dilations: Offsets,
    groups: int = 1,
) -> LinearMap:
    """A convolution as ONNX defines it.

    Args:
        weight: (out, in / groups, *kernel).
        pads: all begins, then all ends.
    """
    axes = weight.ndim - 2
    dense = ungrouped(weight.astype(np.float64), groups)
    if any(d > 1 for d in dilations):
        spread = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
        filled = np.zeros((*dense.shape[:2], *spread))
        steps: tuple[Any, ...] = tuple(slice(None, None, d) for d in dilations)
        filled[(slice(None), slice(None), *steps)] = dense
        dense = filled
    slack = tuple(
        b + e - k for b, e, k in zip(pads[:axes], pads[axes:], dense.shape[2:], strict=True)
    )
    offset = np.zeros(len(dense)) if bias is None else bias.astype(np.float64)
    starts = tuple(-b for b in pads[:axes])
    diagonal = groups == weight.shape[0] and weight.shape[1] == 1
    return LinearMap(dense, offset, starts, tuple(strides), slack, diagonal=diagonal)


def ungrouped(weight: Array, groups: int) -> Array:
    """(out, in / groups, *kernel) -> (out, in, *kernel), zeros between groups."""
    if groups == 1:
        return weight
    out, inside = weight.shape[:2]
    dense = np.zeros((groups, out // groups, groups, inside, *weight.shape[2:]), weight.dtype)
    each = np.arange(groups)
    dense[each, :, each] = weight.reshape(groups, out // groups, inside, *weight.shape[2:])
    return dense.reshape(out, groups * inside, *weight.shape[2:])


def grouped(weight: Array) -> tuple[Array, int]:
    """The inverse of `ungrouped` for depthwise weights: (weight, groups); others stay, with 1.

    Only (channels, 1, *kernel) is looked for: kernels for a few large groups are seldom faster
    than dense ones.
    """
    out, inside = weight.shape[:2]
    if out != inside or out == 1:
        return weight, 1
    each = np.arange(out)
    rest = weight.copy()
    rest[each, each] = 0
    return (weight, 1) if rest.any() else (weight[each, each][:, np.newaxis], out)


def compose(first: LinearMap, second: LinearMap) -> LinearMap:
    """`second` after `first`: tap t2 of the second reads taps s1 * t2 + t1 of what came first."""
    steps = zip(first.kernel, second.kernel, first.stride, strict=True)
    kernel = tuple(k1 + (k2 - 1) * s1 for k1, k2, s1 in steps)
    weight = np.zeros((len(second.bias), first.weight.shape[1], *kernel))
    for tap in itertools.product(*map(range, second.kernel)):
        spots = zip(tap, first.stride, first.kernel, strict=True)
        window = tuple(slice(s1 * t, s1 * t + k1) for t, s1, k1 in spots)
        every: tuple[Any, ...] = (slice(None), slice(None), *tap)
        part = second.weight[every]
        if second.diagonal:
            each = np.diagonal(part).reshape(-1, *(1,) * (first.weight.ndim - 1))
            weight[(slice(None), slice(None), *window)] += each * first.weight
        else:
            weight[(slice(None), slice(None), *window)] += np.tensordot(part, first.weight, 1)
    spatial = tuple(range(2, second.weight.ndim))
    bias = second.weight.sum(axis=spatial) @ first.bias + second.bias
    starts = zip(first.start, second.start, first.stride, strict=True)
    slacks = zip(first.slack, second.slack, first.stride, strict=True)
    # beyond its border the first map gives its bias and what it sees of x, where the second one
    # expects zeros
    silent = not first.bias.any() and first.pointwise
    return LinearMap(
        weight,
        bias,
        tuple(a + s1 * b for a, b, s1 in starts),
        tuple(s1 * s2 for s1, s2 in zip(first.stride, second.stride, strict=True)),
        tuple(a + s1 * (b + 1) for a, b, s1 in slacks),
        first.exact and second.exact and (silent or not _pads(second)),
        first.diagonal and second.diagonal,
    )


def _pads(part: LinearMap) -> bool:
    before, after = part.pads
    return any(p > 0 for p in (*before, *after))


def add(left: LinearMap, right: LinearMap) -> LinearMap:
    """The sum of two maps of the same input.

    Raises:
        ValueError: they step or end differently, so that their outputs do not lie on each other.
    """
    if left.stride != right.stride or left.slack != right.slack:
        raise ValueError("maps of different strides or sizes cannot be added")
    pairs = list(zip(left.start, right.start, left.kernel, right.kernel, strict=True))
    start = tuple(min(a, b) for a, b, _, _ in pairs)
    stop = tuple(max(a + k, b + m) for a, b, k, m in pairs)
    size = tuple(b - a for a, b in zip(start, stop, strict=True))
    weight = np.zeros((*left.weight.shape[:2], *size))
    for part in (left, right):
        places = zip(part.start, start, part.kernel, strict=True)
        window = tuple(slice(a - s, a - s + k) for a, s, k in places)
        weight[(slice(None), slice(None), *window)] += part.weight
    return LinearMap(
        weight,
        left.bias + right.bias,
        start,
        left.stride,
        left.slack,
        left.exact and right.exact,
        left.diagonal and right.diagonal,
    )


def scaled(part: LinearMap, factor: Array | float, shift: Array | float = 0.0) -> LinearMap:
    """factor * map + shift, per output channel or for all."""
    each = np.broadcast_to(np.asarray(factor, np.float64), part.bias.shape)
    weight = part.weight * each.reshape(-1, *(1,) * (part.weight.ndim - 1))
    return dataclasses.replace(part, weight=weight, bias=part.bias * each + shift)


def writable(part: LinearMap) -> LinearMap:
    """The same map without outer taps of zeros, and with as many as make its pads non-negative."""
    weight, start = part.weight, list(part.start)
    for axis in range(2, weight.ndim):
        used = np.flatnonzero(weight.any(axis=tuple(a for a in range(weight.ndim) if a != axis)))
        low, high = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 1)
        window: list[Any] = [slice(None)] * weight.ndim
        window[axis] = slice(low, high)
        weight = weight[tuple(window)]
        start[axis - 2] += low
        # a convolution cannot begin or end inside of its input
        more = [(0, 0)] * weight.ndim
        before = max(0, start[axis - 2])
        after = max(0, -(part.slack[axis - 2] + weight.shape[axis] + start[axis - 2]))
        more[axis] = (before, after)
        weight = np.pad(weight, more)
        start[axis - 2] -= before
    return dataclasses.replace(part, weight=weight, start=tuple(start))
