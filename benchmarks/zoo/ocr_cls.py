"""PP-OCR text direction on rendered, noisy lines: share of upright and turned lines told right."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.zoo import fetch, store, text_images
from benchmarks.zoo.case import Arrays, Case, Run, Scores

HEIGHT, WIDTH = 48, 192
EVALUATION_LINES = 1500
CALIBRATION_LINES = 64
NOISE = 18.0


def model_path() -> Path:
    """The classifier: x (1, 3, 48, 192) -> probabilities of 0 and 180 degrees (1, 2)."""
    root = fetch.wheel(fetch.RAPIDOCR)
    return root / "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"


def calibration() -> Iterator[Arrays]:
    """Lines of other words, each upright and turned."""
    for sample in _lines("calibration", CALIBRATION_LINES, seed=31):
        for turned in (False, True):
            yield {"x": _input(sample["image"], turned)}


def scores(run: Run) -> Scores:
    """1 where the direction was told right, else 0; every line upright, then turned; (3000,)."""
    result = []
    for sample in _lines("evaluation", EVALUATION_LINES, seed=3):
        for turned in (False, True):
            (output,) = run({"x": _input(sample["image"], turned)}).values()
            result.append(float(int(output[0].argmax()) == int(turned)))
    return np.array(result)


def latency_inputs() -> Arrays:
    """One upright line."""
    return {"x": _input(_lines("calibration", CALIBRATION_LINES, seed=31)[0]["image"], False)}


def _input(image: npt.NDArray[np.generic], turned: bool) -> npt.NDArray[np.float32]:
    gray = image.astype(np.uint8)
    return text_images.network_input(gray[::-1, ::-1] if turned else gray, WIDTH)


@cache
def _lines(split: str, count: int, seed: int) -> list[store.Sample]:
    def build() -> Iterator[store.Sample]:
        rng = np.random.default_rng(seed)
        for _ in range(count):
            image = text_images.line(rng, text_images.phrase(rng, split), NOISE)
            yield {"image": text_images.scaled(image, HEIGHT, WIDTH)}

    key = store.key_of(sys.modules[__name__], text_images, text_images.drawn_with())
    return store.samples(f"ocr_cls-{split}", key, build)


CASE = Case(
    name="ocr_cls",
    metric="direction accuracy",
    model_path=model_path,
    calibration=calibration,
    scores=scores,
    latency_inputs=latency_inputs,
    max_drop="0.003",
    goal=1.0,
    secondary={},
)
evaluate = CASE.evaluate
