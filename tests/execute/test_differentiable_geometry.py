"""Any geometry of windows, slices, padding and resizing gives what onnxruntime gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from test_differentiable_operators import Case, check, floats, ints

QUICK = settings(max_examples=60, deadline=None)


@st.composite
def windows(draw, most_dilation=3):
    """Attributes of a convolution or a pooling, and an input that they fit."""
    count = draw(st.integers(1, 3))

    def some(low, high):
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    kernel, strides, dilations = some(1, 3), some(1, 3), some(1, most_dilation)
    attributes = {"kernel_shape": kernel, "strides": strides, "dilations": dilations}
    auto = draw(st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if auto == "NOTSET":
        attributes["pads"] = [min(p, k - 1) for p, k in zip(some(0, 2) + some(0, 2), kernel * 2,
                                                          strict=True)]  # fmt: skip
    else:
        # no runtime has automatic padding of dilated windows
        attributes["auto_pad"], dilations = auto, [1] * count
        attributes["dilations"] = dilations
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    sizes = [r + extra for r, extra in zip(reach, some(0, 5), strict=True)]
    return attributes, sizes


@QUICK
@given(windows(), st.sampled_from([1, 2, 4]), st.booleans())
def test_convolutions(place, group, bias):
    attributes, sizes = place
    weight = floats(4, 4 // group, *attributes["kernel_shape"])
    inputs = [floats(2, 4, *sizes), weight, *([floats(4)] if bias else [])]
    check(Case("Conv", inputs, {**attributes, "group": group}))


@QUICK
@given(windows(), st.sampled_from([1, 2]), st.data())
def test_transposed_convolutions(place, group, data):
    attributes, sizes = place
    attributes.pop("auto_pad", None)
    strides = attributes["strides"]
    attributes["output_padding"] = [data.draw(st.integers(0, s - 1)) for s in strides]
    weight = floats(4, 3, *attributes["kernel_shape"])
    check(Case("ConvTranspose", [floats(2, 4, *sizes), weight, floats(3 * group)],
               {**attributes, "group": group}))  # fmt: skip


@QUICK
@given(windows(), st.sampled_from(["MaxPool", "AveragePool"]), st.booleans(), st.booleans())
def test_pooling(place, op_type, ceil, count_padding):
    attributes, sizes = place
    if "auto_pad" in attributes:
        # onnxruntime refuses to skip positions with automatic padding
        pairs = zip(attributes["strides"], attributes["kernel_shape"], strict=True)
        assume(all(stride <= size for stride, size in pairs))
    else:
        attributes["ceil_mode"] = int(ceil)
    if op_type == "AveragePool":
        attributes["count_include_pad"] = int(count_padding)
    check(Case(op_type, [floats(2, 3, *sizes)], attributes))


@QUICK
@given(st.data())
def test_slices(data):
    shape = (4, 5)
    axes = data.draw(st.permutations([0, 1]))[: data.draw(st.integers(1, 2))]
    number = st.one_of(st.integers(-7, 7), st.sampled_from([-(2**63), 2**63 - 1]))
    starts, ends = ([data.draw(number) for _ in axes] for _ in range(2))
    steps = [data.draw(st.sampled_from([-3, -2, -1, 1, 2, 3])) for _ in axes]
    check(Case("Slice", [floats(*shape), ints(*starts), ints(*ends), ints(*axes), ints(*steps)]))


@QUICK
@given(
    st.lists(st.integers(-1, 3), min_size=6, max_size=6),
    st.sampled_from(["constant", "reflect", "edge", "wrap"]),
)
def test_padding(pads, mode):
    # runtimes differ in what a negative pad means to the values that are repeated
    assume(mode == "constant" or min(pads) >= 0)
    check(Case("Pad", [floats(4, 5, 6), ints(*pads)], {"mode": mode}))


@QUICK
@given(
    st.integers(1, 7),
    st.integers(1, 15),
    st.sampled_from(["nearest", "linear"]),
    st.sampled_from(["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]),
    st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
)
def test_resizing(old, new, mode, way, rounding):
    # places that lie in the middle but for rounding go up there
    assume((way, rounding) != ("asymmetric", "round_prefer_ceil"))
    attributes = {"mode": mode, "coordinate_transformation_mode": way, "nearest_mode": rounding}
    check(Case("Resize", [floats(1, 2, old, 3), None, None, ints(1, 2, new, 3)], attributes,
               fixed=(3,)))  # fmt: skip


@QUICK
@given(st.data())
def test_broadcasting(data):
    shape = data.draw(st.lists(st.integers(1, 4), min_size=0, max_size=4))

    def operand():
        own = [1 if data.draw(st.booleans()) else size for size in shape]
        return floats(*own[data.draw(st.integers(0, len(own))) :])

    condition = np.asarray(operand() > 0)
    check(Case("Add", [operand(), operand()]))
    check(Case("Where", [condition, operand(), operand()]))
