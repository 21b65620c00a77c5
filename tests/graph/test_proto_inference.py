"""Inference follows symbols through shape arithmetic, in bounded time whatever the lengths."""

from __future__ import annotations

import time

import numpy as np

from compress.graph.printer import to_text
from compress.graph.proto_inference import infer_types


def dims(types, name):
    return types[name][1]


def test_symbols_are_followed_through_short_vectors(parse):
    model = parse("""g (float[N,T,12] x) => (float[?,?,?,?] y) {
        s = Shape (x) n = Slice (s, zero, two) t = Concat <axis = 0> (n, three, four)
        y = Reshape (x, t) p = Add (n, n) }""",
        zero=np.array([0]), two=np.array([2]), three=np.array([3]), four=np.array([4]),
    )  # fmt: skip
    before = to_text(model)
    types = infer_types(model)
    assert dims(types, "y") == ["N", "T", 3, 4]
    assert dims(types, "p") == [2]
    assert to_text(model) == before


def test_long_vectors_take_no_time(parse):
    # Followed value by value, one of these additions would take minutes and all memory.
    model = parse("""g (float[1] x, int64[1] i) => (float[?] y, int64[?] j) {
        s = Shape (x) a = ConstantOfShape (n) y = Add (x, a)
        b = ConstantOfShape <value = int64[1] {1}> (n) j = Mul (b, i)
        c = Concat <axis = 0> (b, b) d = Cast <to = 1> (b) e = Unsqueeze (b, zero)
        f = Squeeze (e, zero) g = Size (b) h = Gather (b, zero) }""",
        n=np.array([1 << 40]), zero=np.array([0]))  # fmt: skip
    started = time.perf_counter()
    types = infer_types(model)
    assert time.perf_counter() - started < 5
    assert {name: dims(types, name) for name in "yjcdefgh"} == {
        "y": [1 << 40], "j": [1 << 40], "c": [1 << 41], "d": [1 << 40], "e": [1, 1 << 40],
        "f": [1 << 40], "g": [], "h": [1],
    }  # fmt: skip


def test_operators_like_their_input(parse):
    model = parse("""g (float16[N,4,T] x) => (float16[?,?,?] y, float16[?,?,?] z) {
        y = GroupNormalization <num_groups = 2> (x, k, k) z = com.microsoft.FastGelu (x, k) }""",
        k=np.ones(4, np.float16))  # fmt: skip
    types = infer_types(model)
    assert dims(types, "y") == dims(types, "z") == ["N", 4, "T"]
    assert types["z"][0].dtype.name == "FLOAT16"
    assert [n.op_type for n in model.graph] == ["GroupNormalization", "FastGelu"]
