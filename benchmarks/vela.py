"""Arm's Vela beside `compress plan`, on the same int8 networks.

    python -m benchmarks.tflite.interpreter        # once: Vela, in an environment of its own
    python -m benchmarks.vela -o benchmarks/results/vela.md

Both sides get a network from one description: Vela as TFLite, we as QDQ ONNX. That the two files
are the same network is checked first, by executing both. Exit code 1 if they are not, or if a plan
of ours does not pass its checks.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import click
import numpy as np
import onnxruntime as ort

import compress
from benchmarks.environment import Environment, describe
from benchmarks.tflite import texts
from benchmarks.tflite.compiler import (
    DEDICATED,
    SHARED,
    Compiled,
    VelaError,
    compile_network,
    moved_features,
)
from benchmarks.tflite.description import Network, save
from benchmarks.tflite.interpreter import pinned, vela_python
from benchmarks.tflite.networks import fashion_mnist, mobilenet_v2, stem
from benchmarks.tflite.onnx_file import write_onnx
from compress.errors import CompressError, DeviceError
from compress.report.memory_plan import MemoryPlan

TARGET = "ethos-u55-256"
WRONG = "differs"
TOLERANCE = 2
"""Steps of the int8 output by which the two files may differ: TFLite rounds with integers, ONNX
with floats."""

SIZES_KIB = {
    "mobilenet_v2_224": (64, 96, 128, 160, 192, 256, 384, 512, 1024),
    "fashion_mnist": (8, 12, 16, 20, 24, 28, 32),
}
SHARED_KIB = {"mobilenet_v2_224": (1024, 512, 384, 256, 128), "fashion_mnist": (32, 16)}
"""What Vela is asked to stay below where feature maps cannot leave the SRAM."""


@dataclass(frozen=True)
class Ours:
    """One plan of `compress.plan`; everything in bytes.

    Attributes:
        peak: highest address in use plus one.
        total, extra: off chip, and those beyond the compulsory ones.
        weights: part of the total, biases included.
        written: feature maps that leave the chip, the network's output apart.
        free_from: smallest scratchpad found that needs nothing extra.
        executed: how the executed plan's outputs compare with onnxruntime's.
    """

    peak: int
    total: int
    extra: int
    weights: int
    written: int
    free_from: int | None
    executed: str

    @property
    def features(self) -> int:
        return self.total - self.weights


def plan(model: Path, capacity: int) -> Ours | str:
    """Our plan for a scratchpad of `capacity` bytes; in one line why there is none."""
    try:
        made = compress.plan(model, sram=capacity, target=TARGET).plan
        executed = "exact" if made.proof.exact else f"{made.proof.largest_error:.1g}"
    except DeviceError as error:
        made = compress.plan(model, sram=capacity, target=TARGET, verify=False).plan
        executed = WRONG
        print(f"{model.name}, {capacity} bytes: {error}", file=sys.stderr)
    except CompressError as error:
        return str(error).splitlines()[0]
    weights, written = _parts(made)
    traffic, bounds = made.traffic, made.bounds
    return Ours(
        bounds.peak_bytes,
        traffic.total_bytes,
        traffic.extra_bytes,
        weights,
        written,
        bounds.zero_extra_bytes,
        executed,
    )


def _parts(made: MemoryPlan) -> tuple[int, int]:
    """(bytes of weights that are loaded, of activations that are stored)."""
    roles = {tensor.name: tensor.role for tensor in made.tensors}
    tensors = {buffer.name: buffer.tensor for buffer in made.buffers}
    weights = written = 0
    for step in made.steps:
        ends = step.outputs if step.kind == "load" else step.inputs
        role = "weight" if step.kind == "compute" else roles[tensors[ends[0]]]
        if role == "weight":
            weights += step.bytes
        elif role == "activation" and step.kind == "store":
            written += step.bytes
    return weights, written


class Comparison:
    """One network in both formats, in a folder."""

    def __init__(self, network: Network, folder: Path, python: Path) -> None:
        self.network, self.python = network, python
        self.onnx, self.tflite = (folder / f"{network.name}.{kind}" for kind in ("onnx", "tflite"))
        description = folder / f"{network.name}.npz"
        save(network, description)
        write_onnx(network, self.onnx)
        self._run("tflite_file", description, self.tflite)
        self.folder = folder
        self.plans: dict[int, Ours | str] = {}

    def _run(self, module: str, *paths: Path) -> None:
        command = [str(self.python), "-m", f"benchmarks.tflite.{module}", *map(str, paths)]
        subprocess.run(command, check=True, cwd=Path(__file__).resolve().parents[1])

    @cached_property
    def steps_apart(self) -> int:
        """The largest difference between the outputs of the two files, in steps of the int8."""
        shape = (1, *self.network.values[self.network.input].shape)
        image = np.random.default_rng(1).integers(-128, 128, shape).astype(np.int8)
        given, made = self.folder / "input.npy", self.folder / "output.npy"
        np.save(given, image)
        self._run("execute", self.tflite, given, made)
        session = ort.InferenceSession(str(self.onnx), providers=["CPUExecutionProvider"])
        feeds = {self.network.input: np.ascontiguousarray(image.transpose(0, 3, 1, 2))}
        ours = np.asarray(session.run(None, feeds)[0]).astype(int)
        return int(np.abs(ours - np.load(made).astype(int)).max())

    def vela(self, options: Sequence[str]) -> Compiled:
        return compile_network(self.python, self.tflite, options)

    def ours(self, capacity: int) -> Ours | str:
        if capacity not in self.plans:
            self.plans[capacity] = plan(self.onnx, capacity)
        return self.plans[capacity]

    @cached_property
    def once(self) -> Compiled:
        """Vela where nothing is short: every weight is read once, nothing else is off chip."""
        return self.vela(SHARED)

    def shared(self) -> Iterator[str]:
        """Feature maps stay in SRAM: ours with as much scratchpad as Vela takes."""
        yield (
            "| Vela's setting | SRAM KiB | off chip kB | ms | in cascades | ours: peak KiB "
            "| off chip kB | weights | as Vela encodes them | feature maps | executed |"
        )
        yield "|---|---|---|---|---|---|---|---|---|---|---|"
        settings: list[tuple[str, tuple[str, ...]]] = [("Performance", ())]
        for kib in SHARED_KIB[self.network.name]:
            limit = ("--arena-cache-size", str(kib * 1024))
            settings.append((f"Performance, asked for {kib} KiB", limit))
        settings.append(("Size", ("--optimise", "Size")))
        ratio = self.once.off_chip_bytes / self.network.constant_bytes
        for name, options in settings:
            done = self.vela((*SHARED, *options))
            cells = [name, _kib(done.sram_bytes), _kb(done.off_chip_bytes)]
            cells += [f"{done.milliseconds:.2f}", str(done.cascaded)]
            ours = self.ours(done.sram_bytes)
            if isinstance(ours, Ours):
                cells += [_kib(ours.peak), _kb(ours.total), _kb(ours.weights)]
                cells += [_kb(ours.weights * ratio), _features(ours), ours.executed]
            else:
                cells += [ours, *[""] * 5]
            yield _row(cells)

    def dedicated(self) -> Iterator[str]:
        """Feature maps may leave: both with the same SRAM."""
        yield (
            "| SRAM KiB | Vela, Performance: kB | weights | feature maps | counted our way "
            "| ms | in cascades | Vela, Size: kB | ours: kB | weights | feature maps | extra "
            "| peak KiB | executed |"
        )
        yield "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
        for kib in SIZES_KIB[self.network.name]:
            cells = [str(kib), *self._dedicated(kib)]
            ours = self.ours(kib * 1024)
            if isinstance(ours, Ours):
                cells += [_kb(ours.total), _kb(ours.weights), _features(ours), _kb(ours.extra)]
                cells += [_kib(ours.peak), ours.executed]
            else:
                cells += [ours, *[""] * 5]
            yield _row(cells)

    def _dedicated(self, kib: int) -> list[str]:
        options = (*DEDICATED, "--arena-cache-size", str(kib * 1024))
        try:
            fast, small = self.vela(options), self.vela((*options, "--optimise", "Size"))
        except VelaError as error:
            return [str(error), *[""] * 6]
        counted = moved_features(self.network, fast.outside)
        return [
            _kb(fast.off_chip_bytes),
            _kb(fast.weight_reads),
            _kb(fast.feature_reads + fast.feature_writes),
            _kb(counted),
            f"{fast.milliseconds:.2f}",
            str(fast.cascaded),
            _kb(small.off_chip_bytes),
        ]

    def differs(self) -> bool:
        """Whether an executed plan of ours gave other outputs than onnxruntime."""
        return any(isinstance(p, Ours) and p.executed == WRONG for p in self.plans.values())

    def worse_with_more(self) -> Iterator[tuple[int, int]]:
        """Pairs of scratchpads next in size, in bytes, of which ours moves less in the smaller."""
        totals = [(size, p.total) for size, p in sorted(self.plans.items()) if isinstance(p, Ours)]
        for (less, one), (more, other) in itertools.pairwise(totals):
            if other > one:
                yield less, more

    def free_from(self) -> int | None:
        """The smallest scratchpad, in bytes, of those tried in which ours needs nothing extra."""
        plans = [p for p in self.plans.values() if isinstance(p, Ours)]
        return min((p.free_from for p in plans if p.free_from is not None), default=None)


def image_reads(python: Path, folder: Path) -> Iterator[str]:
    """Vela's estimate of what the first layer alone reads, by channels of its image."""
    yield "| channels of the image | bytes | Vela: bytes read | ratio |"
    yield "|---|---|---|---|"
    for channels in (3, 4, 8, 16):
        lone = Comparison(stem(channels), folder, python)
        read = lone.vela((*DEDICATED, "--arena-cache-size", "262144")).feature_reads
        size = int(np.prod(lone.network.values[lone.network.input].shape))
        yield _row([str(channels), f"{size:,}", f"{read:,}", f"{read / size:.2f}"])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _kib(count: float) -> str:
    return f"{count / 1024:.1f}"


def _kb(count: float) -> str:
    return f"{count / 1000:.0f}"


def _features(ours: Ours) -> str:
    return (
        f"{_kb(ours.features)} ({_kb(ours.written)} written)"
        if ours.written
        else _kb(ours.features)
    )


def report(
    comparisons: Sequence[Comparison], images: Iterable[str], environment: Environment
) -> Iterator[str]:
    """The lines of the result."""
    versions = pinned()
    yield from (
        "# Vela and `compress plan`",
        "",
        f"{environment.date}, {environment.cpu}, {environment.system}, ethos-u-vela "
        f"{versions['ethos-u-vela']}, compress {compress.__version__}. Made by "
        "`python -m benchmarks.vela`, where it is described.",
        "",
    )
    yield from texts.HOW_TO_READ
    for comparison in comparisons:
        network, once = comparison.network, comparison.once
        yield from (
            "",
            f"## {network.name}",
            "",
            f"{len(network.layers)} operators. Weights and biases are "
            f"{_kb(network.constant_bytes)} kB; {_kb(once.off_chip_bytes)} kB as Vela encodes "
            f"them, weights alone {once.encoded_weights / once.stored_weights:.3f} of their size. "
            "TFLite in LiteRT and ONNX in onnxruntime differ by "
            f"{comparison.steps_apart} of 256 steps at most.",
            "",
            "### Ethos-U55-256, weights in flash, feature maps in SRAM",
            "",
        )
        yield from comparison.shared()
        yield from ("", "### Feature maps may leave: Vela for an Ethos-U65-256 with DRAM", "")
        yield from comparison.dedicated()
        for less, more in comparison.worse_with_more():
            yield ""
            yield f"Ours moves more with {_kib(more)} KiB than with {_kib(less)} KiB: a weakness."
        free = comparison.free_from()
        if free is not None:
            yield ""
            yield f"Smallest scratchpad found in which ours needs nothing extra: {free:,} bytes."
    yield from ("", "## What the first layer reads", "")
    yield from images
    yield ""
    yield from texts.DIFFERENCES
    if any(comparison.differs() for comparison in comparisons):
        yield from ("", texts.DIFFERS)
    yield ""


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path))
@click.option("--network", type=click.Choice(list(SIZES_KIB)), multiple=True, help="Default: all.")
def main(output: Path | None, network: tuple[str, ...]) -> None:
    """Compares the two; exit code 1 if a plan of ours or a file is wrong."""
    python = vela_python()
    if python is None:
        raise SystemExit("run `python -m benchmarks.tflite.interpreter` to install Vela")
    networks = [n for n in (mobilenet_v2(), fashion_mnist()) if not network or n.name in network]
    with tempfile.TemporaryDirectory() as folder:
        comparisons = [Comparison(n, Path(folder), python) for n in networks]
        images = list(image_reads(python, Path(folder)))
        text = "\n".join(report(comparisons, images, describe()))
    print(text)
    if output is not None:
        output.write_text(text, encoding="utf-8")
    sys.exit(any(c.steps_apart > TOLERANCE or c.differs() for c in comparisons))


if __name__ == "__main__":
    main()
