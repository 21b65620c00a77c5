"""compress bench: latencies in a table."""

from __future__ import annotations

import json
from typing import Any

from compress.report.schema import Bench, BenchEntry, Latency, Ratio

Invoke = Any

BENCH = Bench(
    target="host",
    threads=2,
    inputs="made up from shapes",
    models=[
        BenchEntry(
            name="model.onnx",
            size_bytes=700_123,
            latency=Latency(median_ms=0.2641, p10_ms=0.2602, p90_ms=0.2719, runs=150),
        ),
        BenchEntry(
            name="out/model.onnx",
            size_bytes=201_456,
            latency=Latency(median_ms=0.1612, p10_ms=0.1588, p90_ms=0.1701, runs=150),
            speedup=Ratio(median=1.64, low=1.6, high=1.7, rounds=5),
        ),
    ],
)


def test_the_options_reach_the_api(invoke: Invoke, api: Any) -> None:
    api.answer = BENCH
    done = invoke(
        *("bench", "model.onnx", "--against", "out/model.onnx", "--data", "x.npz"),
        *("--threads", "2", "--shape", "x=1x3"),
    )
    assert done.exit_code == 0
    [(verb, positional, options)] = api.calls
    assert (verb, positional) == ("bench", ("model.onnx",))
    options.pop("progress")
    assert options == {
        "against": "out/model.onnx",
        "data": "x.npz",
        "target": "host",
        "threads": 2,
        "factory": None,
        "shapes": {"x": (1, 3)},
        "fixed_inputs": None,
        "trust_pickle": False,
    }


def test_both_models_and_their_ratio(invoke: Invoke, api: Any) -> None:
    api.answer = BENCH
    lines = invoke("bench", "model.onnx", "--against", "out/model.onnx").stdout.splitlines()
    assert lines[1].split() == ["model.onnx", "0.264", "ms", "(0.260-0.272)", "700", "KB", "150"]
    assert " ".join(lines[2].split()) == (
        "out/model.onnx 0.161 ms (0.159-0.170) 1.64x as fast (1.60-1.70) 201 KB 150"
    )
    assert lines[3] == "host, 2 threads, made up from shapes"


def test_json(invoke: Invoke, api: Any) -> None:
    api.answer = BENCH
    content = json.loads(invoke("bench", "model.onnx", "--json").stdout)
    assert Bench.model_validate(content) == BENCH


def test_a_number_of_threads_that_cannot_be(invoke: Invoke, api: Any) -> None:
    assert invoke("bench", "model.onnx", "--threads", "0").exit_code == 2
