"""Scales, zero points and integer weights: the arithmetic of 8-bit affine quantization."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

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


def quantize_symmetric(weight: Array, scales: Array, axis: int) -> npt.NDArray[np.int8]:
    """int8 in [-127, 127] by rounding to nearest; `scales` has one entry per index of `axis`."""
    shape = [1] * weight.ndim
    shape[axis] = -1
    quotient = weight / scales.reshape(shape)
    return np.clip(np.rint(quotient), -127, 127).astype(np.int8)


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


def mse_channel_scales(weight: Array, axis: int) -> Array:
    """Symmetric int8 scales with the least squared rounding error per channel, by clip ratio."""
    moved = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    largest = np.maximum(np.abs(moved).max(axis=1), float(SMALLEST_SCALE) * 127)
    best = np.full(moved.shape[0], np.inf)
    chosen = largest / 127.0
    for ratio in CLIP_RATIOS:
        scales = largest * ratio / 127.0
        rounded = np.clip(np.rint(moved / scales[:, None]), -127, 127) * scales[:, None]
        error = np.square(moved - rounded).sum(axis=1)
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
