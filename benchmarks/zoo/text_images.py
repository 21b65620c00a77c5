"""Rendered text lines with noise: images that are their own ground truth."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from benchmarks.zoo import fetch, wordnet

if TYPE_CHECKING:
    from PIL import ImageFont

Gray = npt.NDArray[np.uint8]


def drawn_with() -> str:
    """The library that draws, with its version: a part of the keys of what it drew."""
    return f"pillow {version('pillow')}"


@cache
def fonts() -> tuple[Path, ...]:
    """The DejaVu faces that hold text (not the mathematical one), in a stable order."""
    files = [
        path
        for package in (fetch.DEJAVU_CORE, fetch.DEJAVU_EXTRA)
        for path in (fetch.deb(package) / "usr/share/fonts/truetype/dejavu").glob("*.ttf")
        if "Math" not in path.name
    ]
    return tuple(sorted(files, key=lambda path: path.name))


@cache
def words(split: str) -> tuple[str, ...]:
    """The nouns of one half of WordNet: `calibration` or `evaluation`, disjoint."""
    start = {"calibration": 0, "evaluation": 1}[split]
    return tuple(wordnet.nouns()[start::2])


@cache
def font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    """One face at one size in pixels."""
    from PIL import ImageFont

    return ImageFont.truetype(str(path), size)


def phrase(rng: np.random.Generator, split: str) -> str:
    """One to three nouns, a number, or a code such as `ANTHEM-4021`; at most 28 characters."""
    vocabulary = words(split)

    def noun() -> str:
        return vocabulary[rng.integers(len(vocabulary))]

    kind = rng.random()
    if kind < 0.55:
        text = " ".join(noun() for _ in range(rng.integers(1, 4)))[:28]
    elif kind < 0.8:
        text = "".join(str(digit) for digit in rng.integers(0, 10, rng.integers(4, 13)))
    else:
        text = f"{noun()[:14].upper()}-{rng.integers(1, 10000)}"
    return text.strip()


def line(rng: np.random.Generator, text: str, noise: float) -> Gray:
    """`text` as a grey image, shape (height, width): a random face, size, contrast, slight turn,
    blur and additive Gaussian noise whose deviation is drawn from 0 to `noise` grey levels."""
    from PIL import Image, ImageDraw, ImageFilter

    face = font(fonts()[rng.integers(len(fonts()))], int(rng.integers(22, 37)))
    left, top, right, bottom = face.getbbox(text)
    paper = int(rng.integers(170, 256))
    image = Image.new("L", (int(right - left) + 16, int(bottom - top) + 14), paper)
    ink = int(rng.integers(0, 111))
    ImageDraw.Draw(image).text((8 - left, 7 - top), text, font=face, fill=ink)
    image = image.rotate(rng.uniform(-1.5, 1.5), Image.Resampling.BICUBIC, fillcolor=paper)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.3)))
    return add_noise(rng, np.asarray(image), rng.uniform(0, noise))


def add_noise(rng: np.random.Generator, image: Gray, deviation: float) -> Gray:
    """`image` with Gaussian noise of the given standard deviation in grey levels."""
    noisy = image + rng.normal(0, deviation, image.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def scaled(image: Gray, height: int, max_width: int | None = None) -> Gray:
    """`image` resized to `height` with its proportions kept, not wider than `max_width`."""
    from PIL import Image

    width = max(1, round(image.shape[1] * height / image.shape[0]))
    if max_width is not None:
        width = min(width, max_width)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def network_input(image: Gray, width: int) -> npt.NDArray[np.float32]:
    """(1, 3, height, width) in [-1, 1], the image at the left and zeros beside it."""
    plane = np.zeros((image.shape[0], width), np.float32)
    plane[:, : image.shape[1]] = image.astype(np.float32) / 127.5 - 1
    return np.repeat(plane[None, None], 3, axis=1)
