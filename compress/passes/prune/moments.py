"""Second moments of what weighted layers read, gathered over calibration samples."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.evidence.statistics import chunks
from compress.execute.memory import give_back
from compress.execute.runtime import Samples
from compress.execute.session import Runner, with_outputs
from compress.graph.layers import Layer
from compress.graph.traversal import attribute_int, attribute_ints, constant

Array = npt.NDArray[Any]

POSITIONS = 2048
"""Rows per sample and layer that enter the moments, where there are more."""

MOST_BYTES = 512 * 2**20
"""Moments gathered in one pass over the samples; more take further passes."""


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Of the rows x that a layer multiplies with its weight, one row per output position.

    x has the entries of a window in the order of the weight: (in / groups, *kernel) for Conv,
    (in,) for Gemm and MatMul, (in / groups,) for ConvTranspose. Padding counts as zeros.

    Attributes:
        second: E[x x^T], (groups, d, d) float64.
        mean: E[x], (groups, d) float64.
        count: rows seen.
    """

    second: Array
    mean: Array
    count: int

    @property
    def covariance(self) -> Array:
        """E[(x - mean) (x - mean)^T], (groups, d, d) float64."""
        return np.asarray(self.second - self.mean[:, :, None] * self.mean[:, None, :])


def input_moments(
    model: ir.Model,
    layers: Sequence[Layer],
    samples: Samples,
    *,
    positions: int = POSITIONS,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Moments]:
    """Moments of the given layers' inputs, by layer name.

    Layers without constant weights, or with transposed inputs, are left out. Layers that read the
    same windows of the same value share one `Moments`.

    Args:
        layers: of this model.
        samples: inputs, gone through as often as memory demands (`MOST_BYTES`).
        positions: largest number of rows taken from one sample, at random.
        seed: of that choice.
        advance: called after every sample of every pass.
    """
    windows = {x.name: w for x in layers if (w := Windows.of(x)) is not None}
    sizes = {w.key: w.bytes for w in windows.values()}
    by_key = {w.key: w for w in windows.values()}
    found: dict[str, Moments] = {}
    inputs = {str(v.name) for v in model.graph.inputs}
    for keys in chunks(sizes, MOST_BYTES):
        sums = {key: _Sums(by_key[key].groups, by_key[key].width) for key in keys}
        wanted = [n for n in dict.fromkeys(by_key[key].value for key in keys) if n not in inputs]
        runner = Runner(with_outputs(model, wanted), frugal=True, own=True) if wanted else None
        rng = np.random.default_rng(seed)
        for sample in samples:
            arrays = {name: np.asarray(sample[name]) for name in inputs}
            if runner is not None:
                arrays.update(runner(sample))
            for key in keys:
                sums[key].add(by_key[key].rows(arrays[by_key[key].value], positions, rng))
            advance()
        del runner
        give_back()
        found.update({key: s.result() for key, s in sums.items()})
    return {name: found[w.key] for name, w in windows.items()}


class _Sums:
    def __init__(self, groups: int, width: int) -> None:
        self._second = np.zeros((groups, width, width))
        self._first = np.zeros((groups, width))
        self._count = 0

    def add(self, rows: Array) -> None:
        """Rows (groups, positions, width)."""
        # products in single precision: one sample's, which is far fewer than would lose digits
        self._second += np.matmul(rows.transpose(0, 2, 1), rows)
        self._first += rows.sum(axis=1, dtype=np.float64)
        self._count += rows.shape[1]

    def result(self) -> Moments:
        count = max(1, self._count)
        return Moments(self._second / count, self._first / count, self._count)


@dataclasses.dataclass(frozen=True)
class Windows:
    """Which rows a layer reads from its input."""

    value: str
    groups: int
    width: int
    kernel: tuple[int, ...] | None
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    auto_pad: str = "NOTSET"
    channels_first: bool = True

    @property
    def key(self) -> str:
        """The same for layers that read the same rows."""
        return repr(self)

    @property
    def bytes(self) -> int:
        """Of the second moments."""
        return 8 * self.groups * self.width * self.width

    @classmethod
    def of(cls, layer: Layer) -> Windows | None:
        """None for layers without constant weights, or that read their input transposed."""
        weight, node = constant(layer.weight), layer.node
        if weight is None or not layer.inputs:
            return None
        value = str(layer.inputs[0].name)
        groups = attribute_int(node, "group", 1)
        if layer.op == "Conv":
            axes = weight.ndim - 2
            auto = node.attributes.get("auto_pad")
            return cls(
                value,
                groups,
                math.prod(weight.shape[1:]),
                tuple(weight.shape[2:]),
                attribute_ints(node, "strides") or (1,) * axes,
                attribute_ints(node, "dilations") or (1,) * axes,
                attribute_ints(node, "pads") or (0,) * (2 * axes),
                auto.as_string() if auto is not None else "NOTSET",
            )
        if layer.op == "ConvTranspose":
            return cls(value, groups, weight.shape[0] // groups, None)
        if weight.ndim != 2 or attribute_int(node, "transA", 0):
            return None
        rows = 1 if attribute_int(node, "transB", 0) else 0
        return cls(value, 1, weight.shape[rows], None, channels_first=False)

    def rows(self, array: Array, positions: int, rng: np.random.Generator) -> Array:
        """(groups, at most `positions`, width) float32."""
        if self.kernel is None:
            flat = np.moveaxis(array, 1, -1) if self.channels_first else array
            flat = flat.reshape(-1, self.groups, self.width)
            flat = flat[_some(len(flat), positions, rng)]
            return np.ascontiguousarray(flat.transpose(1, 0, 2), dtype=np.float32)
        spatial = array.shape[2:]
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        before, after = self._padding(spatial, reach)
        padded = np.pad(array, ((0, 0), (0, 0), *zip(before, after, strict=True)))
        sizes = [
            (n - r) // s + 1 for n, r, s in zip(padded.shape[2:], reach, self.strides, strict=True)
        ]
        grid = (len(array), *sizes)
        picked = np.unravel_index(_some(math.prod(grid), positions, rng), grid)
        taps = []
        for offsets in itertools.product(*(range(k) for k in self.kernel)):
            places = [
                p * s + o * d
                for p, s, o, d in zip(
                    picked[1:], self.strides, offsets, self.dilations, strict=True
                )
            ]
            index: tuple[Any, ...] = (picked[0], slice(None), *places)
            taps.append(padded[index])
        # (positions, channels, taps), as the weight has them
        rows = np.stack(taps, axis=-1).reshape(len(picked[0]), self.groups, self.width)
        return np.ascontiguousarray(rows.transpose(1, 0, 2), dtype=np.float32)

    def _padding(
        self, spatial: tuple[int, ...], reach: Sequence[int]
    ) -> tuple[Sequence[int], Sequence[int]]:
        count = len(spatial)
        if self.auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
            pads = (0,) * (2 * count) if self.auto_pad == "VALID" else self.pads
            return pads[:count], pads[count:]
        total = [
            max((-(-n // s) - 1) * s + r - n, 0)
            for n, s, r in zip(spatial, self.strides, reach, strict=True)
        ]
        small = [t // 2 for t in total]
        large = [t - t // 2 for t in total]
        return (small, large) if self.auto_pad == "SAME_UPPER" else (large, small)


def _some(count: int, most: int, rng: np.random.Generator) -> Array:
    """At most `most` of the first `count` numbers, sorted."""
    if count <= most:
        return np.arange(count)
    return np.sort(rng.choice(count, most, replace=False))
