"""compress plan: options, what the screen says, and the folder."""

from __future__ import annotations

import functools
import json
import os
import types
from pathlib import Path
from typing import Any

import onnx
import pytest
import small_networks

from compress.errors import ModelError
from compress.report.memory_plan import BaselineRecord, MemoryPlan
from compress.stages.inspection import Source
from compress.stages.planning import Planned, make_plan

Invoke = Any


@pytest.fixture(scope="module")
def found() -> Planned:
    return make_plan(
        small_networks.cnn(),
        Source(shapes={"image": (1, 3, 12, 12)}),
        sram=2**20,
        target="ethos-u55-256",
        time_limit_s=1.0,
    )


@pytest.fixture
def planner(api: Any, found: Planned) -> Any:
    """The stand-in for compress.api, which answers with a plan."""
    api.plan = functools.partial(api._called, "plan")
    api.answer = found
    return api


def changed(found: Planned, **fields: Any) -> types.SimpleNamespace:
    return types.SimpleNamespace(plan=found.plan.model_copy(update=fields))


def test_the_options_reach_the_api(invoke: Invoke, planner: Any) -> None:
    done = invoke(
        *("plan", "net.pt", "--model", "net.py:build", "--shape", "x=1x3", "--set", "a=1"),
        *("--sram", "256KiB", "--target", "gap8", "--time-limit", "2m", "--seed", "7"),
        *("--no-verify", "--trust-pickle", "--align", "64"),
    )
    assert done.exit_code == 0, done.output
    ((verb, arguments, options),) = planner.calls
    assert verb == "plan"
    assert arguments == ("net.pt",)
    assert options.pop("progress") is not None
    assert options == {
        "sram": 256 * 1024,
        "target": "gap8",
        "align": 64,
        "factory": "net.py:build",
        "shapes": {"x": (1, 3)},
        "fixed_inputs": {"a": "1"},
        "trust_pickle": True,
        "time_limit_s": 120.0,
        "seed": 7,
        "verify": False,
    }


def test_what_is_left_out(invoke: Invoke, planner: Any) -> None:
    assert invoke("plan", "net.onnx", "--sram", "1MB").exit_code == 0
    options = planner.calls[0][2]
    assert options["sram"] == 1_000_000
    assert options["target"] is None
    assert options["align"] == 16
    assert options["verify"]
    assert options["time_limit_s"] == 60.0


@pytest.mark.parametrize("size", ["0", "-1", "big", "256Kb/s", "1e400"])
def test_sizes_that_are_none(invoke: Invoke, planner: Any, size: str) -> None:
    done = invoke("plan", "net.onnx", "--sram", size)
    assert done.exit_code == 2
    assert planner.calls == []


def test_a_size_or_a_device_is_needed(invoke: Invoke, planner: Any) -> None:
    done = invoke("plan", "net.onnx")
    assert done.exit_code == 2
    assert "--sram" in done.stderr


def test_the_screen(invoke: Invoke, planner: Any) -> None:
    text = invoke("plan", "net.onnx", "--sram", "1MiB").stdout
    first = text.splitlines()[0]
    assert first.startswith("1 MiB of scratchpad, whole tensors: 80.6 KB on and off the chip")
    assert first.endswith("0 bytes of them extra (no plan needs less)")
    assert "largest operator" in text
    assert "73,856  c" in text
    assert "ms at ethos-u55-256's bandwidth" in text
    assert "executed in one byte buffer: the outputs equal onnxruntime" in text


def test_how_good_a_plan_is(invoke: Invoke, planner: Any, found: Planned) -> None:
    def first_line(status: str, **traffic: Any) -> str:
        moved = found.plan.traffic.model_copy(update={"extra_bytes": 1000} | traffic)
        planner.answer = changed(found, traffic=moved, status=status)
        return str(invoke("plan", "net.onnx", "--sram", "1MiB", "--quiet").stdout)

    assert first_line("optimal").endswith("(proven optimal for whole tensors)\n")
    assert first_line("feasible").endswith("(no bound is known)\n")
    bounded = first_line("feasible", bound_bytes=900, gap=0.1)
    assert bounded.endswith("(within 10.0% of the proven bound)\n")
    assert bounded.count("\n") == 1


def test_baselines_and_advice(invoke: Invoke, planner: Any, found: Planned) -> None:
    baselines = [
        BaselineRecord(order="default order", policy="Belady", extra_bytes=12345),
        BaselineRecord(order="least peak", policy="greedy", extra_bytes=None),
    ]
    bounds = found.plan.bounds.model_copy(update={"baselines": baselines})
    planner.answer = changed(found, bounds=bounds, advisory=True)
    text = invoke("plan", "net.onnx", "--sram", "1MiB").stdout
    assert "12,345" in text
    assert "no plan" in text
    assert "the addresses mean nothing" in text


def test_json_alone(invoke: Invoke, planner: Any, found: Planned) -> None:
    text = invoke("plan", "net.onnx", "--sram", "1MiB", "--json").stdout
    assert MemoryPlan.model_validate(json.loads(text)) == found.plan


def test_json_is_alone_on_standard_output(
    invoke: Invoke, planner: Any, found: Planned, capfd: pytest.CaptureFixture[str]
) -> None:
    """Solvers print from C, past Python's streams."""

    def noisy(*_: Any, **__: Any) -> Planned:
        os.write(1, b"Welcome to the solver\n")
        print("hello")
        return found

    planner.plan = noisy
    done = invoke("plan", "net.onnx", "--sram", "1MiB", "--json")
    assert MemoryPlan.model_validate(json.loads(done.stdout)) == found.plan
    out, err = capfd.readouterr()
    assert "solver" not in out
    assert "Welcome to the solver" in err


def test_ties_are_told(invoke: Invoke, planner: Any, found: Planned) -> None:
    proof = found.plan.proof.model_copy(update={"differing": 3, "exact": False})
    planner.answer = changed(found, proof=proof)
    text = invoke("plan", "net.onnx", "--sram", "1MiB").stdout
    assert "but for 3 elements halfway between two levels, rounded the other way" in text


def test_the_folder(invoke: Invoke, planner: Any) -> None:
    for _ in range(2):
        assert invoke("plan", "net.onnx", "--sram", "1MiB", "-o", "out").exit_code == 0
    names = {file.name for file in Path("out").iterdir()}
    assert names == {"memory_plan.json", "memory_plan.h", "memory_plan.svg", "model.onnx"}
    onnx.checker.check_model(onnx.load("out/model.onnx"))


def test_a_folder_with_other_things_is_refused_before_the_work(
    invoke: Invoke, planner: Any
) -> None:
    Path("out").mkdir()
    Path("out/thesis.txt").write_text("words")
    done = invoke("plan", "net.onnx", "--sram", "1MiB", "-o", "out")
    assert done.exit_code == 2
    assert planner.calls == []
    assert invoke("plan", "net.onnx", "--sram", "1MiB", "-o", "out", "--force").exit_code == 0
    assert not Path("out/thesis.txt").exists()


def test_errors_are_one_line(invoke: Invoke, planner: Any) -> None:
    planner.answer = ModelError("a scratchpad of 64 bytes is too small: operator c needs 9,000")
    done = invoke("plan", "net.onnx", "--sram", "64", "-o", "out")
    assert done.exit_code == 3
    assert done.stderr.splitlines() == [
        "error: a scratchpad of 64 bytes is too small: operator c needs 9,000"
    ]
    assert not Path("out").exists()
