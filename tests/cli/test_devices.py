"""compress devices: what is known of them, with sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compress.hardware.device import list_devices

Invoke = Any

BOARD = """
name = "board"
kind = "cpu"
runtime = "onnxruntime"
clock_hz = 1.5e9
[caches_bytes]
l2 = 1048576
[sources]
clock_hz = "the datasheet"
caches_bytes = "\\u001b[2J measured"
"""


@pytest.mark.parametrize("arguments", [("devices",), ("devices", "list")])
def test_all_devices_are_listed(invoke: Invoke, arguments: tuple[str, ...]) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 0
    names = [line.split()[0] for line in done.stdout.splitlines()[1:]]
    assert names == [device.name for device in list_devices()]
    assert names[0] == "host"


def test_one_is_shown_with_its_sources(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "board.toml").write_text(BOARD)
    done = invoke("devices", "show", "board.toml")
    assert done.exit_code == 0
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["clock_hz", "1.5e+09", "the", "datasheet"] in lines
    assert ["caches_bytes.l2", "1", "MiB", "\\x1b[2J", "measured"] in lines
    assert "\x1b" not in done.stdout


def test_an_alias_is_enough(invoke: Invoke) -> None:
    assert invoke("devices", "show", "rpi5").stdout.startswith("raspberry-pi-5")


def test_json(invoke: Invoke) -> None:
    listed = json.loads(invoke("devices", "list", "--json").stdout)
    shown = json.loads(invoke("devices", "show", "raspberry-pi-4", "--json").stdout)
    assert shown in listed
    assert shown["sources"]["threads"]
    assert len(shown["fingerprint"]) == 64


def test_an_unknown_device(invoke: Invoke) -> None:
    done = invoke("devices", "show", "raspbery-pi-5")
    assert done.exit_code == 2
    assert "did you mean raspberry-pi-5" in done.stderr
