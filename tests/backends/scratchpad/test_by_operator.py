"""Ties that onnxruntime rounds by the shape of a crop are let through, and nothing else is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scratchpad_networks as networks

from compress.backends.scratchpad import by_operator
from compress.backends.scratchpad.by_operator import Recorder, compare_operators
from compress.backends.scratchpad.execute import execute
from compress.backends.scratchpad.prove import SAME_INPUTS, one_by_one, prove
from compress.execute.runtime import Array
from compress.passes.schedule.extract import Extracted
from compress.passes.schedule.lower_whole import lower_whole
from compress.passes.schedule.program import Buffer, Program, Step

CHANNELS, ROWS, WIDTH = 64, 24, 7
STEPS = 8000
"""By how much a sum of products of integers differs between two levels of the output: one in that
many is a tie."""


@pytest.fixture(scope="module")
def tied() -> Extracted:
    """Two convolutions. The second one computes crops of a single row in another kernel."""
    generator = np.random.default_rng(0)
    shape = f"int8[1,{CHANNELS},{ROWS},{WIDTH}]"
    weights = (CHANNELS, CHANNELS, 3, 3)
    return networks.extracted(
        f"g ({shape} x) => ({shape} y) {{"
        " f = DequantizeLinear(x, s, z) a = DequantizeLinear(v, t, o)"
        " b = Conv<pads = [1, 1, 1, 1]>(f, a) c = QuantizeLinear(b, u, z)"
        " d = DequantizeLinear(c, s, z) e = DequantizeLinear(w, t, o)"
        " g = Conv<pads = [1, 1, 1, 1]>(d, e) y = QuantizeLinear(g, u, z) }",
        v=generator.integers(-127, 128, weights).astype(np.int8),
        w=generator.integers(-127, 128, weights).astype(np.int8),
        s=np.array(0.1, np.float32),
        t=np.array(0.03, np.float32),
        u=np.array(0.1 * 0.03 * STEPS, np.float32),
        z=np.array(3, np.int8),
        o=np.array(0, np.int8),
    )


@pytest.fixture(scope="module")
def feeds() -> dict[str, Array]:
    generator = np.random.default_rng(1)
    return {"x": generator.integers(-128, 128, (1, CHANNELS, ROWS, WIDTH)).astype(np.int8)}


def row_by_row(found: Extracted) -> Program:
    """Every operator computes one row at a time."""
    plan = networks.plain_plan(found.graph)
    program = lower_whole(found, plan, plan.peak)
    steps: list[Step] = []
    for step in program.steps:
        if step.kind == "compute":
            steps += [dataclasses.replace(step, rows=(r, r + 1)) for r in range(ROWS)]
        else:
            steps.append(step)
    late = tuple(dataclasses.replace(b, first=0, last=len(steps)) for b in program.buffers)
    return Program(program.capacity, late, tuple(steps))


def recorded(found: Extracted, feeds: dict[str, Array]) -> tuple[dict[str, Array], Recorder]:
    recorder = Recorder(found)
    return execute(row_by_row(found), found, feeds, recorder), recorder


def test_rows_one_by_one_are_proven(tied: Extracted, feeds: dict[str, Array]) -> None:
    """Whichever kernels this machine's onnxruntime has; elements that differ are counted."""
    comparison = prove(row_by_row(tied), tied, feeds)
    assert comparison.holds
    assert comparison.exact == (comparison.reference != SAME_INPUTS)
    assert comparison.exact == (comparison.differing == 0)
    assert comparison.differing <= 2


def test_stripes_are_put_together(tied: Extracted, feeds: dict[str, Array]) -> None:
    found, recorder = recorded(tied, feeds)
    assert recorder.consistent
    assert all(rows.all() for rows in recorder.made.values())
    np.testing.assert_array_equal(recorder.arrays["y"], found["y"])
    assert np.abs(recorder.arrays["y"] - one_by_one(tied, feeds)["y"].astype(int)).max() <= 1


def distances(found: Extracted, feeds: dict[str, Array]) -> Array:
    """How far what the first convolution rounds lies from halfway; infinite near the ends."""
    exact = by_operator._before_rounding(found.kernels[0], found, feeds)
    assert exact is not None
    return np.where(np.abs(exact) < 120, np.abs(exact - np.floor(exact) - 0.5), np.inf)


@pytest.mark.parametrize(("far", "holds"), [(0.0, True), (0.1, False)])
def test_only_ties_may_differ(
    tied: Extracted, feeds: dict[str, Array], far: float, holds: bool
) -> None:
    """One element of the first convolution on the next level, and what follows computed from it."""
    _, recorder = recorded(tied, feeds)
    wanted = by_operator._run(tied.kernels[0], tied, feeds)["c"]
    exact = by_operator._before_rounding(tied.kernels[0], tied, feeds)
    assert exact is not None
    place = np.unravel_index(np.argmin(np.abs(distances(tied, feeds) - far)), wanted.shape)
    wanted[place] = 2 * np.floor(exact[place]) + 1 - wanted[place]
    recorder.arrays["c"] = wanted
    recorder.arrays["y"] = by_operator._run(tied.kernels[1], tied, recorder.arrays)["y"]
    found = {"y": recorder.arrays["y"]}
    agreement = compare_operators(tied, feeds, found, recorder)
    assert (agreement.holds, agreement.differing) == (holds, 1)


def test_ties_are_few(
    tied: Extracted, feeds: dict[str, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is a tie is not enough where everything is taken for one."""
    monkeypatch.setattr(by_operator, "TIE", 1.0)
    _, recorder = recorded(tied, feeds)
    recorder.arrays["c"] = np.clip(recorder.arrays["c"], -128, 126) + np.int8(1)
    recorder.arrays["y"] = by_operator._run(tied.kernels[1], tied, recorder.arrays)["y"]
    agreement = compare_operators(tied, feeds, {"y": recorder.arrays["y"]}, recorder)
    assert not agreement.holds
    assert agreement.differing > 1000


def test_outputs_are_what_operators_wrote(tied: Extracted, feeds: dict[str, Array]) -> None:
    found, recorder = recorded(tied, feeds)
    assert compare_operators(tied, feeds, found, recorder).holds
    found["y"] = found["y"].copy()
    found["y"].reshape(-1)[5] ^= 1
    assert not compare_operators(tied, feeds, found, recorder).holds


def test_operators_that_never_ran(tied: Extracted, feeds: dict[str, Array]) -> None:
    found, recorder = recorded(tied, feeds)
    del recorder.arrays["c"]
    assert not compare_operators(tied, feeds, found, recorder).holds


def with_a_wrong_row(program: Program) -> Program:
    """While the first convolution computes row 5, row 4 of its input has the content of row 3."""
    steps = list(program.steps)
    first = next(step.operator for step in steps if step.kind == "compute")
    number = next(
        i for i, step in enumerate(steps) if (step.operator, step.rows) == (first, (5, 6))
    )
    wrong = Step("load", outputs=("shifted",), rows=(3, 4))
    right = Step("load", outputs=("x",), rows=(4, 5))
    steps[number : number + 1] = [wrong, steps[number], right]
    image = program.by_name["x"]
    shifted = dataclasses.replace(image, name="shifted", address=image.address + WIDTH)
    buffers: tuple[Buffer, ...] = (*program.buffers, shifted)
    return Program(program.capacity + WIDTH, buffers, tuple(steps))


@pytest.mark.parametrize("similar", [False, True])
def test_one_wrong_row_is_refused(tied: Extracted, feeds: dict[str, Array], similar: bool) -> None:
    """Even where it differs from the right one by a level, and outputs by one as well."""
    image = feeds["x"].copy()
    if similar:
        image[:, :, 4] = np.clip(image[:, :, 3], -128, 126) + np.int8(1)
    comparison = prove(with_a_wrong_row(row_by_row(tied)), tied, {"x": image})
    assert not comparison.holds
    assert not comparison.exact


def test_rows_that_are_computed_twice_are_the_same() -> None:
    found = networks.extracted("g (float[1,2,4,3] x) => (float[1,2,4,3] y) { y = Relu(x) }")
    recorder = Recorder(found)
    rows = np.ones((1, 2, 2, 3), np.float32)
    recorder("y", (0, 2), rows)
    recorder("y", (1, 3), rows)
    assert recorder.consistent
    assert recorder.made["y"].tolist() == [True, True, True, False]
    recorder("y", (2, 4), 2 * rows)
    assert not recorder.consistent


def test_floats_among_integers_are_compared_as_floats() -> None:
    ours = np.array([1.0, np.inf, np.nan])
    assert by_operator._close(ours, ours.copy())
    assert by_operator._close(ours + 1e-6, ours)
    assert not by_operator._close(ours + 1e-4, ours)
    assert not by_operator._close(np.array([1.0, np.inf, 0.0]), ours)
