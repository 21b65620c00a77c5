"""What happened, as report and plan: every sentence is backed by its figures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from small_networks import cnn, encoder, images, network, sentences

import compress
from compress.graph.layers import Layer
from compress.hardware.timing import Samples
from compress.passes.base import Boundary, Budget, Option
from compress.passes.select import Problem
from compress.stages.record import (
    describe_budget,
    latency_record,
    peak_memory,
    ratio_record,
    version,
    why,
)


def option(form, us, *, reads=(), writes=(), distortion=0.0):
    return Option(
        "float" if form == "float" else "quantize",
        form,
        ("l",),
        us,
        0,
        distortion,
        reads_uint8=frozenset(reads),
        writes_uint8=frozenset(writes),
    )


def layer(parse_weight=True):
    import onnx_ir as ir

    node = ir.node("Conv", [None], name="l")
    weight = ir.Value(name="w") if parse_weight else None
    return Layer("l", "Conv", node, (), node.outputs[0], (node,), weight)


FLOAT, FAST = option("float", 100.0), option("int8", 30.0, reads="x", writes="y", distortion=0.02)


def reason(options, taken, boundaries=(), *, weighted=True, shipped_float=False):
    problem = Problem(tuple(options), {b.value: b for b in boundaries})
    return why(layer(weighted), options, taken, problem, shipped_float=shipped_float)


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        (reason([FLOAT], FLOAT), ["no integer form"]),
        (reason([FLOAT], FLOAT, weighted=False), ["no integer form", "operator"]),
        (reason([FLOAT, FAST], FAST), ["saves 70", "100 us", "0.02"]),
        (
            reason([FLOAT, slow := option("int8", 130.0, reads="x")], slow),
            ["30 us", "neighbours"],
        ),
        (reason([FLOAT, FAST], FLOAT, shipped_float=True), ["whole network"]),
        (
            reason([FLOAT, FAST], FLOAT, [Boundary("x", 50, 0), Boundary("y", 40, 0)]),
            ["save 70 us", "conversions", "90"],
        ),
        (
            reason([FLOAT, FAST], FLOAT, [Boundary("x", 5, 0, 0.1), Boundary("y", 5, 0, 0.2)]),
            ["save 70 us", "0.32", "distortion"],
        ),
    ],
)
def test_reasons(sentence, words):
    for word in words:
        assert word in sentence
    assert "\n" not in sentence


def test_budgets_in_words():
    assert describe_budget(Budget(), "size") == {"objective": "size"}
    said = describe_budget(Budget(0.01, False, 5.0, 2.0, 1000), "latency")
    assert said["max drop"] == "0.01 of the quality"
    assert said["max latency"] == "5 ms"
    assert said["speed-up"] == "2x"
    assert said["max size"] == "1000 bytes"
    assert describe_budget(Budget(0.01, True), "latency")["max drop"] == "0.01"


def test_figures_of_timings():
    samples = Samples(((1.0, 2.0, 3.0), (3.0, 4.0, 5.0)))
    record = latency_record(samples)
    assert (record.median_ms, record.runs) == (3.0, 6)
    assert record.p10_ms < record.median_ms < record.p90_ms
    ratio = ratio_record(samples, Samples(((1.0,), (1.0,))))
    assert (ratio.median, ratio.rounds) == (3.0, 2)
    assert ratio.low <= ratio.median <= ratio.high


def test_versions_and_memory():
    assert version("numpy") == np.__version__
    assert version("no-such-distribution") == ""
    assert peak_memory() > 2**20


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A convolutional network and an encoder, on a machine that is known."""
    from known_machine import KnownMachine

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPRESS_CACHE", str(tmp_path_factory.mktemp("cache")))
        KnownMachine().install(patch)
        budget = compress.Budget(max_drop=0.2, speedup=1.1)
        return {
            "cnn": (cnn(), compress.run(cnn(), data=images(), budget=budget)),
            "encoder": (encoder(), compress.run(encoder(), data=sentences(), budget=budget)),
        }


@pytest.mark.parametrize("name", ["cnn", "encoder"])
def test_a_report_describes_its_model(name, results):
    given, result = results[name]
    info = result.report.model
    assert info.size_bytes == pytest.approx(len(given.SerializeToString()), rel=0.02)
    assert info.nodes == len(given.graph.node)
    assert info.parameters == sum(int(np.prod(t.dims)) for t in given.graph.initializer)
    assert len(info.inputs) == len(given.graph.input)
    for described, value in zip(info.inputs, given.graph.input, strict=True):
        assert described.startswith(f"{value.name}: ")
    assert result.report.seed == 0
    assert result.report.versions["onnxruntime"]
    assert result.report.device["fingerprint"]
    assert result.report.peak_memory_bytes > 2**20
    # JSON, with no NaN or infinity in it
    text = result.report.model_dump_json()
    json.loads(text, parse_constant=pytest.fail)
    json.loads(result.plan.model_dump_json(), parse_constant=pytest.fail)


@pytest.mark.parametrize("name", ["cnn", "encoder"])
def test_a_plan_adds_up(name, results):
    _, result = results[name]
    plan, after = result.plan, result.report.after
    names = [x.name for x in plan.layers]
    assert len(set(names)) == len(names)
    forms = [x.chosen.split(":")[1] for x in plan.layers]
    counted = {form: forms.count(form) for form in set(forms)}
    assert {k: v for k, v in after.forms.items() if v} == counted
    for x in plan.layers:
        assert [o.form for o in x.options].count("float") == 1
        assert all(o.bytes >= 0 for o in x.options)
    assert sum(p.shipped for p in plan.frontier) == 1
    shipped = next(p for p in plan.frontier if p.shipped)
    assert plan.solver.value_us == pytest.approx(shipped.latency_us)
    assert plan.solver.bound_us <= plan.solver.value_us
    assert plan.solver.status in ("optimal", "feasible")
    assert plan.solver.layers == len(plan.layers)
    assert plan.solver.options == sum(len(x.options) for x in plan.layers)
    # on this machine a prediction is what is measured, up to what stands between the layers
    assert after.predicted_us == pytest.approx(1e3 * after.latency.median_ms, rel=0.35)


def test_every_candidate_has_its_verdict(results):
    for _, result in results.values():
        for candidate in result.report.candidates:
            assert candidate.verdict
            assert candidate.size_bytes > 0
            assert candidate.quality.reference == result.report.before.quality.value
        assert result.report.candidates[0].name == result.report.before.name


def test_unnamed_and_unsized_inputs_are_described(machine):
    given = network("g (float[A,B] x) => (float[A,B] y) { y = Exp (x) }")
    result = compress.run(given)
    assert result.report.model.inputs == ["x: float[A,B]"]


def test_without_quantize_nothing_is_said_of_integer_forms():
    problem = Problem((FLOAT,), {})
    sentence = why(layer(), [FLOAT], FLOAT, problem, shipped_float=True, integers=False)
    assert "integer form" not in sentence
    assert "quantize" in sentence
