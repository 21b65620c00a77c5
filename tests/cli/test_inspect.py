"""compress inspect: the layers as a table."""

from __future__ import annotations

import json
from typing import Any

import pytest

from compress.report.schema import FormInfo, LayerInfo

Invoke = Any


def layer(name: str, macs: int, weight_bytes: int, **forms: float | None) -> LayerInfo:
    return LayerInfo(
        name=name,
        kind="Conv" if macs else "Add",
        shape="1x16x28x28",
        macs=macs,
        weight_bytes=weight_bytes,
        forms=[FormInfo(form=form, latency_us=us) for form, us in forms.items()],
    )


LAYERS = [
    layer("conv \x1b[2J", 1_806_336, 9216, float=120.46, int8=61.0),
    layer("add", 0, 0, float=3.0, int8=None),
    layer("gemm", 320, 2560, float=1.4, dynamic=3.25),
]


def test_the_options_reach_the_api(invoke: Invoke, api: Any) -> None:
    api.answer = LAYERS
    done = invoke(
        *("inspect", "net.pt", "--model", "net.py:build", "--shape", "x=1x3", "--set", "a=1"),
        *("--target", "rpi5", "--measure", "--trust-pickle"),
    )
    assert done.exit_code == 0
    [(verb, positional, options)] = api.calls
    assert (verb, positional) == ("inspect", ("net.pt",))
    options.pop("progress")
    assert options == {
        "target": "rpi5",
        "measure": True,
        "factory": "net.py:build",
        "shapes": {"x": (1, 3)},
        "fixed_inputs": {"a": "1"},
        "trust_pickle": True,
    }


def test_layers_with_arithmetic_and_what_they_could_become(invoke: Invoke, api: Any) -> None:
    api.answer = LAYERS
    lines = invoke("inspect", "model.onnx").stdout.splitlines()
    assert lines[0].split() == ["layer", "kind", "output", "MACs", "weights", "could", "be"]
    assert lines[1].split()[2:] == [
        "Conv",
        "1x16x28x28",
        "1,806,336",
        "9.22",
        "KB",
        "float,",
        "int8",
    ]
    assert lines[1].startswith("conv \\x1b[2J ")
    assert lines[2].startswith("gemm")
    assert lines[-1] == (
        "3 layers, 1,806,656 MACs, 11.8 KB of weights; 1 without arithmetic are shown with --all"
    )


def test_all_layers(invoke: Invoke, api: Any) -> None:
    api.answer = LAYERS
    text = invoke("inspect", "model.onnx", "--all").stdout
    assert "\nadd " in text
    assert "--all" not in text


def test_measured_latencies_have_a_column_for_each_form(invoke: Invoke, api: Any) -> None:
    api.answer = LAYERS
    lines = invoke("inspect", "model.onnx", "--measure").stdout.splitlines()
    assert lines[0].split()[-6:] == ["float,", "us", "int8,", "us", "dynamic,", "us"]
    assert lines[1].split()[-2:] == ["120.5", "61.0"]
    gemm = lines[2]
    assert gemm.split()[-2:] == ["1.4", "3.2"]
    assert len(gemm) == len(lines[0]), "the last column is that of the dynamic form"


@pytest.mark.parametrize("flags", [(), ("--all",)])
def test_json_has_everything(invoke: Invoke, api: Any, flags: tuple[str, ...]) -> None:
    api.answer = LAYERS
    content = json.loads(invoke("inspect", "model.onnx", "--json", *flags).stdout)
    assert [LayerInfo.model_validate(part) for part in content] == LAYERS


def test_an_empty_model(invoke: Invoke, api: Any) -> None:
    api.answer = []
    assert invoke("inspect", "model.onnx").stdout.splitlines()[-1].startswith("0 layers, 0 MACs")
