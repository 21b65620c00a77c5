"""Scales, zero points and integer weights: the arithmetic of 8-bit affine quantization."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.evidence.digest import digest

Array = npt.NDArray[Any]

SMALLEST_SCALE = np.float32(1e-20)
"""For tensors that are zero everywhere: any positive scale represents them."""


@dataclasses.dataclass(frozen=True)
class AffineScale:
    """uint8 representation `real = scale * (q - zero_point)` of one tensor."""

    scale: np.float32
    zero_point: int

    @property
    def low(self) -> float:
        return float(self.scale) * (0 - self.zero_point)

    @property
    def high(self) -> float:
        return float(self.scale) * (255 - self.zero_point)


def affine_scale(low: float, high: float) -> AffineScale:
    """The uint8 scale covering [low, high] and 0 (padding and Relu need an exact zero)."""
    low, high = min(0.0, float(low)), max(0.0, float(high))
    scale = np.float32(max((high - low) / 255.0, float(SMALLEST_SCALE)))
    zero_point = int(np.clip(np.rint(-low / float(scale)), 0, 255))
    return AffineScale(scale, zero_point)


def channel_scales(weight: Array, axis: int, ratio: Array | float = 1.0) -> Array:
    """Symmetric int8 scales, one per index of `axis`: largest magnitude / 127, times `ratio`."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.max(np.abs(weight), axis=others).astype(np.float64)
    scales: Array = np.maximum(largest * ratio / 127.0, float(SMALLEST_SCALE))
    return scales.astype(np.float32)


def quantize_symmetric(
    weight: Array, scales: Array, axis: int, *, paired: bool = False
) -> npt.NDArray[np.int8]:
    """int8 in [-127, 127] by rounding to nearest; `scales` has one entry per index of `axis`.

    Args:
        paired: whether neighbours that a kernel adds up in 16 bits are kept within `PAIR_SUM`.
    """
    channels = np.moveaxis(weight, axis, 0)
    shape = [-1] + [1] * (weight.ndim - 1)
    levels = np.clip(np.rint(channels / scales.reshape(shape)), -127, 127)
    if paired:
        levels = settle_pairs(levels)
    return np.ascontiguousarray(np.moveaxis(levels, 0, axis)).astype(np.int8)


PAIR_SUM = 32767 // 255
"""What two neighbouring weights may add up to where 16 bits hold both their products."""


def settle_pairs(levels: Array) -> Array:
    """Weights whose neighbours' sums an int16 holds, whatever uint8 activations they meet.

    x86 without VNNI multiplies uint8 by int8 and adds each product to its neighbour's in saturating
    16-bit arithmetic (vpmaddubsw): 255 * 127 twice is twice too much. The excess of a pair is taken
    off both, half each: the least change in squares. Only magnitudes shrink, so that no pair that
    was settled is disturbed by the next. Neighbours are those along the reduction, in the order
    channels first and in the order channels last: kernels use one or the other.

    Args:
        levels: (outputs, inputs, *kernel) integers within [-127, 127], in any dtype.
    """
    result = levels.copy()
    outputs = len(result)
    _settle(result.reshape(outputs, -1))
    if levels.ndim > 2:
        last = np.ascontiguousarray(np.moveaxis(result, 1, -1))
        _settle(last.reshape(outputs, -1))
        result = np.moveaxis(last, -1, 1)
    return result


def _settle(rows: Array) -> None:
    """In place, along the last axis: pairs that start at even indices, then those at odd ones."""
    for start in (0, 1):
        left, right = rows[:, start:-1:2], rows[:, start + 1 :: 2]
        total = left + right
        excess = total - np.clip(total, -PAIR_SUM, PAIR_SUM)
        if not excess.any():
            continue
        half = np.trunc(excess / 2)
        left -= half
        right -= excess - half


def quantize_bias(bias: Array, scales: Array) -> npt.NDArray[np.int32]:
    """int32 bias in units of (input scale x weight scale)."""
    limits = np.iinfo(np.int32)
    return np.clip(np.rint(bias / scales.astype(np.float64)), limits.min, limits.max).astype(
        np.int32
    )


LARGEST_BIAS = 2.0**30
"""Of an int32 sum, what its bias may take up."""


def smallest_scales(bias: Array, input_scale: float) -> Array:
    """The weight scales below which an int32 could not hold the bias.

    Channels whose weights are (almost) zero, as batch norms leave them behind, still have biases.
    """
    return (np.abs(bias).astype(np.float64) / (input_scale * LARGEST_BIAS)).astype(np.float32)


CLIP_RATIOS = np.linspace(0.6, 1.0, 17)

PAIRED_RATIOS = np.linspace(0.6, 2.0, 29)
"""Beyond 1 the weights leave the ends of [-127, 127] free, so that fewer pairs exceed their sum."""

BLOCK_ELEMENTS = 1 << 17
"""Weights whose scales are searched at once: what the search holds then stays in the cache."""


def mse_channel_scales(weight: Array, axis: int, *, paired: bool = False) -> Array:
    """Symmetric int8 scales with the least squared rounding error per channel, by clip ratio."""
    return _searched(np.moveaxis(weight, axis, 0), paired)


def _searched(channels: Array, paired: bool) -> Array:
    """`mse_channel_scales` of (outputs, ...) weights, found again by content."""
    key = (digest(channels), paired)
    if key not in _KNOWN_SCALES:
        rows = max(1, BLOCK_ELEMENTS // max(1, int(np.prod(channels.shape[1:]))))
        blocks = [
            _search_block(channels[i : i + rows], paired) for i in range(0, len(channels), rows)
        ]
        if len(_KNOWN_SCALES) >= MOST_KNOWN_SCALES:
            _KNOWN_SCALES.clear()
        _KNOWN_SCALES[key] = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    return _KNOWN_SCALES[key].copy()


_KNOWN_SCALES: dict[tuple[str, bool], Array] = {}
"""The same weights are quantized for every probe and candidate; their scales are few numbers."""

MOST_KNOWN_SCALES = 4096


def _search_block(channels: Array, paired: bool) -> Array:
    flat = channels.reshape(len(channels), -1).astype(np.float32)
    largest = np.maximum(np.abs(flat).max(axis=1, initial=0.0), float(SMALLEST_SCALE) * 127)
    best = np.full(len(flat), np.inf)
    chosen = largest / 127.0
    for ratio in PAIRED_RATIOS if paired else CLIP_RATIOS:
        scales = (largest * ratio / 127.0).astype(np.float32)
        levels = np.clip(np.rint(flat / scales[:, None]), -127, 127)
        if paired:
            levels = settle_pairs(levels.reshape(channels.shape)).reshape(flat.shape)
        error = np.square(flat - levels * scales[:, None]).sum(axis=1, dtype=np.float64)
        better = error < best
        best, chosen = np.where(better, error, best), np.where(better, scales, chosen)
    return np.asarray(chosen, dtype=np.float32)


def quantize_blocks(weight: Array, block: int) -> tuple[npt.NDArray[np.uint8], Array]:
    """8-bit blocks along K of a (K, N) weight, as `MatMulNBits` stores them.

    Returns (N, ceil(K / block), block) uint8 with zero point 128, and (N * blocks,) float32 scales.
    """
    rows, columns = weight.shape
    blocks = -(-rows // block)
    padded = np.zeros((columns, blocks * block), np.float32)
    padded[:, :rows] = weight.T
    grouped = padded.reshape(columns, blocks, block)
    scales = np.maximum(np.abs(grouped).max(axis=2) / 127.0, SMALLEST_SCALE).astype(np.float32)
    levels = np.clip(np.rint(grouped / scales[:, :, None]), -127, 127) + 128
    return levels.astype(np.uint8), scales.reshape(-1)
