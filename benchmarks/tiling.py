"""Tiling and fusion on MobileNetV2-224 in int8: off-chip bytes over scratchpad sizes.

    python -m benchmarks.tiling -o benchmarks/results/tiling.md

The network has one byte per element and no biases, its structure and shapes alone. Compared are
fused stripes, stripes of one operator at a time, and whole tensors (what a scheduler without tiling
has: nothing runs below the largest operator's inputs and outputs). Addresses are multiples of 16
bytes. Each fused plan is lowered, with
addresses, and its steps are counted again. Exit code 1 if a plan misses its target.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path

import click

from benchmarks.environment import describe
from benchmarks.tflite.networks import MOBILENET_V2_STAGES
from compress.errors import ModelError
from compress.passes.schedule.alignment import DEFAULT_ALIGN
from compress.passes.schedule.tiling.chains import plan_order, smallest_scratchpad
from compress.passes.schedule.tiling.graphs import tile
from compress.passes.schedule.tiling.groups import TilingOptions
from compress.passes.schedule.tiling.operators import Plane, StripedGraph, StripedOperator
from compress.passes.schedule.tiling.rows import Window

SIZES_KIB = (64, 80, 96, 128, 192, 256, 512, 1024, 1536)

TARGETS = {128: 1.6, 256: 1.05, 512: 1.0, 1024: 1.0}
"""Multiples of the compulsory bytes, with skips."""


def mobilenet_v2(*, skips: bool = True, classifier: bool = False, side: int = 224) -> StripedGraph:
    """The network's operators and planes, one byte per element.

    Args:
        skips: whether blocks add their input.
        classifier: whether pooling and the last layer are part of it.
        side: height and width of the image.
    """
    network = _Network(side)
    source, channels, number = network.convolve("stem", "image", 32, 3, 2), 32, 0
    for expansion, width, blocks, stride in MOBILENET_V2_STAGES:
        for block in range(blocks):
            number += 1
            step = stride if block == 0 else 1
            made = source
            if expansion > 1:
                made = network.convolve(f"b{number}.expand", made, channels * expansion)
            made = network.convolve(f"b{number}.depthwise", made, None, 3, step)
            made = network.convolve(f"b{number}.project", made, width)
            if skips and step == 1 and channels == width:
                made = network.add(f"b{number}.add", source, made)
            source, channels = made, width
    source = network.convolve("last", source, 1280)
    if classifier:
        network.whole("pool", source, 1280, 0)
        source = network.whole("classifier", "pool", 1000, 1280)
    return network.graph(source)


class _Network:
    def __init__(self, side: int) -> None:
        self.planes = {"image": Plane("image", 3, side, side, external=True)}
        self.operators: list[StripedOperator] = []

    def graph(self, output: str) -> StripedGraph:
        self.planes[output] = dataclasses.replace(self.planes[output], kept=True)
        return StripedGraph(tuple(self.operators), self.planes)

    def convolve(
        self, name: str, source: str, channels: int | None, kernel: int = 1, stride: int = 1
    ) -> str:
        """Channels None: depthwise."""
        read = self.planes[source]
        taps = kernel * kernel * (1 if channels is None else read.channels)
        channels = channels or read.channels
        side = -(-read.height // stride)
        self.planes[name] = Plane(name, channels, side, side)
        self.operators.append(
            StripedOperator(
                name,
                "window",
                (source,),
                (name,),
                Window(kernel, stride, 1, kernel // 2),
                ((f"{name}.weight", channels * taps),),
                channels,
            )
        )
        return name

    def add(self, name: str, one: str, other: str) -> str:
        self.planes[name] = dataclasses.replace(self.planes[other], name=name)
        self.operators.append(StripedOperator(name, "pointwise", (one, other), (name,)))
        return name

    def whole(self, name: str, source: str, channels: int, fan_in: int) -> str:
        weights = ((f"{name}.weight", channels * fan_in),) if fan_in else ()
        self.planes[name] = Plane(name, channels, 1, 1)
        self.operators.append(
            StripedOperator(name, "whole", (source,), (name,), weights=weights, blocks=channels)
        )
        return name


def whole_tensors(graph: StripedGraph, capacity: int) -> int | None:
    """Lower bound of off-chip bytes without stripes, where each operator's planes are resident as
    it runs; None: those of the largest do not fit."""
    needed = max(
        sum(graph.planes[v].bytes for v in {*operator.inputs, *operator.outputs})
        for operator in graph.operators
    )
    return None if needed > capacity else graph.compulsory_bytes


def row(graph: StripedGraph, kib: int) -> tuple[str, float | None]:
    """A line of the table, and the fused plan's multiple of the compulsory bytes."""
    capacity, least = kib * 1024, graph.compulsory_bytes
    started = time.process_time()
    try:
        tiling = tile(graph, capacity, TilingOptions(align=DEFAULT_ALIGN))
    except ModelError as error:
        return f"| {kib} | {error} | | | | | | |", None
    seconds = time.process_time() - started
    program = tiling.program
    if program.off_chip_bytes != tiling.plan.off_chip_bytes or program.peak > capacity:
        raise SystemExit(f"{kib} KiB: the program does not do what the plan says")
    alone = plan_order(
        graph,
        capacity,
        TilingOptions(most_operators=1, double_buffer=tiling.double_buffer, align=DEFAULT_ALIGN),
    ).off_chip_bytes
    whole = whole_tensors(graph, capacity)
    ratio = program.off_chip_bytes / least
    cells = (
        f"{kib}",
        f"{program.off_chip_bytes / 1024:.0f} ({ratio:.3f}x)",
        f"{alone / 1024:.0f} ({alone / least:.2f}x)",
        "does not fit" if whole is None else f"{whole / 1024:.0f} ({whole / least:.2f}x)",
        f"{len(tiling.plan.groups)}",
        f"{program.peak / 1024:.1f}",
        "proven" if tiling.plan.exact else "found",
        f"{seconds:.1f}",
    )
    return f"| {' | '.join(cells)} |", ratio


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(output: Path | None) -> None:
    """Plans the network for each size; exit code 1 if one misses its target."""
    environment = describe()
    lines = [
        "# Fused stripes on MobileNetV2-224, int8",
        "",
        f"{environment.date}, {environment.cpu}. Made by `python -m benchmarks.tiling`, where it "
        "is described. Off-chip KiB, and as a multiple of the compulsory ones.",
    ]
    missed = []
    for title, skips, classifier in (
        ("With its skips", True, False),
        ("Without skips", False, False),
        ("With skips and classifier", True, True),
    ):
        graph = mobilenet_v2(skips=skips, classifier=classifier)
        smallest, operator = smallest_scratchpad(graph, TilingOptions(align=DEFAULT_ALIGN))
        largest = max(graph.working_set(n) for n in range(len(graph.operators)))
        lines += [
            "",
            f"## {title}",
            "",
            f"Compulsory {graph.compulsory_bytes / 1024:.0f} KiB; the largest operator as a whole "
            f"{largest / 1024:.0f} KiB; smallest scratchpad {smallest / 1024:.1f} KiB "
            f"({operator}).",
            "",
            "| scratchpad KiB | fused stripes | stripes per operator | whole tensors | groups "
            "| peak KiB | least for its order | s |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for kib in SIZES_KIB:
            text, ratio = row(graph, kib)
            lines.append(text)
            target = TARGETS.get(kib)
            if skips and target is not None and (ratio is None or ratio > target):
                missed.append(f"{title}, {kib} KiB: {ratio} instead of {target}")
    text = "\n".join(lines) + "\n"
    if output is not None:
        output.write_text(text, encoding="utf-8")
    print(text)
    for line in missed:
        print(line, file=sys.stderr)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
