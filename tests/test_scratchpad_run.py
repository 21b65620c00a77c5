"""A device with a scratchpad: the last step of a run plans its memory, and the results hold it."""

from __future__ import annotations

from pathlib import Path

import pytest
from known_machine import KnownMachine
from small_networks import cnn, images

import compress
from compress.report.write_json import read_memory_plan

BOARD = """
name = "board"
kind = "mcu"
runtime = "onnxruntime"
measurable = true
scratchpad_bytes = {size}

[sources]
scratchpad_bytes = "made up"
"""


def board(folder: Path, size: int) -> Path:
    path = folder / "board.toml"
    path.write_text(BOARD.format(size=size))
    return path


def test_the_memory_of_what_is_shipped_is_planned(machine: KnownMachine, tmp_path: Path) -> None:
    result = compress.run(
        cnn(), data=images(), target=board(tmp_path, 40_000), budget=compress.Budget(max_drop=0.2)
    )
    memory = result.memory
    assert memory is not None
    assert memory.scratchpad_bytes == 40_000
    assert memory.proof.executed
    assert not memory.advisory
    # the integer network that is shipped, one byte an element, and not the float one
    assert result.report.after.forms["int8"]
    assert memory.bounds.compulsory_bytes < 40_000
    folder = result.save(tmp_path / "out")
    names = {file.name for file in folder.iterdir()}
    assert {"model.onnx", "memory_plan.json", "memory_plan.h", "memory_plan.svg"} <= names
    assert read_memory_plan(folder) == memory
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<h2>Scratchpad</h2>" in page
    assert "<svg" in page[page.index("<h2>Scratchpad</h2>") :]


def test_a_scratchpad_that_is_too_small_is_said(machine: KnownMachine, tmp_path: Path) -> None:
    with pytest.raises(compress.ModelError, match="too small: operator"):
        compress.run(cnn(), data=images(), target=board(tmp_path, 100))


def test_other_devices_have_none(machine: KnownMachine, tmp_path: Path) -> None:
    result = compress.run(cnn(), data=images(), budget=compress.Budget(max_drop=0.2))
    assert result.memory is None
    folder = result.save(tmp_path / "out")
    assert not list(folder.glob("memory_plan*"))
    assert "Scratchpad" not in (folder / "report.html").read_text(encoding="utf-8")
    assert read_memory_plan(folder) is None


def test_a_device_that_cannot_be_measured_has_its_plan_elsewhere() -> None:
    with pytest.raises(compress.UsageError, match="compress plan"):
        compress.run(cnn(), target="ethos-u55-256")
