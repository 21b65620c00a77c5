"""compress.run from end to end: what a user hands in, and what a user gets back."""

from __future__ import annotations

import contextlib
import functools

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from small_networks import cnn, encoder, floats, images, network, sentences

import compress
from compress.errors import ModelError, UsageError
from compress.hardware import timing


def session(model):
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def outputs(model, feeds):
    opened = session(model)
    names = [o.name for o in opened.get_outputs()]
    return dict(zip(names, opened.run(names, feeds), strict=True))


def signature(model):
    opened = session(model)
    return [
        [(v.name, v.type, v.shape) for v in values]
        for values in (opened.get_inputs(), opened.get_outputs())
    ]


def integer_layers(result):
    return [x.name for x in result.plan.layers if not x.chosen.startswith("float")]


def check(result, given):
    """What holds for every result, whatever was found."""
    assert signature(result.model) == signature(given)
    report = result.report
    assert result.exit_code == report.exit_code
    assert report.outcome.strip()
    assert sum(c.shipped for c in report.candidates) == 1
    assert report.after.shipped
    # never slower than what was given
    assert report.after.speedup.median >= 1.0
    if report.after.quality.allowed is not None:
        assert report.after.quality.value >= report.after.quality.allowed
    for layer in result.plan.layers:
        assert layer.chosen in [f"{o.technique}:{o.form}" for o in layer.options]
        assert layer.why.strip()
    latencies = [p.latency_us for p in result.frontier]
    assert latencies == sorted(latencies)


def test_a_convolutional_network_becomes_integer(machine):
    given = cnn()
    before = given.SerializeToString()
    result = compress.run(given, data=images())
    check(result, given)
    assert given.SerializeToString() == before
    assert result.exit_code == 0
    assert result.report.after.speedup.median > 1.5
    assert len(integer_layers(result)) >= 4
    assert "integer" in result.report.outcome
    feeds = images(8, seed=9)
    expected, found = (outputs(m, feeds)["scores"] for m in (given, result.model))
    assert (expected.argmax(1) == found.argmax(1)).mean() >= 0.75
    assert np.abs(expected - found).max() < 0.15 * np.abs(expected).max()
    assert not result.report.data.synthetic
    assert result.report.data.samples == 24
    assert result.report.after.size_bytes < result.report.before.size_bytes


def test_what_is_saved_is_what_was_measured(machine, tmp_path):
    result = compress.run(cnn(), data=images())
    folder = result.save(tmp_path / "out")
    written = (folder / "model.onnx").read_bytes()
    assert len(written) == result.report.after.size_bytes
    feeds = images(3)
    found = outputs(onnx.load_from_string(written), feeds)
    np.testing.assert_array_equal(found["scores"], outputs(result.model, feeds)["scores"])
    assert {"model.onnx", "report.json", "plan.json"} <= {p.name for p in folder.iterdir()}


def test_tokens_a_mask_and_two_outputs(machine):
    """int64 ids, a float mask, samples of different lengths, dynamic axes that stay dynamic."""
    given = encoder()
    result = compress.run(given, data=sentences(), budget=compress.Budget(max_drop=0.2))
    check(result, given)
    assert result.exit_code == 0
    assert integer_layers(result)
    for batch, length in ((1, 4), (3, 9)):
        feeds = {
            "ids": np.random.default_rng(0).integers(0, 50, (batch, length)),
            "mask": np.ones((batch, length), np.float32),
        }
        expected, found = outputs(given, feeds), outputs(result.model, feeds)
        for name, array in expected.items():
            assert np.abs(found[name] - array).max() < 0.25 * np.abs(array).max()


def test_an_evaluation_decides(machine):
    """The user's own measure, called with a function that runs the model."""
    feeds = images(16, seed=5)
    labels = outputs(cnn(), feeds)["scores"].argmax(1)
    seen = []

    def accuracy(run):
        scores = run(feeds)["scores"]
        seen.append(scores)
        return float((scores.argmax(1) == labels).mean())

    given = cnn()
    result = compress.run(given, data=images(), evaluate=accuracy)
    check(result, given)
    assert result.report.before.quality.value == 1.0
    assert result.report.after.quality.metric != result.report.before.name
    assert len(seen) >= 2


def test_a_strict_evaluation_keeps_float(machine):
    """A measure that any rounding at all fails: the model is shipped as good as it was."""
    feeds = images(4, seed=5)
    exact = outputs(cnn(), feeds)["scores"]

    def identical(run):
        return 1.0 if np.allclose(run(feeds)["scores"], exact, atol=1e-4) else 0.0

    given = cnn()
    result = compress.run(given, data=images(), evaluate=identical)
    check(result, given)
    assert result.exit_code == 0
    assert integer_layers(result) == []
    np.testing.assert_allclose(outputs(result.model, feeds)["scores"], exact, atol=1e-4)
    refused = [c for c in result.report.candidates if "below" in c.verdict]
    assert refused


def test_without_data_the_samples_are_made_up_and_the_report_says_so(machine):
    given = cnn()
    result = compress.run(given)
    check(result, given)
    assert result.report.data.synthetic
    assert result.report.data.description
    assert result.report.data.samples > 0


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (compress.Budget(max_drop=0.01, max_latency_ms=1e-4), "latency budget"),
        (compress.Budget(max_drop=0.01, speedup=1000.0), "latency budget"),
        (compress.Budget(max_drop=0.01, max_bytes=1000), "size budget"),
    ],
)
def test_budgets_that_cannot_be_met(machine, budget, said):
    given = cnn()
    result = compress.run(given, data=images(), budget=budget)
    check(result, given)
    assert result.exit_code == 1
    assert said in result.report.outcome
    assert result.report.after.size_bytes <= result.report.before.size_bytes


def test_nothing_helps(machine):
    """On a machine where integers are slow the float model comes back, with a reason."""
    machine.integer = 4000.0
    given = cnn()
    result = compress.run(given, data=images())
    check(result, given)
    assert result.exit_code == 0
    assert integer_layers(result) == []
    assert "no" in result.report.outcome
    assert "faster" in result.report.outcome
    assert result.report.after.quality.value == result.report.before.quality.value
    assert all(layer.why for layer in result.plan.layers)


def test_a_size_within_reach(machine):
    given = cnn()
    size = len(given.SerializeToString())
    budget = compress.Budget(max_drop=0.05, max_bytes=size // 2)
    result = compress.run(given, data=images(), budget=budget)
    check(result, given)
    assert result.exit_code == 0
    assert result.report.after.size_bytes <= size // 2


def test_a_speed_within_reach_costs_no_more_quality_than_it_must(machine):
    """Where only speed is asked for, the most faithful model that is fast enough is wanted."""
    given = cnn()
    fastest = compress.run(given, data=images(), budget=compress.Budget(max_drop=1.0))
    modest = compress.run(given, data=images(), budget=compress.Budget(speedup=1.2))
    check(modest, given)
    assert modest.exit_code == 0
    assert modest.report.after.speedup.median >= 1.2
    assert modest.report.after.fidelity.distortion < fastest.report.after.fidelity.distortion


def test_an_unchanged_model_is_not_an_error(machine):
    """Nothing in it could ever be an integer."""
    given = network("g (float[N,8] x) => (float[N,8] y) { a = Exp (x) y = Tanh (a) }")
    result = compress.run(given)
    check(result, given)
    assert result.exit_code == 0


def test_quantized_models_are_refused(machine):
    quantized = compress.run(cnn(), data=images()).model
    with pytest.raises(ModelError, match="already") as caught:
        compress.run(quantized, data=images())
    assert "\n" not in str(caught.value)


def test_ir_models_and_files_are_left_as_they_are(machine, tmp_path):
    path = tmp_path / "cnn.onnx"
    onnx.save(cnn(), path)
    before = path.read_bytes()
    loaded = ir.from_proto(cnn())
    text = ir.to_proto(loaded).SerializeToString(deterministic=True)
    from_file = compress.run(path, data=images())
    from_model = compress.run(loaded, data=images())
    assert path.read_bytes() == before
    assert ir.to_proto(loaded).SerializeToString(deterministic=True) == text
    first, second = (
        ir.to_proto(r.model).graph.SerializeToString(deterministic=True)
        for r in (from_file, from_model)
    )
    assert first == second


def test_metadata_survives(machine):
    given = cnn()
    entry = given.metadata_props.add()
    entry.key, entry.value = "labels", "cat,dog"
    given.doc_string = "what it is for"
    result = compress.run(given, data=images())
    shipped = ir.to_proto(result.model)
    assert [(e.key, e.value) for e in shipped.metadata_props] == [("labels", "cat,dog")]
    assert shipped.doc_string == "what it is for"


def test_an_if_that_stays_passes_through(machine):
    given = network(
        "g (float[N,4,8,8] x, bool flag) => (float[N,8,6,6] y) {"
        " a = Conv (x, w, b) c = Relu (a) d = Conv (c, u, b)"
        " y = If (flag) <then_branch = t () => (float[N,8,6,6] p) { p = Relu (d) },"
        " else_branch = e () => (float[N,8,6,6] q) { q = Add (c, d) }> }",
        w=floats(8, 4, 3, 3),
        b=floats(8),
        u=floats(8, 8, 1, 1),
    )
    data = [
        {"x": floats(2, 4, 8, 8, seed=i, scale=1.0), "flag": np.array(bool(i % 2))}
        for i in range(6)
    ]
    result = compress.run(given, data=data)
    check(result, given)
    assert [n.op_type for n in result.model.graph if n.op_type == "If"] == ["If"]
    assert integer_layers(result)
    for sample in data[:2]:
        expected, found = outputs(given, sample)["y"], outputs(result.model, sample)["y"]
        assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_a_fixed_input_decides_an_if(machine):
    given = network(
        "g (float[N,8] x, bool flag) => (float[N,8] y) {"
        " y = If (flag) <then_branch = t () => (float[N,8] p) { p = Gemm (x, w) },"
        " else_branch = e () => (float[N,8] q) { q = Exp (x) }> }",
        w=floats(8, 8),
    )
    result = compress.run(given, fixed_inputs={"flag": True})
    assert [v.name for v in result.model.graph.inputs] == ["x"]
    assert "If" not in [n.op_type for n in result.model.graph]
    x = floats(3, 8, seed=4)
    expected = outputs(given, {"x": x, "flag": np.array(True)})["y"]
    assert np.abs(outputs(result.model, {"x": x})["y"] - expected).max() < 0.1


def test_operators_of_the_runtime_pass_through(machine):
    """Whose shapes and types nobody but onnxruntime knows."""
    given = network(
        "g (float[N,4,8,8] x) => (float[N,8,6,6] y) {"
        " a = Conv (x, w, b) c = com.microsoft.Gelu (a) d = Conv (c, u, b)"
        " e = com.microsoft.QuickGelu <alpha = 1.7> (d) f = Conv (e, u, b) y = Relu (f) }",
        w=floats(8, 4, 3, 3),
        b=floats(8),
        u=floats(8, 8, 1, 1),
    )
    data = {"x": floats(10, 4, 8, 8, scale=1.0)}
    result = compress.run(given, data=data, budget=compress.Budget(max_drop=0.2))
    check(result, given)
    ran = [n.op_type for n in result.model.graph]
    assert "Gelu" in ran
    assert "QuickGelu" in ran
    assert integer_layers(result)


def test_strings_pass_through(machine):
    given = network(
        "g (string[N] s, float[N,32] x) => (string[N] t, float[N,32] y)"
        " { t = Identity (s) y = Gemm (x, w) }",
        w=floats(32, 32),
    )
    feeds = {"s": np.array(["a", "b"]), "x": floats(2, 32)}
    result = compress.run(given, data=[feeds], budget=compress.Budget(max_drop=0.2))
    assert list(outputs(result.model, feeds)["t"]) == ["a", "b"]
    assert integer_layers(result)
    with pytest.raises(ModelError, match="'s'") as caught:
        compress.run(given)
    assert "\n" not in str(caught.value)


def test_operators_that_nobody_knows_are_named(machine):
    given = network(
        '<ir_version: 8, opset_import: ["" : 17, "own" : 1]>'
        "g (float[N,4] x) => (float[N,4] y) { a = Relu (x) y = own.Mystery (a) }"
    )
    with pytest.raises(ModelError, match="Mystery") as caught:
        compress.run(given)
    assert "\n" not in str(caught.value)


def test_a_fixed_shape_becomes_part_of_the_model(machine):
    result = compress.run(cnn(), data=images(), shapes={"image": [1, 3, 12, 12]})
    assert session(result.model).get_inputs()[0].shape == [1, 3, 12, 12]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"objective": "beauty"}, "beauty"),
        ({"techniques": ["distil"]}, "distil"),
        ({"target": "no-such-device"}, "no-such-device"),
        ({"data": {"picture": np.zeros((3, 3, 12, 12), np.float32)}}, "image"),
        ({"data": {"image": np.full((3, 3, 12, 12), np.nan, np.float32)}}, "NaN"),
        ({"evaluate": 3}, "eval"),
    ],
)
def test_calls_that_make_no_sense(machine, options, said):
    with pytest.raises(UsageError, match=said) as caught:
        compress.run(cnn(), **{"data": images(), **options})
    assert "\n" not in str(caught.value)


def test_measured_for_real(cache, monkeypatch):
    """No made-up figures: kernels and processes are timed, only more briefly than usual."""
    brief = functools.partial(timing.time_models, restarts=2, seconds=0.05)
    monkeypatch.setattr("compress.backends.trials.time_models", brief)
    given = cnn()
    result = compress.run(given, data=images(8))
    check(result, given)
    assert result.exit_code == 0
    assert result.report.after.latency.median_ms > 0
    assert all(o.latency_us > 0 for x in result.plan.layers for o in x.options if x.macs)


def test_one_step_after_the_other(machine):
    """Progress is told in steps that begin and end; notes are one line."""
    told, open_steps = [], []

    class Listening:
        @contextlib.contextmanager
        def step(self, title, total=None):
            assert not open_steps
            open_steps.append(title)
            done = []
            yield lambda: done.append(1)
            told.append((title, total, len(done)))
            open_steps.pop()

        def note(self, text):
            assert "\n" not in text

    result = compress.run(cnn(), data=images(), progress=Listening())
    assert len(told) >= 6
    assert {name for name, _, _ in told} == {s.name for s in result.report.steps}
    for title, total, done in told:
        assert total is None or done <= total, title


def test_an_evaluation_that_fails_is_the_users_error(machine):
    def broken(run):
        raise RuntimeError("the disk is on fire")

    with pytest.raises(UsageError, match="the disk is on fire"):
        compress.run(cnn(), data=images(), evaluate=broken)
