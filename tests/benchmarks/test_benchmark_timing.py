from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.timing import Timed, TimingError, burst_medians, compare, summarize
from benchmarks.zoo import load


def _work(steps: int) -> int:
    return sum(range(steps))


def test_interleaved_bursts_find_a_ratio() -> None:
    calls = {"": lambda: _work(60_000), "half": lambda: _work(30_000)}
    medians = burst_medians(calls, seed=0, bursts=5)
    assert 1.3 < medians[""] / medians["half"] < 3.0


def test_ratios_are_taken_within_a_process() -> None:
    # The second process ran at half the clock; the ratios agree nevertheless.
    medians = [{"": 2.0, "a": 1.0}, {"": 4.0, "a": 2.0}, {"": 2.2, "a": 1.0}]
    ratio = summarize(medians, "a")
    assert ratio.speedup == pytest.approx(2.0)
    assert ratio.low == pytest.approx(2.0)
    assert 2.1 < ratio.high <= 2.2
    assert ratio.milliseconds == pytest.approx(1000.0)


def test_the_same_model_is_as_fast_as_itself() -> None:
    path = load("fashion_mnist").model_path()
    ratios = compare("fashion_mnist", Timed(path), {"again": Timed(path)}, rounds=1)
    assert 0.5 < ratios["again"].speedup < 2
    assert ratios["again"].milliseconds > 0


def test_an_artifact_that_cannot_be_loaded_is_a_timing_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    reference = Timed(load("fashion_mnist").model_path())
    with pytest.raises(TimingError, match=r"[Ff]ail|INVALID|[Pp]rotobuf"):
        compare("fashion_mnist", reference, {"broken": Timed(broken)}, rounds=1)
