from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import quantization, timing
from benchmarks.environment import describe
from benchmarks.methods import Method, all_methods
from benchmarks.table import Row, best_of_groups, markdown, write
from benchmarks.timing import Ratio, Timed, TimingError
from benchmarks.zoo import Case, load

ROW = Row(
    model="fashion_mnist",
    group="peer",
    setting="one",
    runtime="onnxruntime",
    failure="",
    size_bytes=1_500_000,
    compile_seconds=3.2,
    peak_bytes=200_000_000,
    quality=0.94,
    difference=-0.004,
    difference_low=-0.01,
    difference_high=0.002,
    within_budget=True,
    speedup=1.5,
    speedup_low=1.4,
    speedup_high=1.6,
    milliseconds=2.0,
)
FAILED = replace(ROW, setting="crash", failure="exit code 1: a | b", within_budget=False)


def test_the_best_setting_is_the_fastest_inside_the_budget() -> None:
    fast_but_wrong = replace(ROW, setting="two", speedup=3.0, quality=0.5, within_budget=False)
    slower = replace(ROW, setting="three", speedup=1.1, quality=0.95)
    assert best_of_groups([FAILED, fast_but_wrong, slower, ROW]) == [ROW]


def test_outside_the_budget_the_best_setting_is_the_most_accurate() -> None:
    wrong = replace(ROW, setting="two", speedup=3.0, quality=0.5, within_budget=False)
    less_wrong = replace(wrong, setting="three", speedup=1.0, quality=0.6)
    assert best_of_groups([wrong, FAILED, less_wrong]) == [less_wrong]
    assert best_of_groups([FAILED]) == [FAILED]


def test_markdown_shows_figures_failures_and_the_machine() -> None:
    float_row = replace(ROW, group="float", setting="", speedup=1.0, difference=0.0)
    ours = replace(ROW, group="compress", setting="", speedup=2.0)
    environment = describe()
    rows = [float_row, ours, ROW, FAILED]
    text = markdown([load("fashion_mnist")], rows, environment, rounds=7)
    assert environment.cpu in text
    assert "2.00x at 0.9400" in text
    assert "1.50x at 0.9400 (peer)" in text
    assert "-0.0040 [-0.0100, +0.0020]" in text
    assert "failed: exit code 1: a / b" in text
    tables = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.count("|") for line in tables if "fashion_mnist" not in line} == {6, 10}


def test_what_a_run_takes_is_told_apart() -> None:
    float_row = replace(ROW, group="float", setting="", size_bytes=2_000_000)
    ours = replace(
        ROW,
        group="compress",
        compile_seconds=60,
        latency_seconds=25,
        quality_seconds=10,
        rounding_seconds=8,
    )
    nncf = replace(ROW, group="NNCF in onnxruntime", compile_seconds=30)
    text = markdown([load("fashion_mnist")], [float_row, ours, nncf], describe(), rounds=7)
    assert "| fashion_mnist | 60 | 25 | 10 | 8 | 17 | 30 | 200 | 506 |" in text


def test_the_steps_of_a_run_are_read_from_its_report(tmp_path: Path) -> None:
    steps = {
        "reading the model": 1.0,
        "widening narrow convolutions": 2.0,
        "measuring layers on this machine": 3.0,
        "evaluating the model as given": 4.0,
        "trying candidates": 6.0,
        "measuring what each rounding costs": 7.0,
        "timing candidates against float": 5.0,
    }
    report = {"steps": [{"name": name, "seconds": taken} for name, taken in steps.items()]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert quantization._own_seconds(tmp_path / "report.json") == {
        "latency_seconds": 10.0,
        "quality_seconds": 10.0,
        "rounding_seconds": 7.0,
    }


def test_json_holds_every_row(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "table.md", [load("fashion_mnist")], [ROW, FAILED], describe(), 3)
    figures = json.loads((tmp_path / "deep" / "table.json").read_text())
    assert figures["format_version"] == 1
    assert [row["setting"] for row in figures["rows"]] == ["one", "crash"]
    assert figures["environment"]["versions"]["onnxruntime"]


@pytest.fixture
def methods(tmp_path: Path) -> list[Method]:
    """Float, a copy of it, and a peer that crashes."""
    import sys

    def copies(case: Case, output: Path) -> list[str]:
        code = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2] + '/model.onnx')"
        return [sys.executable, "-c", code, str(case.model_path()), str(output)]

    def crashes(case: Case, output: Path) -> list[str]:
        return [sys.executable, "-c", "raise SystemExit('boom')"]

    return [
        next(iter(all_methods())),
        Method("copy", "", "onnxruntime", "model.onnx", copies),
        Method("crash", "", "onnxruntime", "model.onnx", crashes),
    ]


def test_a_comparison_survives_a_failing_peer_and_is_resumed(
    methods: list[Method], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = load("fashion_mnist")
    environment = describe()
    quantization.results_folder().mkdir(parents=True)
    rows = quantization.compare(case, methods, environment, rounds=1)
    floating, copy, crash = rows
    assert floating.quality == copy.quality > 0.9
    assert copy.difference == 0
    assert copy.within_budget
    assert copy.speedup > 0
    assert crash.failure == "exit code 1: boom"

    def never(*_: object, **__: object) -> None:
        pytest.fail("done a second time")

    monkeypatch.setattr(timing, "compare", never)
    monkeypatch.setattr("benchmarks.build.run_measured", never)
    monkeypatch.setattr(quantization.subprocess, "run", never)
    assert quantization.compare(case, methods, environment, rounds=1) == rows


def test_one_artifact_that_kills_the_timing_does_not_take_the_others_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fake(
        case: str, reference: Timed, artifacts: dict[str, Timed], rounds: int
    ) -> dict[str, Ratio]:
        if "bad" in artifacts:
            raise TimingError("killed by signal 11")
        return {name: Ratio(2.0, 1.9, 2.1, 1.0) for name in artifacts}

    monkeypatch.setattr(timing, "compare", fake)
    quantization.results_folder().mkdir(parents=True)
    artifacts = {}
    for name in ("good", "bad"):
        (tmp_path / name).write_text(name)
        artifacts[name] = Timed(tmp_path / name)
    case = load("fashion_mnist")
    reference = Timed(case.model_path())
    ratios = quantization.time_all(case, reference, artifacts, describe(), rounds=1)
    assert ratios["good"] == Ratio(2.0, 1.9, 2.1, 1.0)
    assert ratios["bad"] == "timing failed: killed by signal 11"
