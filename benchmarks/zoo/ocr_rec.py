"""PP-OCRv4 text recognition on rendered, noisy lines: share of lines read without an error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks.zoo import fetch, store, text_images
from benchmarks.zoo.case import Arrays, Case, Run, Scores

HEIGHT = 48
MIN_WIDTH = 320
EVALUATION_LINES = 800
CALIBRATION_LINES = 96
# Chosen so that the float model reads nine lines in ten: easy lines cannot tell methods apart.
NOISE = 48.0


def model_path() -> Path:
    """The recogniser: x (1, 3, 48, width) -> class probabilities (1, steps, 6625)."""
    root = fetch.wheel(fetch.RAPIDOCR)
    return root / "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"


@cache
def alphabet() -> tuple[str, ...]:
    """The character of each class; class 0 is the blank of the CTC decoding."""
    model = onnx.load(model_path(), load_external_data=False)
    stored = {prop.key: prop.value for prop in model.metadata_props}
    return ("", *stored["character"].splitlines(), " ")


def decode(probabilities: npt.NDArray[np.generic]) -> str:
    """Greedy CTC decoding of (steps, classes)."""
    best = probabilities.argmax(axis=-1)
    changed = np.concatenate([[True], best[1:] != best[:-1]])
    return "".join(alphabet()[index] for index in best[changed & (best != 0)]).strip()


def calibration() -> Iterator[Arrays]:
    """Lines of other words, as wide as they come."""
    for sample in _lines("calibration", CALIBRATION_LINES, seed=11):
        yield {"x": _input(sample["image"])}


def scores(run: Run) -> Scores:
    """1 where the line was read exactly, else 0; shape (800,)."""
    result = []
    for sample in _lines("evaluation", EVALUATION_LINES, seed=1):
        (output,) = run({"x": _input(sample["image"])}).values()
        result.append(float(decode(output[0]) == str(sample["text"])))
    return np.array(result)


def latency_inputs() -> Arrays:
    """One line of the most frequent width, 320."""
    fitting = (
        sample["image"]
        for sample in _lines("calibration", CALIBRATION_LINES, seed=11)
        if 240 <= sample["image"].shape[1] <= MIN_WIDTH
    )
    return {"x": _input(next(fitting))}


def _input(image: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    gray = image.astype(np.uint8)
    return text_images.network_input(gray, max(MIN_WIDTH, gray.shape[1]))


@cache
def _lines(split: str, count: int, seed: int) -> list[store.Sample]:
    def build() -> Iterator[store.Sample]:
        rng = np.random.default_rng(seed)
        for _ in range(count):
            text = text_images.phrase(rng, split)
            image = text_images.line(rng, text, NOISE)
            yield {"image": text_images.scaled(image, HEIGHT), "text": np.array(text)}

    key = store.key_of(sys.modules[__name__], text_images, text_images.drawn_with())
    return store.samples(f"ocr_rec-{split}", key, build)


CASE = Case(
    name="ocr_rec",
    metric="exact-line accuracy",
    model_path=model_path,
    calibration=calibration,
    scores=scores,
    latency_inputs=latency_inputs,
    max_drop="0.01",
    goal=1.31,
    secondary={},
)
evaluate = CASE.evaluate
