"""Random images and signals with the spectrum, contrast and edges that parameters ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Layout:
    """Which axes of an input mean what."""

    shape: tuple[int, ...]
    channel_axis: int | None
    spatial_axes: tuple[int, ...]

    @property
    def channels(self) -> int:
        """How many channels have a mean and contrast of their own; 1 if they share theirs."""
        count = 1 if self.channel_axis is None else self.shape[self.channel_axis]
        return count if count <= 4 else 1


def layout_of(shape: tuple[int, ...]) -> Layout:
    """NCHW, or NHWC where the last axis can only be colours; the like for signals and volumes."""
    rank = len(shape)
    if rank < 3:
        return Layout(shape, None, tuple(range(1, rank)))
    last = shape[-1] in (1, 3, 4) and shape[1] > 4
    channel_axis = rank - 1 if last else 1
    return Layout(shape, channel_axis, tuple(i for i in range(1, rank) if i != channel_axis))


@dataclass(frozen=True)
class Style:
    """What images of a family have in common. Fields in unbounded units; see `draw`."""

    mean: tuple[float, ...]
    """Of each channel, in units of the input."""
    log_std: tuple[float, ...]
    slope: float = 1.0
    """Amplitude falls as 1 / frequency ** slope: 0 is white noise, photographs have about 1."""
    structure: float = 0.0
    """Logit of the share of shapes with edges, against smooth clouds."""
    fold: float = 0.0
    """Log of how often a cloud is folded into shapes: few large areas, or many thin strokes."""
    colour: float = -2.0
    """Logit of the independence of the channels: photographs are mostly grey."""
    clip_low: float = 1.0
    """Log of the standard deviations below the mean at which values saturate."""
    clip_high: float = 1.0
    contrast: float = -1.5
    """Log of the spread of contrast from image to image."""
    brightness: float = -1.5
    """Log of the spread of brightness from image to image, in standard deviations."""

    def vector(self) -> Array:
        """The fields in one row: means, log standard deviations, the others."""
        return np.array([*self.mean, *self.log_std, *(getattr(self, name) for name in _SHARED)])

    @staticmethod
    def from_vector(vector: Array) -> Style:
        """The style whose `vector` this is."""
        channels = (len(vector) - len(_SHARED)) // 2
        values = [float(value) for value in vector]
        shared = dict(zip(_SHARED, values[2 * channels :], strict=True))
        return Style(tuple(values[:channels]), tuple(values[channels : 2 * channels]), **shared)


_SHARED = (
    "slope",
    "structure",
    "fold",
    "colour",
    "clip_low",
    "clip_high",
    "contrast",
    "brightness",
)


def draw(style: Style, layout: Layout, rng: np.random.Generator) -> Array:
    """One float32 input of `layout.shape`, whose batch size is the first axis."""
    shape = layout.shape
    slope = float(np.clip(style.slope, 0, 3))
    shared = _pattern(style, slope, layout, rng, colours=False)
    own = _pattern(style, slope, layout, rng, colours=True)
    independent = _sigmoid(style.colour)
    pattern = np.sqrt(1 - independent) * shared + np.sqrt(independent) * own
    low, high = np.exp(np.clip([style.clip_low, style.clip_high], -3, 3))
    pattern = _standardised(np.clip(pattern, -low, high))
    gain = np.exp(rng.normal() * np.exp(min(style.contrast, 1.0)))
    shift = rng.normal() * np.exp(min(style.brightness, 2.0))
    per_channel = [1] * len(shape)
    if layout.channel_axis is not None and layout.channels > 1:
        per_channel[layout.channel_axis] = layout.channels
    mean = np.array(style.mean).reshape(per_channel if len(style.mean) > 1 else -1)
    std = np.exp(np.clip(style.log_std, -15, 15))
    std = std.reshape(per_channel if len(std) > 1 else -1)
    return np.asarray(mean + std * (gain * pattern + shift), dtype=np.float32).reshape(shape)


def _pattern(
    style: Style, slope: float, layout: Layout, rng: np.random.Generator, *, colours: bool
) -> Array:
    """A cloud, partly folded into shapes: zero mean and unit variance."""
    cloud = _cloud(slope, layout, rng, colours=colours)
    share = _sigmoid(style.structure)
    folds = np.exp(np.clip(style.fold, -2, 3) + 0.5 * rng.normal())
    carrier = _cloud(max(slope, 1.5), layout, rng, colours=colours)
    shapes = _standardised(np.tanh(8 * np.sin(folds * carrier + rng.uniform(0, 2 * np.pi))))
    return _standardised(np.sqrt(1 - share) * cloud + np.sqrt(share) * shapes)


def _cloud(slope: float, layout: Layout, rng: np.random.Generator, *, colours: bool) -> Array:
    """Gaussian noise with a power-law spectrum over the spatial axes."""
    shape = list(layout.shape)
    if layout.channel_axis is not None and not colours:
        shape[layout.channel_axis] = 1
    noise = rng.standard_normal(shape)
    axes = layout.spatial_axes
    if not axes:
        return noise
    spectrum = np.fft.rfftn(noise, axes=axes)
    squares: Array = np.zeros([1] * len(shape))
    for axis in axes:
        size = shape[axis]
        frequencies = np.fft.rfftfreq(size) if axis == axes[-1] else np.fft.fftfreq(size)
        along = [1] * len(shape)
        along[axis] = len(frequencies)
        # The lowest frequency of the longest axis is the unit, whatever the other axes' lengths.
        squares = squares + np.square(frequencies * max(shape[a] for a in axes)).reshape(along)
    amplitude = np.maximum(squares, 1.0) ** (-slope / 2)
    filtered = np.fft.irfftn(spectrum * amplitude, s=[shape[axis] for axis in axes], axes=axes)
    return _standardised(filtered)


def _standardised(values: Array) -> Array:
    spread = values.std()
    return np.asarray((values - values.mean()) / (spread if spread > 1e-12 else 1.0))


def _sigmoid(value: float) -> float:
    return float(1 / (1 + np.exp(-np.clip(value, -30, 30))))
