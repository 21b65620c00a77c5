"""Candidates: built, evaluated and timed once each."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
from small_networks import cnn, floats, images

from compress.backends.trials import Workshop, agreement
from compress.errors import UsageError
from compress.evidence.data import InputSpec
from compress.evidence.distortion import Fidelity, OutputKind
from compress.evidence.evaluation import open_evaluation
from compress.evidence.store import EvidenceStore
from compress.execute.session import Runner

SPEC = (InputSpec("image", np.dtype(np.float32), (None, 3, 12, 12)),)


def noisy(size):
    """The network with its last weights disturbed."""
    model = ir.from_proto(cnn())
    weight = model.graph.initializers["w3"]
    array = weight.const_value.numpy()
    weight.const_value = ir.tensor(array + size * floats(*array.shape, seed=77), name="w3")
    return model


@pytest.fixture
def samples():
    return [{"image": x[None]} for x in images(6)["image"]]


@pytest.fixture
def workshop(tmp_path, samples, machine):
    runner = Runner(ir.from_proto(cnn()))
    return Workshop(
        folder=tmp_path,
        store=EvidenceStore.in_memory(),
        evaluation=None,
        samples=samples,
        expected=[runner(s) for s in samples],
        kinds={"scores": OutputKind.VALUES},
        data_key="data",
        feeds=samples[0],
        host="host",
    )


def test_without_an_evaluation_agreement_is_the_quality(workshop):
    exact = workshop.build("exact", noisy(0.0))
    assert workshop.judge(exact) == 1.0
    assert exact.fidelity.distortion == 0.0
    near, far = workshop.build("near", noisy(0.05)), workshop.build("far", noisy(20.0))
    assert 1.0 >= workshop.judge(near) > workshop.judge(far)
    assert 0 < near.fidelity.distortion < far.fidelity.distortion
    assert "agreement" in workshop.metric


def test_quality_without_decisions():
    assert agreement(Fidelity(0.0, 300.0, None)) == 1.0
    assert agreement(Fidelity(1e-4, 40.0, None)) == pytest.approx(0.99)
    assert agreement(Fidelity(9.0, -9.0, None)) == 0.0
    assert agreement(Fidelity(1e-4, 40.0, 0.75)) == 0.75


def evaluated(workshop, function):
    evaluation = open_evaluation(function, SPEC, ("scores",))
    return dataclasses.replace(workshop, evaluation=evaluation)


def test_the_users_evaluation_runs_the_file_once(workshop):
    calls = []

    def mean(run):
        calls.append(1)
        return float(run(images(2))["scores"].mean())

    judging = evaluated(workshop, mean)
    trial = judging.build("exact", noisy(0.0))
    expected = Runner(ir.from_proto(cnn()))(images(2))["scores"].mean()
    assert judging.judge(trial) == pytest.approx(float(expected))
    assert judging.judge(trial) == trial.quality
    # the same file under another name is known already
    again = judging.build("again", noisy(0.0))
    assert judging.judge(again) == trial.quality
    assert calls == [1]
    judging.judge(judging.build("other", noisy(0.5)))
    assert calls == [1, 1]
    assert judging.metric == judging.evaluation.name


def test_an_evaluation_that_fails_is_not_remembered(workshop):
    fail = [True]

    def unsteady(run):
        if fail:
            raise RuntimeError("no luck today")
        return 0.5

    judging = evaluated(workshop, unsteady)
    trial = judging.build("exact", noisy(0.0))
    with pytest.raises(UsageError, match="no luck today"):
        judging.judge(trial)
    fail.clear()
    assert judging.judge(trial) == 0.5


def test_trials_are_timed_together_and_once(workshop, machine):
    trials = [workshop.build(f"t{i}", noisy(i / 10)) for i in range(12)]
    workshop.time(trials)
    assert machine.counted["time_models"] == 1
    for trial in trials:
        assert len(trial.timing.by_process) == 3
        assert trial.timing.count == 12
    before = [t.timing for t in trials]
    workshop.time(trials)
    assert machine.counted["time_models"] == 1
    assert [t.timing for t in trials] == before
    # ratios belong to the set that was measured together
    workshop.time(trials[:2])
    assert machine.counted["time_models"] == 2


def test_two_workshops_on_one_store_share_what_they_know(workshop, machine, tmp_path):
    trial = workshop.build("one", noisy(0.1))
    workshop.judge(trial)
    workshop.time([trial])
    machine.counted.clear()
    other = dataclasses.replace(workshop, folder=tmp_path / "another", samples=[], expected=[])
    same = other.build("two", noisy(0.1))
    assert other.judge(same) == trial.quality
    assert same.fidelity == trial.fidelity
    other.time([same])
    assert same.timing == trial.timing
    assert not machine.counted


def test_a_model_that_is_a_file_already_is_taken_as_it_is(workshop, tmp_path):
    path = tmp_path / "mine.onnx"
    path.write_bytes(cnn().SerializeToString())
    before = path.read_bytes()
    trial = workshop.adopt("mine", ir.from_proto(cnn()), path)
    assert workshop.judge(trial) == 1.0
    assert trial.artifact.path == path
    assert path.read_bytes() == before
