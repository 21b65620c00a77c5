"""The original's answers: computed once per sample and value, whoever asks."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from small_networks import cnn, images

from compress.execute.session import Runner, with_outputs
from compress.graph.canonical import canonicalize
from compress.graph.simplify import simplify
from compress.passes.recover import original as module
from compress.passes.recover.original import Original
from compress.passes.recover.pool import make_pool


@pytest.fixture
def ran(monkeypatch):
    """Names of the values of every call of the runtime."""
    calls = []

    class Counting(Runner):
        def __call__(self, feeds):
            found = super().__call__(feeds)
            calls.append(tuple(found))
            return found

    monkeypatch.setattr(module, "Runner", Counting)
    return calls


@pytest.fixture
def taught():
    model = simplify(canonicalize(ir.from_proto(cnn())))
    samples = images(12)["image"]
    pool = make_pool(
        [{"image": samples[i : i + 1]} for i in range(12)], joinable=True, fingerprint="images"
    )
    return model, pool


def test_each_sample_is_computed_once(taught, ran):
    model, pool = taught
    original = Original(model, pool)
    for _ in range(2):
        for batch in pool.batches(5):
            found = original(batch)
            np.testing.assert_allclose(
                found["scores"], Runner(model)(batch.arrays)["scores"], rtol=1e-5, atol=1e-6
            )
    assert len(ran) == 3


def test_those_that_ask_for_more_remember_together(taught, ran):
    model, pool = taught
    original = Original(model, pool)
    more = original.with_inner(["r4"])
    assert original.with_inner([]) is original
    batch = next(pool.batches(12))
    found = more(batch)
    assert set(found) == {"scores", "r4"}
    expected = Runner(with_outputs(model, ["r4"]))(batch.arrays)["r4"]
    np.testing.assert_allclose(found["r4"], expected, rtol=1e-5, atol=1e-6)
    assert set(original(batch)) == {"scores"}
    assert set(original.with_inner(["r4"])(batch)) == {"scores", "r4"}
    assert len(ran) == 1


def test_what_there_is_no_room_for_is_computed_again(taught, ran, monkeypatch):
    monkeypatch.setattr(module, "REMEMBERED_BYTES", 12 * 10 * 4)
    model, pool = taught
    original = Original(model, pool)
    more = original.with_inner(["r4"])
    batch = next(pool.batches(12))
    more(batch)
    more(batch)
    assert len(ran) == 2
    original(batch)
    assert len(ran) == 2
