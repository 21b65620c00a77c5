"""The static check of programs: a valid one passes, and each rule that is broken is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import scratchpad_networks as networks
from small_networks import floats

from compress.backends.scratchpad.check import check
from compress.passes.schedule.extract import Extracted, extract
from compress.passes.schedule.lower_whole import lower_whole
from compress.passes.schedule.program import Buffer, Program, Step

SMALL = (
    "g (float[1,2,4,3] x) => (float[1,2,4,3] y) {"
    " a = Conv<pads = [1,1,1,1]>(x, w) b = Sigmoid(a) y = Add(a, b) }"
)


@pytest.fixture(scope="module")
def small() -> Extracted:
    return networks.extracted(SMALL, w=floats(2, 2, 3, 3))


def whole(found: Extracted) -> Program:
    plan = networks.plain_plan(found.graph)
    return lower_whole(found, plan, plan.peak)


def changed(program: Program, name: str, **fields: object) -> Program:
    buffers = tuple(
        dataclasses.replace(b, **fields) if b.name == name else b for b in program.buffers
    )
    return dataclasses.replace(program, buffers=buffers)


def step_changed(program: Program, number: int, **fields: object) -> Program:
    steps = list(program.steps)
    steps[number] = dataclasses.replace(steps[number], **fields)
    return dataclasses.replace(program, steps=tuple(steps))


def without(program: Program, number: int) -> Program:
    steps = program.steps[:number] + program.steps[number + 1 :]
    return dataclasses.replace(program, steps=steps)


@pytest.mark.parametrize("integers", [False, True])
def test_a_valid_program_passes_and_its_bytes_are_counted(integers: bool) -> None:
    found = extract(networks.int8(networks.cnn()) if integers else networks.cnn())
    verdict = check(whole(found), found)
    assert verdict.problems == ()
    assert verdict.extra_bytes == 0
    assert verdict.off_chip_bytes == found.graph.compulsory_bytes


def test_the_program_of_these_tests(small: Extracted) -> None:
    program = whole(small)
    kinds = [step.kind[:2] + step.operator for step in program.steps]
    assert kinds == ["lo", "lo", "coa", "cob", "coy", "st"]
    assert check(program, small).problems == ()


BROKEN: dict[str, tuple[Callable[[Program], Program], str]] = {
    "outside": (lambda p: dataclasses.replace(p, capacity=p.peak - 1), "inside the scratchpad"),
    "alignment": (lambda p: dataclasses.replace(changed(p, "x", address=8), align=16), "x lies at"),
    "below": (lambda p: changed(p, "x", address=-1), "x does not lie inside"),
    "overlap": (lambda p: changed(p, "a", address=p.by_name["x"].address), "overlaps"),
    "too small": (lambda p: changed(p, "y", bytes=95), "y has 95 bytes and needs 96"),
    "lifetime": (lambda p: changed(p, "a", last=2), "uses a outside of its lifetime"),
    "unknown tensor": (lambda p: changed(p, "x", tensor="q"), "holds q, which is no tensor"),
    "not loaded": (lambda p: step_changed(p, 0, kind="store", inputs=("x",), outputs=()), "reads"),
    "weights": (lambda p: step_changed(p, 2, inputs=("x",)), "no room for its weights"),
    "inputs": (lambda p: step_changed(p, 4, inputs=("a",)), "(y) does not read b"),
    "outputs": (lambda p: step_changed(p, 3, outputs=()), "(b) does not write b"),
    "bytes": (lambda p: step_changed(p, 5, bytes=1), "step 5 says 1 bytes and moves 96"),
    "operator": (lambda p: step_changed(p, 3, operator="q"), "q, which is no operator"),
    "never runs": (lambda p: without(p, 3), "b never runs"),
    "not stored": (lambda p: without(p, 5), "y is not off chip in the end"),
    "half stored": (lambda p: step_changed(p, 5, rows=(0, 2), bytes=48), "y is not off chip"),
    "half computed": (lambda p: step_changed(p, 3, rows=(0, 3)), "reads row 3 of b"),
    "no buffer": (lambda p: step_changed(p, 3, inputs=("q",)), "q, which is no buffer"),
    "shared": (
        lambda p: changed(changed(p, "a", shares=("x",)), "a", address=p.by_name["x"].address),
        "(a) may not write over x",
    ),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_what_is_broken_is_named(small: Extracted, rule: str) -> None:
    change, complaint = BROKEN[rule]
    problems = check(change(whole(small)), small).problems
    assert any(complaint in problem for problem in problems), problems


def test_writing_over_an_input_is_allowed_where_the_graph_says_so(small: Extracted) -> None:
    program = whole(small)
    b = program.by_name["b"]
    shared = changed(changed(program, "y", address=b.address, shares=("b",)), "b", shares=("y",))
    assert check(shared, small).problems == ()
    shifted = changed(shared, "y", address=b.address + 4)
    problems = check(dataclasses.replace(shifted, capacity=1000), small).problems
    assert any("(y) may not write over b" in problem for problem in problems)


def test_what_was_written_over_cannot_be_read_again(small: Extracted) -> None:
    program = whole(small)
    b = program.by_name["b"]
    shared = changed(changed(program, "y", address=b.address, shares=("b",)), "b", shares=("y",))
    again = dataclasses.replace(shared, steps=(*shared.steps, shared.steps[4]))
    late = changed(changed(changed(again, "b", last=6), "y", last=6), "a", last=6)
    assert any("step 6 reads" in problem for problem in check(late, small).problems)


def rolling(rows: int = 3) -> Program:
    """The convolution in two stripes of two rows; its input rolls, and `b` lies over `a`."""
    row = 2 * 3 * 4
    weight = 2 * 2 * 9 * 4
    buffers = (
        Buffer("x", "x", 0, rows * row, 0, 5, "rows", rows, row),
        Buffer("w", "w", 100, weight, 1, 5),
        Buffer("a", "a", 300, 96, 2, 7),
        Buffer("b", "b", 400, 96, 6, 7),
        Buffer("y", "y", 500, 96, 7, 8),
    )
    steps = (
        Step("load", outputs=("x",), rows=(0, 3), bytes=3 * row, compulsory=True),
        Step("load", outputs=("w",), bytes=weight, compulsory=True),
        Step("compute", "a", ("x", "w"), ("a",), rows=(0, 2)),
        Step("load", outputs=("x",), rows=(3, 4), bytes=row, compulsory=True),
        Step("compute", "a", ("x", "w"), ("a",), rows=(2, 3)),
        Step("compute", "a", ("x", "w"), ("a",), rows=(3, 4)),
        Step("compute", "b", ("a",), ("b",)),
        Step("compute", "y", ("a", "b"), ("y",)),
        Step("store", inputs=("y",), bytes=96, compulsory=True),
    )
    return Program(600, buffers, steps)


def test_rolling_buffers(small: Extracted) -> None:
    verdict = check(rolling(), small)
    assert verdict.problems == ()
    assert (verdict.off_chip_bytes, verdict.extra_bytes) == (96 * 2 + 144, 0)


def test_a_rolling_buffer_forgets_the_rows_that_others_take_the_place_of(small: Extracted) -> None:
    program = step_changed(rolling(), 4, rows=(1, 3))
    assert check(program, small).problems == ("step 4 reads row 0 of x, which is not there",)
    program = rolling(rows=2)
    problems = check(program, small).problems
    assert "step 0 writes more rows than x has" in problems


def test_rows_loaded_twice_are_extra(small: Extracted) -> None:
    program = rolling()
    again = dataclasses.replace(program, steps=(program.steps[0], *program.steps))
    shifted = tuple(
        dataclasses.replace(b, first=0 if b.name == "x" else b.first + 1, last=b.last + 1)
        for b in again.buffers
    )
    verdict = check(dataclasses.replace(again, buffers=shifted), small)
    assert verdict.problems == ()
    assert verdict.extra_bytes == 3 * 24


def passing(scratch_bytes: int) -> Program:
    """The same with weights that pass through a scratch buffer in each stripe."""
    program = rolling()
    steps = [
        dataclasses.replace(s, inputs=("x",), bytes=144) if s.operator == "a" else s
        for i, s in enumerate(program.steps)
        if i != 1
    ]
    buffers = tuple(
        Buffer("scratch", "", 100, scratch_bytes, 1, 4, "scratch")
        if b.name == "w"
        else dataclasses.replace(b, first=max(0, b.first - 1), last=b.last - 1)
        for b in program.buffers
    )
    return Program(600, buffers, tuple(steps))


def test_weights_may_pass_through(small: Extracted) -> None:
    verdict = check(passing(72), small)
    assert verdict.problems == ()
    assert verdict.extra_bytes == 2 * 144, "they come three times, and once is compulsory"
    problems = check(passing(71), small).problems
    assert all("no room for its weights" in problem for problem in problems)
    assert problems
