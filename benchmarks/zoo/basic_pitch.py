"""Basic Pitch on synthesised notes: average precision of note onsets."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.zoo import fetch, store
from benchmarks.zoo.case import Arrays, Case, Run, Scores

SAMPLE_RATE = 22050
FRAME = 256
WINDOW = 43844
# The published pipeline drops 15 frames at either end of each window and lets windows overlap.
TRIM = 15
HOP = WINDOW - 2 * TRIM * FRAME
WINDOWS_PER_CLIP = 4
CLIP = WINDOWS_PER_CLIP * HOP
LOWEST_KEY = 21
TOLERANCE_SECONDS = 0.05
# Piano, electric piano, guitar, violin, trumpet, flute (General MIDI numbers).
PROGRAMS = (0, 4, 24, 40, 56, 73)
EVALUATION_CLIPS = 48
CALIBRATION_CLIPS = 12
INPUT = "serving_default_input_2:0"
ONSETS = "StatefulPartitionedCall:2"

Notes = npt.NDArray[np.float64]


def model_path() -> Path:
    """The transcriber: audio (1, 43844, 1) at 22050 Hz -> onsets, notes (1, 172, 88), contour."""
    root = fetch.wheel(fetch.BASIC_PITCH)
    return root / "basic_pitch/saved_models/icassp_2022/nmp.onnx"


def calibration() -> Iterator[Arrays]:
    """Windows of other clips."""
    for clip in _clips("calibration", CALIBRATION_CLIPS, seed=41):
        for window in _windows(clip["audio"]):
            yield {INPUT: window}


def scores(run: Run) -> Scores:
    """Average precision of the onsets of each clip; shape (48,)."""
    clips = _clips("evaluation", EVALUATION_CLIPS, seed=4)
    found = (_onsets(run, clip) for clip in clips)
    notes = (clip["notes"].astype(float) for clip in clips)
    return np.array([_average_precision(*pair) for pair in zip(found, notes, strict=True)])


def latency_inputs() -> Arrays:
    """One window with notes throughout."""
    clip = _clips("calibration", CALIBRATION_CLIPS, seed=41)[0]
    return {INPUT: list(_windows(clip["audio"]))[1]}


def _windows(audio: npt.NDArray[np.generic]) -> Iterator[npt.NDArray[np.float32]]:
    padded = np.pad(audio.astype(np.float32), (TRIM * FRAME, TRIM * FRAME))
    for start in range(0, CLIP, HOP):
        yield padded[start : start + WINDOW][None, :, None]


def _onsets(run: Run, clip: store.Sample) -> list[tuple[float, float, int]]:
    """(score, seconds, key) of every local maximum in time of the onset map."""
    found = []
    for index, window in enumerate(_windows(clip["audio"])):
        activation = np.asarray(run({INPUT: window})[ONSETS][0], np.float64)
        inner = activation[TRIM:-TRIM]
        before, after = activation[TRIM - 1 : -TRIM - 1], activation[TRIM + 1 : -TRIM + 1]
        for frame, pitch in np.argwhere((inner >= before) & (inner > after)):
            seconds = (index * HOP + frame * FRAME) / SAMPLE_RATE
            found.append((float(inner[frame, pitch]), seconds, int(pitch) + LOWEST_KEY))
    return found


def _average_precision(found: list[tuple[float, float, int]], notes: Notes) -> float:
    """Area under precision-recall: the mean over the notes of the precision at which each is
    found. A detection counts for the nearest unclaimed note of its key within 50 ms."""
    free = np.ones(len(notes), bool)
    precisions: list[float] = []
    for rank, (_, seconds, key) in enumerate(sorted(found, key=lambda one: -one[0]), start=1):
        distance = np.abs(notes[:, 0] - seconds)
        near = np.flatnonzero(free & (notes[:, 1] == key) & (distance <= TOLERANCE_SECONDS))
        if len(near):
            free[near[distance[near].argmin()]] = False
            precisions.append((len(precisions) + 1) / rank)
    return sum(precisions) / len(notes)


@cache
def _clips(split: str, count: int, seed: int) -> list[store.Sample]:
    def build() -> Iterator[store.Sample]:
        rng = np.random.default_rng(seed)
        for index in range(count):
            notes = _melody(rng)
            yield {"audio": _render(notes, PROGRAMS[index % len(PROGRAMS)]), "notes": notes}

    drawn_with = f"tinysoundfont {version('tinysoundfont')} {fetch.SOUNDFONT.label}"
    return store.samples(
        f"basic_pitch-{split}", store.key_of(sys.modules[__name__], drawn_with), build
    )


def _melody(rng: np.random.Generator) -> Notes:
    """Chords of one to three notes, rows of (onset seconds, key, duration, velocity)."""
    notes, now, end = [], 0.2, CLIP / SAMPLE_RATE - 0.3
    while now < end:
        for key in rng.choice(np.arange(48, 84), rng.integers(1, 4), replace=False):
            notes.append((now, key, rng.uniform(0.2, 0.8), rng.integers(50, 111)))
        now += rng.uniform(0.15, 0.5)
    return np.array(notes, np.float64)


def _render(notes: Notes, program: int) -> npt.NDArray[np.float16]:
    """Mono audio of `CLIP` samples, peak 0.7; float16 keeps the stored file small."""
    import tinysoundfont

    synth = tinysoundfont.Synth(samplerate=SAMPLE_RATE, gain=-6)
    font = fetch.deb(fetch.SOUNDFONT) / "usr/share/sounds/sf2/TimGM6mb.sf2"
    synth.program_select(0, synth.sfload(str(font)), 0, program)
    events = [(onset, 1, int(key), int(velocity)) for onset, key, _, velocity in notes]
    events += [(onset + length, 0, int(key), 0) for onset, key, length, _ in notes]
    audio, position = np.zeros(CLIP, np.float32), 0
    for seconds, starts, key, velocity in [*sorted(events), (CLIP / SAMPLE_RATE, 0, 0, 0)]:
        until = min(round(seconds * SAMPLE_RATE), CLIP)
        if until > position:
            stereo = np.frombuffer(bytes(synth.generate(until - position)), np.float32)
            audio[position:until] = stereo.reshape(-1, 2).mean(axis=1)
            position = until
        if starts:
            synth.noteon(0, key, velocity)
        else:
            synth.noteoff(0, key)
    audio *= 0.7 / np.abs(audio).max()
    return audio.astype(np.float16)


CASE = Case(
    name="basic_pitch",
    metric="mean average precision of onsets",
    model_path=model_path,
    calibration=calibration,
    scores=scores,
    latency_inputs=latency_inputs,
    max_drop="1%",
    goal=1.0,
    secondary={},
)
evaluate = CASE.evaluate
