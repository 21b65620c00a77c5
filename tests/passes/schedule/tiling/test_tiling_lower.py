"""Programs of tiled plans: their text, their rules, and what they compute."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import scratchpad_networks as networks
from hypothesis import given, settings
from hypothesis import strategies as st
from striped_graphs import graphs
from tiled_networks import EVEN, TEXT, extracted

from compress.backends.scratchpad.check import check
from compress.backends.scratchpad.prove import prove
from compress.passes.schedule.program import Program
from compress.passes.schedule.tiling.chains import plan_order, smallest_scratchpad
from compress.passes.schedule.tiling.extract import striped
from compress.passes.schedule.tiling.groups import TilingOptions
from compress.passes.schedule.tiling.lower import lower
from compress.passes.schedule.tiling.operators import StripedGraph


def text(program: Program) -> str:
    """A line per step, and one per buffer."""
    lines = []
    for number, step in enumerate(program.steps):
        rows = "" if step.rows is None else f"[{step.rows[0]}:{step.rows[1]}]"
        flow = f"{', '.join(step.inputs)} -> {', '.join(step.outputs)}{rows}"
        moved = f"  {step.bytes} bytes{'' if step.compulsory else ' extra'}" if step.bytes else ""
        lines.append(f"{number:3} group {step.group} {step.kind} {step.operator}: {flow}{moved}")
    for buffer in program.buffers:
        shape = f"{buffer.rows} x {buffer.row_bytes}" if buffer.layout == "rows" else buffer.layout
        lines.append(
            f"{buffer.name}: {buffer.address}+{buffer.bytes} ({shape}), "
            f"steps {buffer.first}-{buffer.last}"
        )
    return "\n".join(lines) + "\n"


def test_text(golden: Callable[[str, str], None]) -> None:
    graph = striped(extracted(EVEN))
    single = TilingOptions(double_buffer=False, weight_blocks=1)
    rolling = lower(plan_order(graph, smallest_scratchpad(graph, single)[0], single))
    double = lower(plan_order(graph, 1200))
    assert rolling is not None
    assert double is not None
    golden("tiled_program", f"{text(rolling)}\n{text(double)}")


@pytest.mark.parametrize("integers", [False, True])
@pytest.mark.parametrize("network", [TEXT, EVEN])
@pytest.mark.parametrize(
    "options",
    [
        TilingOptions(),
        TilingOptions(double_buffer=False),
        TilingOptions(most_operators=4, weight_blocks=1),
    ],
)
def test_outputs_are_onnxruntimes(network: str, integers: bool, options: TilingOptions) -> None:
    found = extracted(network, integers=integers)
    graph = striped(found)
    least, _ = smallest_scratchpad(graph, options)
    most = max(graph.working_set(n) for n in range(len(graph.operators)))
    for share in (0.0, 0.1, 0.3, 0.6, 1.0):
        capacity = int(least + share * (most - least))
        plan = plan_order(graph, capacity, options)
        program = lower(plan)
        if program is None:
            continue
        verdict = check(program, found)
        assert verdict.problems == ()
        assert verdict.off_chip_bytes == program.off_chip_bytes == plan.off_chip_bytes
        assert verdict.peak <= capacity
        assert prove(program, found, networks.feeds(found.model)).holds


@settings(max_examples=60, deadline=None)
@given(graphs(), st.floats(0.0, 1.0), st.booleans())
def test_bytes_are_those_of_the_plan(graph: StripedGraph, share: float, double: bool) -> None:
    options = TilingOptions(double_buffer=double)
    least, _ = smallest_scratchpad(graph, options)
    most = max(graph.working_set(n) for n in range(len(graph.operators)))
    plan = plan_order(graph, int(least + share * max(most - least, 0)), options)
    program = lower(plan)
    if program is None:
        return
    assert program.off_chip_bytes == plan.off_chip_bytes
    compulsory = sum(step.bytes for step in program.steps if step.compulsory)
    assert compulsory == graph.compulsory_bytes
    assert program.peak <= plan.capacity
    for number in range(len(program.steps)):
        live = [b for b in program.buffers if b.first <= number <= b.last]
        ends = sorted((b.address, b.address + b.bytes) for b in live if b.bytes)
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(ends))
