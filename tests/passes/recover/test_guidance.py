"""Hints are values that both networks have behind a change; what is not felt may be frozen."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from small_networks import cnn, images

pytest.importorskip("torch")

from compress.evidence.distortion import output_kinds
from compress.graph.canonical import canonicalize
from compress.graph.simplify import simplify
from compress.passes.recover.guidance import find_hints, insensitive
from compress.passes.recover.pool import make_pool


@pytest.fixture
def original():
    return simplify(canonicalize(ir.from_proto(cnn())))


def scaled(model, name, factor):
    """The model with one initialiser multiplied."""
    result = model.clone()
    value = result.graph.initializers[name]
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(factor), name=name)
    return result


def test_without_a_change_there_is_nothing_to_hint_at(original):
    assert find_hints(original.clone(), original, most_floats=1e9) == {}


def test_hints_lie_behind_the_first_change_and_before_the_outputs(original):
    hints = find_hints(scaled(original, "w2", 2.0), original, most_floats=1e9)
    assert set(hints) == set(hints.values())
    assert "r1" not in hints
    assert "scores" not in hints
    assert "r4" in hints or "g" in hints or "v" in hints


def test_hints_keep_within_the_room_that_there_is(original):
    student = scaled(original, "w1", 2.0)
    everything = find_hints(student, original, most_floats=1e9)
    some = find_hints(student, original, most_floats=32)
    assert len(some) < len(everything)
    assert find_hints(student, original, most_floats=0) == {}


def test_weights_of_no_consequence_are_frozen_first(original):
    # the second convolution adds next to nothing to the shortcut beside it
    student = scaled(scaled(original, "w2", 1e-4), "b2", 0.0)
    samples = images(16)["image"]
    pool = make_pool(
        [{"image": samples[i : i + 1]} for i in range(16)], joinable=True, fingerprint="images"
    )
    frozen = insensitive(student, pool, output_kinds(original))
    assert "w2" in frozen
    assert "w3" not in frozen
    assert insensitive(student, pool, output_kinds(original), share=0.0) == frozenset()
