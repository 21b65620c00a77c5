"""Recovery: the student comes nearer to the original, never ends further away, and resumes."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
from small_networks import cnn, encoder, images, sentences

pytest.importorskip("torch")

from compress.errors import UsageError
from compress.evidence.distortion import output_kinds
from compress.evidence.store import EvidenceStore
from compress.execute.session import Runner
from compress.graph.canonical import canonicalize
from compress.graph.simplify import simplify
from compress.passes.recover import distill
from compress.passes.recover.distill import Schedule, recover
from compress.passes.recover.original import Original
from compress.passes.recover.pool import make_pool

QUICK = Schedule(seconds=None, epochs=12, batch=16, rate=3e-3)


def network(proto):
    return simplify(canonicalize(ir.from_proto(proto)))


def disturbed(model, share=0.5, seed=1):
    """The model with noise on its weights."""
    generator = np.random.default_rng(seed)
    result = model.clone()
    for value in result.graph.initializers.values():
        array = value.const_value.numpy()
        if array.dtype == np.float32 and array.ndim > 1:
            noise = generator.standard_normal(array.shape).astype(np.float32)
            value.const_value = ir.tensor(array + share * array.std() * noise, name=value.name)
    return result


def split(samples):
    arrays = samples["image"]
    return [{"image": arrays[i : i + 1]} for i in range(len(arrays))]


@pytest.fixture
def taught():
    original = network(cnn())
    pool = make_pool(split(images(96)), joinable=True, fingerprint="images")
    return original, disturbed(original), pool


def run(original, student, pool, schedule=QUICK, store=None, **more):
    return recover(
        student,
        Original(original, pool, inner=list((more.get("hints") or {}).values())),
        pool,
        output_kinds(original),
        schedule,
        store=store or EvidenceStore.in_memory(),
        key=["test"],
        **more,
    )


def test_a_disturbed_network_learns_to_answer_as_before(taught):
    original, student, pool = taught
    shares = []
    found = run(original, student, pool, advance=shares.append)
    assert found.after < 0.3 * found.before
    assert found.steps == found.planned
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    # what was handed in stays as it was
    again = run(original, student, pool, dataclasses.replace(QUICK, epochs=0.01))
    assert again.before == pytest.approx(found.before)


def test_sequences_of_different_lengths(taught):
    original = network(encoder())
    pool = make_pool(sentences(40), joinable=True, fingerprint="sentences")
    found = run(original, disturbed(original), pool)
    assert found.after < 0.7 * found.before


def test_hints_from_inside(taught):
    original, student, pool = taught
    found = run(original, student, pool, hints={"r4": "r4"})
    assert found.after < 0.3 * found.before


def test_labels_are_learned_where_the_pool_has_them(taught):
    original, student, pool = taught
    wrong = np.zeros(len(pool), np.int64)  # nothing that the original would say
    labelled = dataclasses.replace(pool, labels=wrong)
    schedule = dataclasses.replace(QUICK, label_weight=1.0)

    def share_of_zeros(model):
        scores = Runner(model)(images(96))["scores"]
        return float((scores.argmax(axis=1) == 0).mean())

    without = share_of_zeros(run(original, student, pool, schedule).model)
    assert share_of_zeros(run(original, student, labelled, schedule).model) > without + 0.5


def test_labels_that_no_output_rates(taught):
    original, student, pool = taught
    labelled = dataclasses.replace(pool, labels=np.full(len(pool), 10))
    with pytest.raises(UsageError, match=r"\(up to 10\): leave --labels out"):
        run(original, student, labelled)


def test_frozen_weights_stay(taught):
    original, student, pool = taught
    found = run(original, student, pool, dataclasses.replace(QUICK, frozen=frozenset({"w1"})))
    before = {k: v.const_value.numpy() for k, v in student.graph.initializers.items()}
    after = {k: v.const_value.numpy() for k, v in found.model.graph.initializers.items()}
    np.testing.assert_array_equal(after["w1"], before["w1"])
    assert np.abs(after["w2"] - before["w2"]).max() > 0


def test_a_rate_that_is_far_too_high_ends_no_worse_than_it_began(taught):
    original, student, pool = taught
    found = run(original, student, pool, dataclasses.replace(QUICK, rate=1e6))
    assert found.after <= found.before
    assert all(
        np.isfinite(v.const_value.numpy()).all() for v in found.model.graph.initializers.values()
    )


def test_weights_that_are_not_finite_are_handed_back_as_they_came(taught):
    original, student, pool = taught
    value = student.graph.initializers["w2"]
    value.const_value = ir.tensor(np.full_like(value.const_value.numpy(), np.nan), name="w2")
    found = run(original, student, pool)
    assert found.before == np.inf
    assert found.steps == 0


def test_one_sample_is_enough_to_run(taught):
    original, student, _ = taught
    pool = make_pool(split(images(1)), joinable=True, fingerprint="one")
    found = run(original, student, pool)
    assert found.after <= found.before


def test_what_is_known_is_not_trained_again(taught, monkeypatch):
    original, student, pool = taught
    store = EvidenceStore.in_memory()
    first = run(original, student, pool, store=store)
    monkeypatch.setattr(distill._Run, "train", lambda *a, **k: pytest.fail("trained again"))
    second = run(original, student, pool, store=store)
    assert (second.before, second.after, second.steps) == (first.before, first.after, first.steps)
    for name, value in first.model.graph.initializers.items():
        other = second.model.graph.initializers[name].const_value.numpy()
        np.testing.assert_array_equal(value.const_value.numpy(), other)


class Interrupted(Exception):
    pass


def test_an_interrupted_run_goes_on_and_ends_where_it_would_have(taught, monkeypatch):
    original, student, pool = taught
    whole = run(original, student, pool)
    monkeypatch.setattr(distill, "CHECKPOINT_SECONDS", 0.0)
    store = EvidenceStore.in_memory()

    def stop(share):
        if share > 0.5:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(original, student, pool, store=store, advance=stop)
    told = []
    resumed = run(original, student, pool, store=store, advance=told.append)
    assert told[0] > 0.5
    assert resumed.after == pytest.approx(whole.after, rel=1e-3)


def test_a_time_limit_is_kept(taught):
    original, student, pool = taught
    found = run(original, student, pool, Schedule(seconds=1.0, epochs=10_000, batch=16))
    assert found.seconds < 5.0
    assert found.steps < 10_000 * pool.steps(16)
    assert found.after <= found.before


def test_it_stops_where_nothing_is_gained(taught):
    original, _, pool = taught
    found = run(original, original, pool, dataclasses.replace(QUICK, patience=2, epochs=50))
    assert found.steps < found.planned
    assert found.after <= found.before < 1e-9
