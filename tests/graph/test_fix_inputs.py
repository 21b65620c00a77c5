"""Inputs get the shapes and values asked for, or a line that says why not."""

from __future__ import annotations

import numpy as np
import pytest

from compress.errors import UsageError
from compress.graph.fix_inputs import FixInputs

TEXT = """
g (float[N,3,H,H] x, int64[N] ids, bool training, float[?] scale) => (float[N,10] y, float[H] z) {
    y = own.Net (x, ids, training, scale)
    z = own.Other (x)
}
"""


def test_shapes_and_values(parse, golden_pass_once):
    golden_pass_once(
        "fix_inputs",
        parse(TEXT),
        FixInputs(
            shapes={"x": (2, 3, 32, 32), "scale": (4,)}, values={"training": "false", "scale": 0.5}
        ),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shapes": {"X": (1,)}}, "no input 'X'; its inputs are: x, ids, training, scale"),
        ({"values": {"y": 1}}, "no input 'y'; its inputs are"),
        ({"shapes": {"x": (1, 3, 8)}}, "has 3 dimensions; the model's has 4: Nx3xHxH"),
        ({"shapes": {"x": (1, 4, 8, 8)}}, "1x4x8x8 for input 'x' does not fit the model's Nx3xHxH"),
        ({"shapes": {"x": (1, 3, 8, 9)}}, "makes the dimension 'H' both 8 and 9"),
        ({"shapes": {"x": (1, 3, 8, 8), "ids": (2,)}}, "makes the dimension 'N' both 1 and 2"),
        ({"shapes": {"x": (0, 3, 8, 8)}}, "dimensions are positive, or -1"),
        ({"shapes": {"x": (-2, 3, 8, 8)}}, "dimensions are positive, or -1"),
        ({"values": {"training": "maybe"}}, "'maybe' cannot be the value of input 'training'"),
        ({"values": {"ids": [1.5]}}, "cannot be the value of input 'ids'"),
        ({"values": {"ids": "1.5"}}, "cannot be the value of input 'ids'"),
        ({"values": {"ids": 3}}, "'ids' has the dynamic shape N: fix it with --shape"),
        ({"values": {"ids": [[3, 4]]}}, "has shape 1x2; the model's is N"),
        ({"values": {"training": object()}}, "cannot be the value of input 'training'"),
        ({"shapes": {"ids": (3,)}, "values": {"ids": [1, 2]}}, "has shape 2; the model's is 3"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(parse, options, message):
    with pytest.raises(UsageError) as caught:
        FixInputs(**options).run(parse(TEXT))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_keep_the_dtype_of_the_input(parse):
    model = parse(TEXT)
    FixInputs(shapes={"ids": (3,)}, values={"ids": "7,8,9", "training": 1}).run(model)
    values = {k: v.const_value.numpy() for k, v in model.graph.initializers.items()}
    assert values["ids"].dtype == np.int64
    assert values["ids"].tolist() == [7, 8, 9]
    assert values["training"].dtype == bool
    assert [v.name for v in model.graph.inputs] == ["x", "scale"]


def test_large_integers_are_exact(parse):
    model = parse("g (int64 n) => (int64 m) { m = Neg (n) }")
    FixInputs(values={"n": str(2**62 + 1)}).run(model)
    assert int(model.graph.initializers["n"].const_value.numpy()) == 2**62 + 1


def test_minus_one_keeps_a_dimension(parse):
    model = parse(TEXT)
    FixInputs(shapes={"x": (-1, 3, 8, 8)}).run(model)
    assert str(model.graph.inputs[0].shape) == "[N,3,8,8]"
    assert str(model.graph.outputs[0].shape) == "[N,10]"


def test_an_input_that_is_an_output_keeps_its_name(parse, run):
    text = "g (float[2] x, float[2] k) => (float[2] k, float[2] y) { y = Add (x, k) }"
    model = parse(text)
    FixInputs(values={"k": [1.0, 2.0]}).run(model)
    found = run(model, {"x": np.zeros(2, np.float32)})
    assert {name: a.tolist() for name, a in found.items()} == {"k": [1, 2], "y": [1, 2]}


def test_a_default_can_be_overridden(parse, run):
    model = parse("g (float[2] x, float[2] k) => (float[2] y) { y = Add (x, k) }",
                  k=np.array([5, 5], np.float32))  # fmt: skip
    FixInputs(values={"k": [1.0, 2.0]}).run(model)
    assert run(model, {"x": np.zeros(2, np.float32)})["y"].tolist() == [1, 2]


def test_nothing_asked_nothing_done(parse):
    assert not FixInputs().run(parse(TEXT))
