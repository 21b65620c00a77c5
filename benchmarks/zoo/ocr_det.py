"""PP-OCRv4 text detection on rendered pages: overlap of the text mask with the float model's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from benchmarks.zoo import fetch, store, text_images
from benchmarks.zoo.case import Arrays, Case, Run, Scores

THRESHOLD = 0.3
EVALUATION_PAGES = 40
CALIBRATION_PAGES = 24
SIZES = ((640, 640), (736, 544), (480, 800), (608, 608), (800, 576), (544, 736))

if TYPE_CHECKING:
    from PIL import ImageDraw

Mask = npt.NDArray[np.bool_]


def model_path() -> Path:
    """The detector: x (1, 3, height, width), multiples of 32 -> text probability per pixel."""
    root = fetch.wheel(fetch.RAPIDOCR)
    return root / "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"


def calibration() -> Iterator[Arrays]:
    """Pages with other words, in the same six sizes."""
    for page in _pages("calibration", CALIBRATION_PAGES, seed=21):
        yield {"x": _input(page["image"])}


def scores(run: Run) -> Scores:
    """Intersection over union of the mask (probability > .3) with float's, per page; (40,)."""
    pairs = zip(_masks(run), _float_masks(), strict=True)
    return np.array([_iou(mask, reference) for mask, reference in pairs])


def found_lines(run: Run) -> float:
    """F-measure against the text that was really drawn: recall is the share of drawn lines whose
    middle row is covered by half or more, precision the share of the mask inside their boxes."""
    found, inside, marked, drawn = 0, 0, 0, 0
    for mask, page in zip(_masks(run), _evaluation(), strict=True):
        truth = np.zeros_like(mask)
        for left, top, right, bottom in page["boxes"].astype(int):
            found += int(mask[(top + bottom) // 2, left:right].mean() >= 0.5)
            truth[top:bottom, left:right] = True
        inside, marked = inside + int((mask & truth).sum()), marked + int(mask.sum())
        drawn += len(page["boxes"])
    precision, recall = inside / max(marked, 1), found / drawn
    return 2 * precision * recall / max(precision + recall, 1e-9)


def latency_inputs() -> Arrays:
    """One page of 640x640."""
    pages = _pages("calibration", CALIBRATION_PAGES, seed=21)
    return {"x": _input(next(p["image"] for p in pages if p["image"].shape[:2] == (640, 640)))}


def _iou(one: Mask, other: Mask) -> float:
    union = np.logical_or(one, other).sum()
    return float(np.logical_and(one, other).sum() / union) if union else 1.0


def _masks(run: Run) -> Iterator[Mask]:
    for page in _evaluation():
        (output,) = run({"x": _input(page["image"])}).values()
        yield np.asarray(output[0, 0] > THRESHOLD)


@cache
def _float_masks() -> list[Mask]:
    """Masks of the float model in onnxruntime; computed once, kept."""

    def build() -> Iterator[store.Sample]:
        from benchmarks.runtimes import onnxruntime_run

        run = onnxruntime_run(model_path())
        return ({"mask": mask} for mask in _masks(run))

    key = store.key_of(_key(), model_path().read_bytes())
    return [sample["mask"].astype(bool) for sample in store.samples("ocr_det-float", key, build)]


def _input(image: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """(height, width, 3) uint8 -> (1, 3, height, width) in [-1, 1]."""
    scaled = image.astype(np.float32) / 127.5 - 1
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def _key() -> str:
    return store.key_of(sys.modules[__name__], text_images, text_images.drawn_with())


def _evaluation() -> list[store.Sample]:
    return _pages("evaluation", EVALUATION_PAGES, seed=2)


@cache
def _pages(split: str, count: int, seed: int) -> list[store.Sample]:
    def build() -> Iterator[store.Sample]:
        rng = np.random.default_rng(seed)
        return (_page(rng, split, *SIZES[index % len(SIZES)]) for index in range(count))

    return store.samples(f"ocr_det-{split}", _key(), build)


def _page(rng: np.random.Generator, split: str, height: int, width: int) -> store.Sample:
    """Shaded paper with lines and boxes as clutter and text in rows of several sizes."""
    from PIL import Image, ImageDraw, ImageFilter

    low, high = np.sort(rng.integers(165, 256, (2, 3)), axis=0)
    ramp = np.linspace(0, 1, width)[None, :, None] * rng.random()
    ramp = ramp + np.linspace(0, 1, height)[:, None, None] * (1 - ramp.max())
    image = Image.fromarray((low + (high - low) * ramp).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(2, 7)):
        _clutter(rng, draw, height, width)
    boxes = []
    y = int(rng.integers(8, 40))
    while y < height - 50:
        size = int(rng.choice([12, 14, 16, 18, 22, 28, 36]))
        x = int(rng.integers(8, width // 3))
        while x < width - 80:
            box = _write(rng, draw, split, x, y, size, width)
            if box is None:
                break
            boxes.append(box)
            x = box[2] + int(rng.integers(30, 140))
        y += int(size * rng.uniform(1.5, 3.2))
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.0)))
    noisy = text_images.add_noise(rng, np.asarray(image), rng.uniform(0, 30))
    return {"image": noisy, "boxes": np.array(boxes, np.int32)}


def _clutter(rng: np.random.Generator, draw: ImageDraw.ImageDraw, height: int, width: int) -> None:
    """A line, an empty frame or an ellipse without any text."""
    (x0, x1), (y0, y1) = np.sort(rng.integers(0, width, 2)), np.sort(rng.integers(0, height, 2))
    colour = tuple(int(value) for value in rng.integers(60, 200, 3))
    thickness = int(rng.integers(1, 4))
    shape = rng.integers(3)
    if shape == 0:
        draw.line((x0, y0, x1, y1), fill=colour, width=thickness)
    elif shape == 1:
        draw.rectangle((x0, y0, x1, y1), outline=colour, width=thickness)
    else:
        draw.ellipse((x0, y0, x1, y1), outline=colour, width=thickness)


def _write(
    rng: np.random.Generator,
    draw: ImageDraw.ImageDraw,
    split: str,
    x: int,
    y: int,
    size: int,
    width: int,
) -> tuple[int, int, int, int] | None:
    """Writes one phrase; its box (left, top, right, bottom), or None where it does not fit."""
    faces = text_images.fonts()
    face = text_images.font(faces[rng.integers(len(faces))], size)
    text = text_images.phrase(rng, split)
    ink = tuple(int(value) for value in rng.integers(0, 120, 3))
    left, top, right, bottom = (round(value) for value in draw.textbbox((x, y), text, font=face))
    if right > width - 6:
        return None
    draw.text((x, y), text, font=face, fill=ink)
    return left, top, right, bottom


CASE = Case(
    name="ocr_det",
    metric="text-mask IoU with float",
    model_path=model_path,
    calibration=calibration,
    scores=scores,
    latency_inputs=latency_inputs,
    max_drop="0.03",
    goal=1.3,
    secondary={"F-measure of drawn lines": found_lines},
)
evaluate = CASE.evaluate
