"""Latency of whole models, in processes of their own."""

from __future__ import annotations

import subprocess

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.errors import DeviceError
from compress.hardware import timing
from compress.hardware.timing import BURST, Samples, Speedup, speedup, time_models

TIMES = st.lists(st.floats(0.01, 100), min_size=1, max_size=6)


def model(path, width=32, operator="Relu"):
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>'
        f" g (float[N,{width}] x) => (float[N,{width}] y)"
        f" {{ a = MatMul (x, w) y = {operator} (a) }}"
    )
    weight = np.ones((width, width), np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    path.write_bytes(proto.SerializeToString())
    return path


FEEDS = {"x": np.ones((2, 32), np.float32)}


def test_two_models_in_two_processes(tmp_path):
    models = {"small": model(tmp_path / "a.onnx"), "other": model(tmp_path / "b.onnx")}
    advanced = []
    found = time_models(models, FEEDS, restarts=2, seconds=0.05, advance=lambda: advanced.append(1))
    assert list(found) == ["small", "other"]
    assert len(advanced) == 2
    for samples in found.values():
        assert len(samples.by_process) == 2
        for times in samples.by_process:
            # the first of each burst is dropped
            assert len(times) % (BURST - 1) == 0
            assert len(times) >= timing.MIN_BURSTS * (BURST - 1)
            assert all(0 <= t < 1000 for t in times)
        assert samples.count == sum(len(t) for t in samples.by_process)
    counts = {tuple(map(len, s.by_process)) for s in found.values()}
    # in turns: all of them the same number of times
    assert len(counts) == 1


def test_several_threads_are_timed_too(tmp_path):
    found = time_models(
        {"m": model(tmp_path / "a.onnx")}, FEEDS, restarts=1, seconds=0.02, threads=2
    )
    assert min(found["m"].by_process[0]) > 0


def test_a_model_that_does_not_load_is_named(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"this is no model")
    with pytest.raises(DeviceError, match=r"broken\.onnx") as caught:
        time_models({"0": model(tmp_path / "a.onnx"), "1": broken}, FEEDS, restarts=1)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_model_that_does_not_run_is_named(tmp_path):
    wide = model(tmp_path / "wide.onnx", width=64)
    with pytest.raises(DeviceError, match=r"wide\.onnx") as caught:
        time_models({"0": model(tmp_path / "a.onnx"), "1": wide}, FEEDS, restarts=1)
    assert "\n" not in str(caught.value)


def test_a_process_that_dies_or_hangs_is_one_line(tmp_path, monkeypatch):
    path = model(tmp_path / "a.onnx")

    def died(*arguments, **options):
        return subprocess.CompletedProcess(arguments, -11, "", "")

    monkeypatch.setattr(timing.subprocess, "run", died)
    with pytest.raises(DeviceError, match="signal 11"):
        time_models({"m": path}, FEEDS)

    def hung(*arguments, **options):
        raise subprocess.TimeoutExpired("python", 600)

    monkeypatch.setattr(timing.subprocess, "run", hung)
    with pytest.raises(DeviceError, match="took longer"):
        time_models({"m": path}, FEEDS)

    def silent(*arguments, **options):
        return subprocess.CompletedProcess(arguments, 1, "", "")

    monkeypatch.setattr(timing.subprocess, "run", silent)
    with pytest.raises(DeviceError, match="no message"):
        time_models({"m": path}, FEEDS)


def test_figures_of_samples():
    samples = Samples(((1.0, 2.0, 9.0), (4.0, 4.0, 5.0, 6.0)))
    np.testing.assert_array_equal(samples.medians(), [2.0, 4.5])
    assert samples.count == 7
    assert samples.percentile(0) == 1.0
    assert samples.percentile(50) == 4.0
    assert samples.percentile(100) == 9.0


def test_speed_is_compared_within_a_process():
    """A machine that gets twice as slow for both changes nothing."""
    reference = Samples(((10.0, 10.0), (20.0, 20.0), (40.0,)))
    candidate = Samples(((5.0, 5.0), (10.0, 10.0), (20.0,)))
    assert speedup(reference, candidate) == Speedup(2.0, 2.0, 2.0, 3)


@given(st.lists(st.tuples(TIMES, TIMES), min_size=1, max_size=5))
def test_speedups_are_ordered_and_consistent(processes):
    first = Samples(tuple(tuple(a) for a, _ in processes))
    second = Samples(tuple(tuple(b) for _, b in processes))
    found = speedup(first, second)
    assert found.low <= found.median * (1 + 1e-9)
    assert found.median <= found.high * (1 + 1e-9)
    assert found.processes == len(processes)
    ratios = [np.median(a) / np.median(b) for a, b in processes]
    assert found.median == pytest.approx(np.median(ratios))
    itself = speedup(first, first)
    assert (itself.low, itself.median, itself.high) == (1.0, 1.0, 1.0)
