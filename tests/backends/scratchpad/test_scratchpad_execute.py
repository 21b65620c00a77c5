"""Programs on real data in one byte buffer: outputs equal onnxruntime's, or the proof fails."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import scratchpad_networks as networks
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import floats
from test_scratchpad_check import SMALL, changed, passing, rolling, whole

from compress.backends.scratchpad.check import check
from compress.backends.scratchpad.execute import execute
from compress.backends.scratchpad.prove import largest_error, one_by_one, prove
from compress.errors import ModelError
from compress.execute.session import Runner
from compress.passes.schedule.extract import Extracted, extract
from compress.passes.schedule.lower_whole import lower_whole
from compress.passes.schedule.problem import Plan, Stay
from compress.passes.schedule.program import Program
from compress.passes.schedule.tiling.chains import plan_order
from compress.passes.schedule.tiling.extract import striped
from compress.passes.schedule.tiling.groups import TilingOptions
from compress.passes.schedule.tiling.lower import lower


@pytest.fixture(scope="module")
def small() -> Extracted:
    return networks.extracted(SMALL, w=floats(2, 2, 3, 3))


def error(program: Program, found: Extracted) -> float:
    feeds = networks.feeds(found.model)
    return largest_error(execute(program, found, feeds), Runner(found.model)(feeds))


def test_float_whole_tensors() -> None:
    found = extract(networks.cnn())
    assert error(whole(found), found) < 1e-6


def test_integers_are_equal_bit_by_bit() -> None:
    found = extract(networks.int8(networks.cnn()))
    comparison = prove(whole(found), found, networks.feeds(found.model))
    assert comparison.holds
    assert comparison.exact
    assert comparison.reference == "onnxruntime on the whole model"


@pytest.mark.parametrize("integers", [False, True])
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_stripes(integers: bool, share: float) -> None:
    found = extract(networks.int8(networks.cnn()) if integers else networks.cnn())
    capacity = int(share * found.graph.largest_working_set)
    program = lower(plan_order(striped(found), capacity, TilingOptions(weight_blocks=2)))
    assert program is not None
    assert any(buffer.layout == "rows" for buffer in program.buffers)
    assert program.peak <= capacity
    assert check(program, found).problems == ()
    assert error(program, found) <= (0.0 if integers else 1e-6)


def test_hand_made_stripes(small: Extracted) -> None:
    assert error(rolling(), small) < 1e-6
    assert error(passing(72), small) < 1e-6


@pytest.mark.parametrize(
    "text",
    [
        "g (float[2,6] x) => (float[3,4] y, float[12] z, float[2,6] c) {"
        " a = Relu(x) b = Reshape(a, s) y = Neg(b) z = Reshape(a, t) c = Identity(k) }",
        "g (float[2,6] x) => (float[2,6] y, float[12] z) { y = Relu(x) z = Reshape(x, t) }",
        "g (float[1,6] x) => (float[1,4] c, float[1,10] d) {"
        " r = Sqrt(x) a, b = Split<axis = 1>(r, sizes) c = Neg(b) d = Concat<axis = 1>(a, c, b) }",
        "g (float[1,20] x) => (float[1,20] y) { a = MatMul(x, w) b = MatMul(a, w) y = Add(b, a) }",
        "g (float[2,3] x) => (bool[2,3] y, int64[2] i) {"
        " y = IsNaN(x) i = ArgMax<axis = 1, keepdims = 0>(x) }",
        "g (int64[1,3] ids) => (float[1,3,20] y) { a = Gather(w, ids) y = Neg(a) }",
    ],
)
def test_views_parts_and_several_outputs(text: str) -> None:
    found = networks.extracted(
        text,
        s=np.array([3, 4]),
        t=np.array([12]),
        k=floats(2, 6),
        sizes=np.array([2, 4]),
        w=floats(20, 20),
    )
    program = whole(found)
    assert check(program, found).problems == ()
    assert error(program, found) == 0.0


def test_what_leaves_comes_back(small: Extracted) -> None:
    names = [tensor.name for tensor in small.graph.tensors]
    x, a, b, y = (names.index(name) for name in "xaby")
    stays = (
        Stay(x, 0, 0, loaded=True, address=0),
        Stay(a, 0, 1, loaded=False, address=240),
        Stay(a, 2, 2, loaded=True, address=0),
        Stay(b, 1, 2, loaded=False, address=96),
        Stay(y, 2, 2, loaded=False, address=96),
    )
    program = lower_whole(small, Plan((0, 1, 2), stays, 192, workspaces=(96, None, None)), 336)
    verdict = check(program, small)
    assert verdict.problems == ()
    assert verdict.extra_bytes == 192
    assert error(program, small) < 1e-6


def test_a_wrong_address_shows_in_the_outputs(small: Extracted) -> None:
    """What the proof is worth: it fails if two tensors overlap that must not."""
    program = whole(small)
    wrong = changed(program, "b", address=program.by_name["a"].address + 4)
    assert error(dataclasses.replace(wrong, capacity=1000), small) > 0.1


def test_weights_that_pass_through_take_the_room_they_say(small: Extracted) -> None:
    wrong = changed(passing(72), "scratch", address=0)
    assert error(wrong, small) > 0.1


def test_a_load_of_what_is_not_off_chip(small: Extracted) -> None:
    program = whole(small)
    wrong = changed(program, "x", tensor="b")
    with pytest.raises(ModelError, match="'b' is not off chip"):
        execute(wrong, small, networks.feeds(small.model))


def test_a_proof_that_does_not_hold(small: Extracted) -> None:
    wrong = changed(whole(small), "b", address=whole(small).by_name["a"].address)
    comparison = prove(wrong, small, networks.feeds(small.model))
    assert not comparison.holds
    assert comparison.largest_error > 0.1


def test_operators_one_by_one_are_the_model() -> None:
    found = extract(networks.int8(networks.cnn()))
    feeds = networks.feeds(found.model)
    assert largest_error(one_by_one(found, feeds), Runner(found.model)(feeds)) == 0.0


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([1.0, 2.0], 0.0),
        ([1.0, 3.0], 0.5),
        ([np.nan, 2.0], np.inf),
        ([1.0], np.inf),
    ],
)
def test_the_largest_error_is_relative_to_the_largest_output(
    found: list[float], expected: float
) -> None:
    wanted = {"y": np.array([1.0, 2.0])}
    assert largest_error({"y": np.array(found)}, wanted) == expected
    assert largest_error({"y": np.array([np.nan])}, {"y": np.array([np.nan])}) == 0.0


@settings(max_examples=25, deadline=None)
@given(
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    pads=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    height=st.integers(7, 11),
    ends=st.sets(st.integers(1, 9), min_size=1, max_size=3),
    kind=st.sampled_from(["Conv", "MaxPool", "AveragePool"]),
)
def test_any_window_in_any_stripes(
    kernel: int,
    stride: int,
    dilation: int,
    pads: tuple[int, int],
    height: int,
    ends: set[int],
    kind: str,
) -> None:
    """Rows in any stripes are the rows of the whole, computed from rolling windows."""
    dilation = 1 if kind == "AveragePool" else dilation
    spread = f", dilations = [{dilation}, 1]" if dilation > 1 else ""
    reach = (kernel - 1) * dilation + 1
    top, bottom = min(pads[0], kernel - 1), min(pads[1], kernel - 1)
    rows = (height + top + bottom - reach) // stride + 1
    attributes = (
        f"kernel_shape = [{kernel}, 2], strides = [{stride}, 1], "
        f"pads = [{top}, 0, {bottom}, 1]{spread}"
    )
    arguments = "x, w" if kind == "Conv" else "x"
    weights = {"w": floats(3, 2, kernel, 2)} if kind == "Conv" else {}
    channels = 3 if kind == "Conv" else 2
    found = networks.extracted(
        f"g (float[1,2,{height},5] x) => (float[1,{channels},{rows},5] y) {{"
        f" y = {kind}<{attributes}>({arguments}) }}",
        **weights,
    )
    assert striped_error(found, sorted({0, rows, *(end for end in ends if end < rows)})) < 1e-6


def striped_error(found: Extracted, cuts: list[int]) -> float:
    """The error of the only operator's rows, computed between these cuts; the check passes."""
    program = whole(found)
    number = next(i for i, step in enumerate(program.steps) if step.kind == "compute")
    stripes = tuple(
        dataclasses.replace(program.steps[number], rows=pair) for pair in itertools.pairwise(cuts)
    )
    steps = (*program.steps[:number], *stripes, *program.steps[number + 1 :])
    late = tuple(dataclasses.replace(b, last=len(steps)) for b in program.buffers)
    made = Program(program.capacity, late, steps)
    assert check(made, found).problems == ()
    return error(made, found)


@pytest.mark.parametrize(
    ("operator", "rows"),
    [
        ('Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, w)', 4),
        ('Conv<auto_pad = "SAME_LOWER", kernel_shape = [3, 3]>(x, w)', 8),
        ('Conv<auto_pad = "VALID">(x, w)', 6),
        ("MaxPool<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>(x)", 4),
        ("AveragePool<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>(x)", 4),
        ("AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(x)", 8),
        ("Concat<axis = 1>(x, x)", 8),
        ("BatchNormalization(x, one, two, two, one)", 8),
    ],
)
def test_however_padding_is_written(operator: str, rows: int) -> None:
    channels = 2 if "Pool" in operator or "Batch" in operator else 4
    found = networks.extracted(
        f"g (float[1,2,8,{8}] x) => (float[1,{channels},{rows},{rows}] y) {{ y = {operator} }}",
        w=floats(4, 2, 3, 3),
        one=floats(2) ** 2 + 1,
        two=floats(2),
    )
    for cuts in ([0, 1, 3, rows], [0, rows - 1, rows]):
        assert striped_error(found, cuts) < 1e-6


@pytest.mark.parametrize(
    "operator",
    [
        "Transpose<perm = [0, 1, 3, 2]>(x)",
        "Concat<axis = 2>(half, half)",
        "Add(x, rows)",
        "Softmax<axis = 2>(x)",
        "AveragePool<kernel_shape = [2, 2], strides = [1, 1], pads = [0, 0, 1, 1],"
        " ceil_mode = 1, count_include_pad = 1>(x)",
    ],
)
def test_what_cannot_run_row_by_row(operator: str) -> None:
    found = networks.extracted(
        "g (float[1,2,8,8] x, float[1,2,4,8] half) => (float[1,2,8,8] y, float[1,2,4,8] z) {"
        f" y = {operator} z = Relu(half) }}",
        rows=floats(8, 8),
    )
    program = whole(found)
    number = next(i for i, s in enumerate(program.steps) if s.operator == "y")
    steps = list(program.steps)
    steps[number] = dataclasses.replace(steps[number], rows=(0, 4))
    made = dataclasses.replace(program, steps=tuple(steps))
    assert any("cannot be computed row by row" in p for p in check(made, found).problems)
    with pytest.raises(ModelError, match="cannot be computed row by row"):
        execute(made, found, networks.feeds(found.model))
