"""Addresses in multiples of some bytes: room is rounded up, nothing else."""

from __future__ import annotations

import pytest
import scratchpad_networks as networks
from small_networks import floats

from compress.backends.scratchpad.check import check
from compress.errors import UsageError
from compress.passes.schedule.alignment import aligned, check_align, round_up
from compress.passes.schedule.lower_whole import lower_whole


@pytest.mark.parametrize("align", [0, -1, 3, 24])
def test_alignments_that_are_no_powers_of_two(align: int) -> None:
    with pytest.raises(UsageError, match="give a power of two, as in 16"):
        check_align(align)


def test_powers_of_two() -> None:
    for align in (1, 2, 16, 4096):
        check_align(align)


def test_rounding_up() -> None:
    assert [round_up(size, 16) for size in (1, 15, 16, 17)] == [16, 16, 16, 32]
    assert round_up(17, 1) == 17


def test_sizes_are_rounded_up_and_traffic_is_not() -> None:
    found = networks.extracted(
        "g (float[1,1,3,3] x) => (float[1,7,3,3] y) { y = Conv<pads = [1, 1, 1, 1]>(x, w, b) }",
        w=floats(7, 1, 3, 3),
        b=floats(7),
    )
    problem = aligned(found, 32)
    assert [tensor.bytes for tensor in problem.tensors] == [64, 256]
    (operator,) = problem.operators
    # weights of 252 bytes; the bias of 28 bytes is part of the program
    assert operator.workspace == 256
    assert operator.streamed == 252
    assert aligned(found, 1) is found.graph
    plan = networks.plain_plan(problem)
    program = lower_whole(found, plan, plan.peak, align=32)
    assert program.align == 32
    assert all(buffer.address % 32 == 0 for buffer in program.buffers)
    assert check(program, found).problems == ()
    assert program.off_chip_bytes == 36 + 252 + 252


def test_parts_stay_in_a_concatenation_only_where_they_are_aligned() -> None:
    found = networks.extracted(
        "g (float[1,10] x, float[1,10] z) => (float[1,20] y) {"
        " a = Sqrt(x) b = Softmax(z) y = Concat<axis = 1>(a, b) }"
    )
    offsets = [share.offset for share in found.graph.operators[-1].shares]
    assert offsets == [0, 40]
    assert [share.offset for share in aligned(found, 8).operators[-1].shares] == [0, 40]
    assert [share.offset for share in aligned(found, 16).operators[-1].shares] == [0]
