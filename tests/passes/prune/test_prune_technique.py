"""Prune proposes widths and layers at them, all measured, and writes what was chosen."""

from __future__ import annotations

import itertools

import pytest
from small_networks import cnn
from structural_techniques import pictures, shared

from compress.graph.layers import find_layers
from compress.passes.base import Option
from compress.passes.prune.technique import Prune, pseudo_layer
from compress.passes.select import Problem, select


@pytest.fixture
def prune(machine):
    given = shared(cnn(), pictures())
    layers = find_layers(given["model"])
    options = [Option("float", "float", (x.name,), 400.0, x.weight_bytes, 0.0) for x in layers]
    return Prune(problem=Problem(tuple(options), {}), **given)


def test_groups_have_all_widths(prune):
    groups = prune.groups()
    assert {g.name for g in groups} == {"a", "d"}
    for group in groups:
        assert prune.widths(group) == (32, 24, 16)


def test_fewer_channels_cost_more_distortion(prune):
    groups = prune.groups()
    lost = prune.distortions(groups)
    for group in groups:
        assert 0 < lost[group.name, 24] <= lost[group.name, 16]


def test_every_combination_of_widths_is_an_option(prune):
    proposal = prune.propose()
    third = [o for o in proposal.options if o.layers == ("d",)]
    assert {tuple(sorted(o.widths.items())) for o in third} == {
        (("a", a), ("d", d)) for a, d in itertools.product((32, 24, 16), repeat=2)
    }
    assert all(o.measured for o in third)
    widths = [o for o in proposal.options if o.layers == (pseudo_layer("a"),)]
    assert [o.widths["a"] for o in widths] == [32, 24, 16]
    assert widths[0].distortion == 0.0


def test_what_was_chosen_is_written(prune):
    problem = prune.joined(prune.problem, prune.propose())
    everything = select(problem, max_distortion=0.0)
    kept = prune.apply(prune.model, chosen(problem, everything))
    assert shapes_of(kept) == shapes_of(prune.model)
    # the machine pays no attention to widths: distortion alone decides, so half is asked for
    halves = {
        o.layers[0]: o
        for o in problem.options
        if o.technique == "prune" and 16 in o.widths.values()
    }
    model = prune.apply(prune.model, halves)
    assert [s[:2] for s in shapes_of(model)] == [(16, 3), (16, 16), (16, 16), (16, 10)]
    expected = sum(o.distortion for o in halves.values())
    assert prune.reference.compare(model).distortion < 3 * expected + 0.05


def test_spans_are_held_to_full_widths(prune):
    span = Option("merge", "3x3", ("c", "s"), 1.0, 0, 0.1, reads_float=frozenset({"r1"}))
    joined = prune.joined(Problem((*prune.problem.options, span), {}), prune.propose())
    (held,) = [o for o in joined.options if o.technique == "merge"]
    assert held.widths == {"a": 32}


def chosen(problem, selection):
    return {n: problem.options[i] for i in selection.chosen for n in problem.options[i].layers}


def shapes_of(model):
    return [x.weight.const_value.numpy().shape for x in find_layers(model) if x.weight is not None]
