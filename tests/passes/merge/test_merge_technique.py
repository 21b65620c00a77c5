"""Merge proposes what is faster and possible, fits it, and writes what was chosen."""

from __future__ import annotations

import numpy as np
import pytest
from small_networks import cnn, encoder, sentences
from structural_techniques import pictures, shared

from compress.graph.layers import find_layers
from compress.passes.merge.rewrite import MergeSpans, Replacement
from compress.passes.merge.spans import folded
from compress.passes.merge.technique import Merge
from compress.passes.quantize.forms import Form


def technique(proto, samples, unmerged=400.0):
    given = shared(proto, samples)
    layers = find_layers(given["model"])
    times = {x.name: unmerged if x.weight is not None else 20.0 for x in layers}
    return Merge(unmerged=times, **given)


@pytest.fixture
def merge(machine):
    return technique(cnn(), pictures())


def test_every_candidate_is_faster_than_its_parts(merge):
    candidates = merge.candidates()
    assert candidates
    for candidate in candidates:
        bound = sum(merge.unmerged[name] for name in candidate.span.names)
        assert all(cell.core_us < bound for cell in candidate.latencies.values())


def test_kernels_up_to_what_the_span_sees(merge):
    found = {
        (c.span.source.name, c.span.target.name, c.label)
        for c in merge.candidates()
        if c.window is not None
    }
    assert {k for a, b, k in found if (a, b) == ("r1", "r4")} == {"1x1", "3x3", "5x5"}
    assert {k for a, b, k in found if (a, b) == ("image", "r4")} >= {"1x1", "3x3", "5x5", "7x7"}


def test_larger_kernels_fit_better_and_all_beat_what_is_multiplied_out(merge):
    candidates = [c for c in merge.candidates() if c.window is not None]
    lost = merge.distortions(candidates, merge.fit(candidates))
    by_span = {}
    for c in candidates:
        taps = int(np.prod(c.window.kernel))
        by_span.setdefault(c.span.key, (c.span, []))[1].append(
            (taps, lost[c.span.key, c.label, Form.FLOAT])
        )
    for span, entries in by_span.values():
        entries.sort()
        assert entries[-1][1] <= entries[0][1] * 1.1
        if span.source.name != "r1" or folded(span) is None:
            continue
        model = merge.model.clone()
        MergeSpans((Replacement("r1", str(span.target.name), folded(span)),)).run(model)
        assert entries[-1][1] < 0.8 * merge.reference.compare(model).distortion


def test_options_reproduce_their_distortion_when_written(merge):
    proposal = merge.propose()
    float_options = [o for o in proposal.options if " " not in o.form]
    assert float_options
    for option in float_options[:6]:
        model = merge.apply(merge.model, dict.fromkeys(option.layers, option))
        assert len(find_layers(model)) < len(find_layers(merge.model))
        assert merge.reference.compare(model).distortion == pytest.approx(
            option.distortion, rel=1e-3, abs=1e-6
        )


def test_blocks_of_transformers_become_matrices_or_nothing(machine):
    merge = technique(encoder(), sentences(24))
    found = {(c.span.source.name, c.span.target.name, c.label) for c in merge.candidates()}
    labels = {label for a, b, label in found if (a, b) == ("n", "hidden")}
    assert labels == {"drop", "linear"}
    # attention with its mask at the side
    assert any(a == "e" and b == "h" for a, b, _ in found)
    linear = [o for o in merge.propose().options if o.form == "linear" and len(o.layers) > 2]
    model = merge.apply(merge.model, dict.fromkeys(linear[0].layers, linear[0]))
    assert sum(n.op_type == "MatMul" for n in model.graph) < sum(
        n.op_type == "MatMul" for n in merge.model.graph
    )


def test_slow_merges_are_not_proposed(machine):
    machine.heavy = machine.integer = 1000.0
    merge = technique(cnn(), pictures(), unmerged=400.0)
    assert all(c.window is None or len(c.span.layers) > 2 for c in merge.candidates())
