"""Runs Vela on a TFLite file and reads what it reports."""

from __future__ import annotations

import csv
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tflite.description import Network

U55 = ("--accelerator-config", "ethos-u55-256", "--system-config", "Ethos_U55_High_End_Embedded")
U65 = ("--accelerator-config", "ethos-u65-256", "--system-config", "Ethos_U65_High_End")
SHARED = (*U55, "--memory-mode", "Shared_Sram")
"""Feature maps stay in SRAM; weights are read from flash."""
DEDICATED = (*U65, "--memory-mode", "Dedicated_Sram")
"""Feature maps lie in DRAM unless they fit into SRAM. An Ethos-U55 has no such mode: its second
port only reads. This is the next device, with as many multipliers."""

_TENSOR = re.compile(r"^\s*\d+ -\s+\d+:\s+0x\w+ -\s+0x\w+:\s+(\d+):\s+\d+:\s*\w+\s*: (\S+)$")
_CASCADE = re.compile(r"Assigned Cascade = (\d+)")


class VelaError(RuntimeError):
    """Vela refused; the message is its last line."""


@dataclass(frozen=True)
class Compiled:
    """What Vela reports of one network.

    Attributes:
        sram_bytes: used, tensors and weight buffers together.
        stored_weights, encoded_weights: bytes, before and after its compression.
        off_chip_bytes: through the second port in one inference, as Vela estimates it.
        feature_reads, feature_writes, weight_reads: of those; scales are not among them.
        milliseconds: estimated for one inference.
        cascaded: operators that run in stripes with others.
        outside: feature maps that lie off chip: name -> bytes as Vela lays them out.
    """

    sram_bytes: int
    stored_weights: int
    encoded_weights: int
    off_chip_bytes: int
    feature_reads: int
    feature_writes: int
    weight_reads: int
    milliseconds: float
    cascaded: int
    outside: dict[str, int]


def compile_network(python: Path, model: Path, options: Sequence[str]) -> Compiled:
    """Compile a TFLite file.

    Args:
        python: the interpreter that has Vela.
        options: of Vela's command line.

    Raises:
        VelaError: it did not compile it.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [str(python), "-m", "ethosu.vela", str(model), "--config", "Arm/vela.ini"]
        command += ["--output-dir", folder, "--verbose-allocation", "--verbose-schedule", *options]
        done = subprocess.run(command, capture_output=True, text=True)
        found = list(Path(folder).glob("*_summary_*.csv"))
        if done.returncode != 0 or len(found) != 1:
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise VelaError(lines[-1] if lines else f"exit code {done.returncode}")
        with found[0].open(newline="") as file:
            row = next(csv.DictReader(file))
    return _read(row, done.stdout, "dram" if "Dedicated_Sram" in options else "off_chip_flash")


def _read(row: dict[str, str], log: str, port: str) -> Compiled:
    schedule = log.rsplit("Schedule: ", 1)[-1]
    return Compiled(
        sram_bytes=round(float(row["sram_memory_used"]) * 1024),
        stored_weights=int(row["total_original_weights"]),
        encoded_weights=int(row["total_npu_encoded_weights"]),
        off_chip_bytes=int(row[f"{port}_total_bytes"]),
        feature_reads=int(row[f"{port}_feature_map_read_bytes"]),
        feature_writes=int(row[f"{port}_feature_map_write_bytes"]),
        weight_reads=int(row[f"{port}_weight_read_bytes"]),
        milliseconds=float(row["inference_time"]) * 1e3,
        cascaded=sum(number != "0" for number in _CASCADE.findall(schedule)),
        outside=_outside(log),
    )


def _outside(log: str) -> dict[str, int]:
    """The tensors that are allocated in DRAM."""
    found: dict[str, int] = {}
    inside = False
    for line in log.splitlines():
        if line.startswith("Allocation"):
            inside = line.startswith("Allocation, memory Dram")
        elif inside and (match := _TENSOR.match(line)):
            found[match.group(2)] = int(match.group(1))
    return found


def moved_features(network: Network, outside: dict[str, int]) -> int:
    """Off-chip bytes of feature maps, counted as we count them.

    Each one off chip is written once, unless it is the network's input, and read once by each
    layer that takes it; without padding.
    """
    total = 0
    for name in outside:
        shape = network.values[name].shape
        size = 1
        for length in shape:
            size *= length
        readers = sum(name in layer.inputs for layer in network.layers)
        total += size * (readers + (name != network.input))
    return total
