"""compress run: what it asks for, what it prints, and where it refuses to write."""

from __future__ import annotations

import json
import os
import re
import tempfile
import types
from pathlib import Path
from typing import Any

import pytest

from compress.passes.base import Budget

Invoke = Any
EVERYTHING = """
run nets/model.pt --model nets/net.py:build --target raspberry-pi-5 --data calib.npz
--eval eval.py:evaluate --max-drop 1% --max-latency 5ms --speedup 2x --max-size 4MB
--shape x=1x3x224x224 --shape mask=7 --set training=false --objective size
--techniques quantize,prune --labels --time-limit 10m --seed 7 --no-resume --trust-pickle -o out
"""
FILES = {"model.onnx", "report.json", "report.html", "plan.json"}


def test_all_options_reach_the_api(invoke: Invoke, api: Any, result: types.SimpleNamespace) -> None:
    api.answer = result
    arguments = EVERYTHING.split()
    done = invoke(*arguments)
    assert done.exit_code == 0, done.output
    [(verb, positional, options)] = api.calls
    assert (verb, positional) == ("run", ("nets/model.pt",))
    options.pop("progress")
    assert options == {
        "target": "raspberry-pi-5",
        "data": "calib.npz",
        "evaluate": "eval.py:evaluate",
        "budget": Budget(
            max_drop=0.01,
            absolute_drop=False,
            max_latency_ms=5.0,
            speedup=2.0,
            max_bytes=4_000_000,
        ),
        "factory": "nets/net.py:build",
        "shapes": {"x": (1, 3, 224, 224), "mask": (7,)},
        "fixed_inputs": {"training": "false"},
        "objective": "size",
        "techniques": ("quantize", "prune"),
        "labels": True,
        "time_limit_s": 600.0,
        "seed": 7,
        "resume": False,
        "trust_pickle": True,
        "command": "compress " + " ".join(arguments),
    }


def test_defaults(invoke: Invoke, api: Any, result: types.SimpleNamespace) -> None:
    api.answer = result
    invoke("run", "my model.onnx", "-o", "out")
    options = api.calls[0][2]
    options.pop("progress")
    assert options == {
        "target": "host",
        "data": None,
        "evaluate": None,
        "budget": Budget(),
        "factory": None,
        "shapes": None,
        "fixed_inputs": None,
        "objective": "latency",
        "techniques": ("quantize",),
        "labels": False,
        "time_limit_s": None,
        "seed": 0,
        "resume": True,
        "trust_pickle": False,
        "command": "compress run 'my model.onnx' -o out",
    }


def test_an_absolute_drop(invoke: Invoke, api: Any, result: types.SimpleNamespace) -> None:
    api.answer = result
    invoke("run", "model.onnx", "-o", "out", "--max-drop", "0.02")
    assert api.calls[0][2]["budget"] == Budget(max_drop=0.02, absolute_drop=True)


@pytest.mark.parametrize("code", [0, 1])
def test_the_story_is_told_and_the_files_lie_there(
    invoke: Invoke, api: Any, result: types.SimpleNamespace, code: int
) -> None:
    result.exit_code = code
    api.answer = result

    def work(options: dict[str, Any]) -> None:
        with options["progress"].step("measuring layers"):
            options["progress"].note("one layer was skipped")

    api.meanwhile = work
    done = invoke("run", "model.onnx", "-o", "new/out")
    assert done.exit_code == code
    assert result.report.outcome in done.stdout
    assert "report: new/out/report.html" in done.stdout
    assert done.stderr.splitlines() == ["measuring layers", "one layer was skipped"]
    assert {path.name for path in Path("new/out").iterdir()} == FILES


def test_json_is_all_that_standard_output_gets(
    invoke: Invoke,
    api: Any,
    result: types.SimpleNamespace,
    capfd: pytest.CaptureFixture[str],
) -> None:
    api.answer = result

    def work(options: dict[str, Any]) -> None:
        with options["progress"].step("measuring"):
            print("from an evaluation")
            os.write(1, b"from a solver\n")

    api.meanwhile = work
    done = invoke("run", "model.onnx", "-o", "out", "--json")
    assert json.loads(done.stdout)["outcome"] == result.report.outcome
    assert done.stdout == Path("out/report.json").read_text()
    assert done.stderr == "from an evaluation\n"
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "from a solver\n")


def test_quiet_prints_the_outcome(invoke: Invoke, api: Any, result: types.SimpleNamespace) -> None:
    api.answer = result
    done = invoke("run", "model.onnx", "-o", "out", "--quiet")
    assert done.stdout == result.report.outcome + "\n"
    assert done.stderr == ""


def test_verbose_tells_about_every_layer(
    invoke: Invoke, api: Any, result: types.SimpleNamespace
) -> None:
    api.answer = result
    assert "node_conv_4" not in invoke("run", "model.onnx", "-o", "out").stdout
    assert "node_conv_4" in invoke("run", "model.onnx", "-o", "out", "-v").stdout


def test_an_earlier_result_is_replaced(
    invoke: Invoke, api: Any, result: types.SimpleNamespace
) -> None:
    api.answer = result
    assert invoke("run", "model.onnx", "-o", "out").exit_code == 0
    assert invoke("run", "model.onnx", "-o", "out").exit_code == 0
    assert {path.name for path in Path().iterdir()} == {"out"}


def test_other_folders_are_replaced_on_demand_only(
    invoke: Invoke, api: Any, result: types.SimpleNamespace
) -> None:
    api.answer = result
    Path("out").mkdir()
    Path("out/thesis.tex").write_text("years of work")
    done = invoke("run", "model.onnx", "-o", "out")
    assert done.exit_code == 2
    assert "out is not empty and not the result of a run" in done.stderr
    assert api.calls == [], "refused before the work"
    assert Path("out/thesis.tex").exists()
    assert invoke("run", "model.onnx", "-o", "out", "--force").exit_code == 0
    assert {path.name for path in Path("out").iterdir()} == FILES


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("model.onnx", "-o", "file"), "file is a file"),
        (("model.onnx", "-o", "file/out"), "nothing can be written to"),
        (("model.onnx", "-o", ".", "--force"), ". holds the current directory"),
        (("model.onnx", "-o", "..", "--force"), ".. holds the current directory"),
        (("old/model.onnx", "-o", "old"), "old/model.onnx lies in old"),
        (("m.onnx", "-o", "old", "--force", "--data", "old/x.npz"), "old/x.npz lies in old"),
        (("m.onnx", "-o", "old", "--force", "--eval", "old/e.py:f"), "old/e.py:f lies in old"),
        (("m.onnx", "-o", "old", "--force", "--target", "old/d.toml"), "old/d.toml lies in old"),
    ],
)
def test_folders_that_cannot_be_replaced(
    invoke: Invoke, api: Any, arguments: tuple[str, ...], words: str
) -> None:
    Path("file").write_text("")
    Path("old").mkdir()
    done = invoke("run", *arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert api.calls == []


def test_a_folder_without_permission(
    invoke: Invoke, api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", closed)
    done = invoke("run", "model.onnx", "-o", "out")
    assert done.exit_code == 2
    assert re.fullmatch(r"error: nothing can be written to .*: Permission denied\n", done.stderr)
    assert api.calls == []
