"""Structures: merged and pruned networks are found, recovered, judged, shipped if better."""

from __future__ import annotations

import pytest
from small_networks import cnn, floats, images, network

pytest.importorskip("torch")

import compress
from compress.graph.layers import find_layers
from compress.stages import exploring, structures

ALL = ("quantize", "merge", "prune")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(exploring, "RECOVERY_S", 12.0)
    monkeypatch.setattr(exploring, "LOOKS", 2)


def run(model, machine, **options):
    settings = {"data": images(64), "budget": compress.Budget(max_drop=0.4), "techniques": ALL}
    return compress.run(model, **(settings | options))


def convolutions(result):
    return sum(x.op == "Conv" for x in find_layers(result.model)) + sum(
        n.op_type == "QLinearConv" for n in result.model.graph
    )


def test_a_faster_structure_is_shipped_with_the_proof(machine):
    plain = run(cnn(), machine, techniques=("quantize",))
    result = run(cnn(), machine)
    report, plan = result.report, result.plan
    assert report.after.latency.median_ms < plain.report.after.latency.median_ms
    assert report.after.quality.value >= report.after.quality.allowed
    assert convolutions(result) < 3
    (shipped,) = [r for r in plan.recoveries if r.shipped]
    assert shipped.changes
    assert all(r.after <= r.before for r in plan.recoveries)
    assert "recovery" in report.outcome
    # every candidate of every search is in the report, once
    names = [c.name for c in report.candidates]
    assert len(names) == len(set(names))
    assert "float, simplified" in names
    assert any(name.startswith("structure 1-") for name in names)


def test_what_loses_too_much_is_not_shipped(machine, monkeypatch):
    monkeypatch.setattr(exploring, "RECOVERY_S", 0.2)
    result = run(cnn(), machine, budget=compress.Budget(max_drop=0.0))
    quality = result.report.after.quality
    assert quality.value >= quality.allowed
    plain = run(cnn(), machine, techniques=("quantize",), budget=compress.Budget(max_drop=0.0))
    assert result.report.after.latency.median_ms <= plain.report.after.latency.median_ms


def test_nothing_to_merge(machine):
    single = network(
        "one (float[N,3,12,12] image) => (float[N,8,12,12] y)"
        " { y = Conv <pads = [1,1,1,1]> (image, w) }",
        w=floats(8, 3, 3, 3),
    )
    notes = []

    class Listening(compress.progress.Silent):
        def note(self, text):
            notes.append(text)

    result = run(single, machine, progress=Listening())
    assert result.exit_code == 0
    assert any("nothing to merge or prune" in text for text in notes)
    assert not result.plan.recoveries


def test_what_cannot_be_differentiated_is_said(machine, monkeypatch):
    notes = []

    class Listening(compress.progress.Silent):
        def note(self, text):
            notes.append(text)

    monkeypatch.setattr(
        "compress.execute.differentiable.unsupported", lambda model: [next(iter(model.graph))]
    )
    result = run(cnn(), machine, progress=Listening())
    assert any("cannot be differentiated here: Conv" in text for text in notes)
    assert result.exit_code == 0


def test_without_torch_it_says_how_to_get_it(machine, monkeypatch):
    monkeypatch.setattr(structures.importlib.util, "find_spec", lambda name: None)
    notes = []

    class Listening(compress.progress.Silent):
        def note(self, text):
            notes.append(text)

    result = run(cnn(), machine, progress=Listening())
    assert any("pip install" in text for text in notes)
    assert result.exit_code == 0


def test_made_up_data_and_a_single_sample_will_do(machine):
    for data in (None, images(1)):
        result = run(cnn(), machine, data=data)
        quality = result.report.after.quality
        assert quality.value >= quality.allowed


def test_a_second_run_recomputes_nothing(machine):
    first = run(cnn(), machine)
    before = dict(machine.counted)
    second = run(cnn(), machine)
    assert dict(machine.counted) == before
    assert second.report.outcome == first.report.outcome
