"""Random networks at random sizes: every plan passes the check, and runs to the right outputs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scratchpad_networks as networks
import small_networks
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small_networks import floats

from compress.backends.scratchpad.check import check
from compress.backends.scratchpad.prove import prove
from compress.errors import ModelError
from compress.passes.schedule.alignment import aligned
from compress.passes.schedule.extract import Extracted, extract
from compress.passes.schedule.lower_whole import lower_whole
from compress.passes.schedule.problem import extra_bytes
from compress.passes.schedule.program import Program
from compress.passes.schedule.solve import schedule
from compress.passes.schedule.tiling.extract import striped
from compress.passes.schedule.tiling.graphs import tile
from compress.passes.schedule.tiling.groups import TilingOptions

SIDE = 10


KINDS = ("conv", "conv", "depthwise", "relu", "add", "pool", "concat", "gate")


def random_network(seed: int, integers: bool) -> Extracted:
    """Up to a dozen operators on images, with branches, strides, poolings, gates and parts."""
    generator = np.random.default_rng(seed)

    def below(*bounds: int) -> int:
        return int(generator.integers(*bounds))

    values = [("x", 3, SIDE)]  # name, channels, side
    lines: list[str] = []
    tensors: dict[str, np.ndarray] = {}
    for number in range(below(4, 12)):
        source, channels, side = values[below(max(0, len(values) - 4), len(values))]
        made = f"v{number}"
        alike = [v for v, c, s in values if (c, s) == (channels, side) and v != source]
        beside = [(v, c) for v, c, s in values if s == side]
        kind = KINDS[below(len(KINDS))]
        if kind == "conv":
            width, taps, stride = below(2, 7), below(1, 4), 1 if side < 4 else below(1, 3)
            pad = taps // 2
            tensors[f"w{number}"] = floats(width, channels, taps, taps, seed=number, scale=0.4)
            lines.append(
                f"{made} = Conv<strides = [{stride}, {stride}], pads = [{pad}, {pad}, {pad}, {pad}]"
                f">({source}, w{number})"
            )
            channels, side = width, (side + 2 * pad - taps) // stride + 1
        elif kind == "depthwise":
            tensors[f"w{number}"] = floats(channels, 1, 3, 3, seed=number, scale=0.5)
            lines.append(
                f"{made} = Conv<group = {channels}, pads = [2, 2, 2, 2], dilations = [2, 2]>"
                f"({source}, w{number})"
            )
        elif kind == "add" and alike:
            lines.append(f"{made} = Add({source}, {alike[below(len(alike))]})")
        elif kind == "concat":
            other, width = beside[below(len(beside))]
            lines.append(f"{made} = Concat<axis = 1>({source}, {other})")
            channels += width
        elif kind == "pool" and side > 3:
            attributes = "kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1"
            lines.append(f"{made} = MaxPool<{attributes}>({source})")
            side = -(-(side - 3) // 2) + 1
        elif kind == "gate":
            lines.append(f"g{number} = GlobalAveragePool({source}) s{number} = Sigmoid(g{number})")
            lines.append(f"{made} = Mul({source}, s{number})")
        else:
            lines.append(f"{made} = Relu({source})")
        values.append((made, channels, side))
    last, channels, side = values[-1]
    text = (
        f"g (float[1,3,{SIDE},{SIDE}] x) => (float[1,{channels},{side},{side}] {last}) {{"
        f" {' '.join(lines)} }}"
    )
    model = networks.model(small_networks.network(text, **tensors))
    return extract(networks.int8(model) if integers else model)


def proven(program: Program, found: Extracted, *, exact: bool) -> int:
    """The extra bytes of a program that is checked and executed."""
    verdict = check(program, found)
    assert verdict.problems == ()
    assert verdict.peak <= program.capacity
    comparison = prove(program, found, networks.feeds(found.model))
    assert comparison.holds, comparison
    # rounding the other way happens where onnxruntime computes single rows in another kernel
    assert comparison.exact or comparison.differing or not exact
    return verdict.extra_bytes


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    share=st.floats(0.3, 1.2),
    integers=st.booleans(),
    align=st.sampled_from([1, 16, 64]),
)
def test_every_plan_is_what_it_says(seed: int, share: float, integers: bool, align: int) -> None:
    found = random_network(seed, integers)
    assume(found.graph.operators)
    capacity = max(1, int(share * found.graph.largest_working_set))
    made = 0
    try:
        plan = schedule(aligned(found, align), capacity, seconds=0.4, seed=seed)
    except ModelError:
        pass
    else:
        if plan.order and plan.packed:
            made += 1
            program = lower_whole(found, plan, capacity, align=align)
            extra = extra_bytes(found.graph, plan.stays)
            assert proven(program, found, exact=integers) == extra <= plan.extra_bytes
    try:
        tiling = tile(striped(found), capacity, TilingOptions(align=align))
    except ModelError:
        pass
    else:
        made += 1
        assert proven(tiling.program, found, exact=integers) == tiling.plan.extra_bytes
    assume(made)


@pytest.mark.parametrize("integers", [False, True])
def test_there_is_something_to_plan(integers: bool) -> None:
    found = random_network(3, integers)
    assert len(found.graph.operators) > 3


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 200),
    pick=st.integers(0, 10**6),
    shift=st.integers(-400, 400),
    later=st.integers(-3, 3),
    striped_plan=st.booleans(),
)
def test_what_the_check_lets_through_computes_the_right_thing(
    seed: int, pick: int, shift: int, later: int, striped_plan: bool
) -> None:
    """One buffer is moved, in address and in time: either the check objects, or nothing breaks."""
    found = random_network(seed, integers=True)
    assume(found.graph.operators)
    if striped_plan:
        try:
            capacity = int(0.6 * found.graph.largest_working_set)
            program = tile(striped(found), capacity).program
        except ModelError:
            assume(False)
    else:
        plan = networks.plain_plan(found.graph)
        program = lower_whole(found, plan, plan.peak)
    buffers = list(program.buffers)
    chosen = buffers[pick % len(buffers)]
    buffers[pick % len(buffers)] = dataclasses.replace(
        chosen, address=chosen.address + shift, last=chosen.last + later
    )
    moved = Program(program.capacity + 200, tuple(buffers), program.steps)
    if not check(moved, found).problems:
        comparison = prove(moved, found, networks.feeds(found.model))
        assert comparison.holds
        assert comparison.exact or comparison.differing
