"""What lies behind a cut computes what the whole model computes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compress.execute.downstream import Downstream
from compress.execute.session import Runner
from compress.graph.canonical import canonicalize
from compress.graph.printer import to_text
from compress.passes.quantize.probes import ValueProbe

RNG = np.random.default_rng(51)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def parse(text, **tensors):
    head = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]> '
    proto = onnx.parser.parse_model(head + text)
    for name, data in tensors.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(data), name))
    return canonicalize(ir.from_proto(proto))


CHAIN = " ".join(f"v{i} = {('Exp', 'Neg', 'Tanh')[i % 3]} (v{i - 1})" for i in range(1, 20))
W, U = floats(4, 4), floats(4, 4)
MODELS = {
    "chain": ("g (float[N,4] v0) => (float[N,4] v19) { " + CHAIN + " }", {}),
    # an output before most cuts, one in the middle, one at the end
    "outputs_on_the_way": (
        "g (float[N,4] v0) => (float[N,4] v1, float[N,4] v9, float[N,4] v19) { " + CHAIN + " }",
        {}),
    "skips_and_inputs_read_late": (
        "g (float[N,4] v0, float[N,4] z, int64[N] i) => (float[N,4] y, int64[N] j) { " + CHAIN
        + " a = Add (v3, v19) b = Add (a, v0) c = Mul (b, z) y = Gemm (c, w) j = Neg (i) }",
        {"w": W}),
    "shared_weights": (
        "g (float[N,4] v0) => (float[N,4] y) { a = Gemm (v0, w) " + CHAIN.replace("(v0)", "(a)")
        + " b = Gemm (v19, w) y = Gemm (b, u) }", {"w": W, "u": U}),
    # branches read values of the main graph, and weights, from before the cut
    "subgraphs_that_capture": (
        "g (float[N,4] v0, bool flag) => (float[N,4] y) { " + CHAIN
        + " y = If (flag) <then_branch = t () => (float[N,4] p)"
        " { p0 = Add (v2, v19) p = MatMul (p0, w) },"
        " else_branch = e () => (float[N,4] q) { q = If (flag)"
        " <then_branch = tt () => (float[N,4] r) { r = Neg (v0) },"
        " else_branch = ee () => (float[N,4] s) { s0 = Exp (v5) s = Sub (s0, v7) }> }> }",
        {"w": W}),
    # values whose type only the runtime knows
    "operators_of_the_runtime": (
        "g (float[N,4] v0) => (float[N,4] y) { a = com.microsoft.Gelu (v0) "
        + " ".join(f"v{i} = com.microsoft.Gelu ({'a' if i == 1 else f'v{i - 1}'})"
                   for i in range(1, 20)) + " y = Neg (v19) }", {}),
    "loops": (
        "g (float[N,4] v0) => (float[N,4] y) { " + CHAIN
        + " y = Loop (n, , v19) <body = b (int64 k, bool c, float[N,4] h)"
        " => (bool d, float[N,4] o) { d = Identity (c) o = Add (h, v4) }> }",
        {"n": np.array(3)}),
}  # fmt: skip


def samples_of(model, count=3):
    feeds = []
    for index in range(count):
        sample = {}
        for value in model.graph.inputs:
            if value.name == "flag":
                sample["flag"] = np.array(index % 2 == 0)
            elif value.name == "i":
                sample["i"] = np.arange(2 + index)
            else:
                # other batches, too
                sample[value.name] = floats(2 + index, 4)
        feeds.append(sample)
    return feeds


def same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert set(one) <= set(other)
        for name, array in one.items():
            np.testing.assert_allclose(array, other[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_every_tail_computes_the_outputs_behind_it(name):
    text, tensors = MODELS[name]
    model = parse(text, **tensors)
    samples = samples_of(model)
    expected = [Runner(model)(s) for s in samples]
    before = to_text(model, weights=True)
    downstream = Downstream(model, samples, segments=100)
    starts = {downstream.start_of_node(str(node.name)) for node in model.graph}
    assert len(starts) >= 2
    produced = {str(v.name): i for i, n in enumerate(model.graph) for v in n.outputs}
    for start in starts:
        with downstream.tail(start) as tail:
            found = tail.run(lambda tail_model: None)
            same(found, expected)
            # and none is missing
            late = {v.name for v in model.graph.outputs if produced.get(v.name, -1) >= start}
            assert all(late <= set(one) for one in found)
            same(tail.run(lambda tail_model: None), expected)
    assert to_text(model, weights=True) == before


@pytest.mark.parametrize("name", MODELS)
def test_a_change_behind_the_cut_is_the_same_change_in_the_whole(name):
    text, tensors = MODELS[name]
    model = parse(text, **tensors)
    samples = samples_of(model)
    downstream = Downstream(model, samples)
    values = [v.name for v in model.graph.inputs if v.name not in ("flag", "i")]
    values += [
        v.name for n in model.graph for v in n.outputs if n.op_type in ("Exp", "Tanh", "Add")
    ]
    for value in values:
        if value in {v.name for v in model.graph.outputs}:
            continue
        probe = ValueProbe(value, -2.0, 2.0)
        whole = model.clone()
        probe.run(whole)
        expected = [Runner(whole)(s) for s in samples]
        with downstream.tail(downstream.start_of_value(value)) as tail:
            found = tail.run(probe.run)
        same(found, expected)


def test_tails_start_late():
    """The point of it: what lies before the change is not run again."""
    model = parse(MODELS["chain"][0])
    downstream = Downstream(model, samples_of(model), segments=2)
    assert downstream.start_of_value("v0") == 0
    assert downstream.start_of_value("v1") == 0
    last = downstream.start_of_value("v19")
    assert last > 0
    with downstream.tail(last) as tail:
        seen = []
        tail.run(lambda tail_model: seen.append(len(tail_model.graph)))
    assert seen[0] < len(model.graph)


def test_small_models_are_not_cut():
    model = parse("g (float[N,4] x) => (float[N,4] y) { a = Exp (x) y = Neg (a) }")
    downstream = Downstream(model, [{"x": floats(1, 4)}])
    assert {downstream.start_of_node(str(n.name)) for n in model.graph} == {0}


def test_values_at_a_cut_are_bounded(monkeypatch):
    """Fewer samples, rather than more memory; at least one."""
    monkeypatch.setattr("compress.execute.downstream.KEPT_BYTES", 100)
    model = parse(MODELS["chain"][0])
    samples = samples_of(model, 5)
    expected = [Runner(model)(s) for s in samples]
    downstream = Downstream(model, samples)
    with downstream.tail(downstream.start_of_value("v19")) as tail:
        found = tail.run(lambda tail_model: None)
    assert 1 <= len(found) < 5
    same(found, expected[: len(found)])


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_graph(data):
    """Random graphs with skips, several outputs and every cut."""
    count = data.draw(st.integers(8, 24))
    lines, values = [], ["x", "z"]
    for index in range(count):
        first, second = (data.draw(st.sampled_from(values[-6:])) for _ in range(2))
        operation = data.draw(st.sampled_from(["Add", "Sub", "Tanh", "Gemm"]))
        operands = f"{first}, {'w' if operation == 'Gemm' else second}"
        lines.append(f"n{index} = {operation} ({first if operation == 'Tanh' else operands})")
        values.append(f"n{index}")
    outputs = dict.fromkeys([*data.draw(st.lists(st.sampled_from(values[2:]), max_size=2)),
                             values[-1]])  # fmt: skip
    declared = ", ".join(f"float[N,4] {o}" for o in outputs)
    model = parse(
        f"g (float[N,4] x, float[N,4] z) => ({declared}) {{ {' '.join(lines)} }}", w=W / 2
    )
    if not len(model.graph):
        return
    samples = [{"x": floats(2, 4), "z": floats(2, 4)}]
    samples = [{v.name: s[v.name] for v in model.graph.inputs} for s in samples]
    expected = [Runner(model)(s) for s in samples]
    downstream = Downstream(model, samples, segments=data.draw(st.integers(1, 6)))
    for start in {downstream.start_of_node(str(n.name)) for n in model.graph}:
        with downstream.tail(start) as tail:
            same(tail.run(lambda tail_model: None), expected)
