"""Structures: the optimal ones in order, distortions as recoveries were seen to leave them."""

from __future__ import annotations

import math

import pytest

from compress.passes.base import Option
from compress.passes.select import Problem, evaluate_choice
from compress.report import schema
from compress.stages import choices
from compress.stages.choices import Choices, after_recovery, share_left


def option(technique, form, layers, latency, distortion=0.0, **widths):
    return Option(technique, form, tuple(layers), latency, 0, distortion, widths=widths)


@pytest.fixture
def problem():
    """Five layers: each stays or is integer; two pairs of them may be merged; one may narrow."""
    options = []
    for name in "abcde":
        wide = {"g": 8} if name == "e" else {}
        options.append(option("float", "float", name, 100.0, **wide))
        options.append(option("quantize", "int8", name, 60.0, 0.01, **wide))
    options += [
        option("merge", "3x3", "ab", 70.0, 0.3),
        option("merge", "3x3 int8", "ab", 40.0, 0.31),
        option("merge", "drop", "cd", 0.0, 0.6),
        option("prune", "8 of 8 channels", "f", 0.0, 0.0, g=8),
        option("prune", "4 of 8 channels", "f", 0.0, 0.1, g=4),
        option("quantize", "int8", "e", 30.0, 0.01, g=4),
    ]
    return Problem(tuple(options), {})


def found(chosen):
    return [(s.selection.latency_us, round(s.selection.distortion, 9)) for s in chosen if s]


def test_the_frontier_s_structures_fastest_first(problem):
    chosen = Choices(problem, known_us=300.0)
    points = found(chosen)
    assert points == sorted(points)
    assert len({latency for latency, _ in points}) == len(points) > 2
    assert points[0][0] == 40.0 + 0.0 + 30.0
    # what has no other layers, or is hardly faster than what there is, is none
    assert all(latency < choices.LEAST_GAIN * 300.0 for latency, _ in points)


def test_the_integer_program_finds_points_of_the_same_frontier(problem, monkeypatch):
    by_labels = found(Choices(problem, known_us=300.0))
    monkeypatch.setattr(choices, "frontier_by_labels", lambda problem: None)
    monkeypatch.setattr(choices, "GAP", 0.0)
    by_limits = found(Choices(problem, known_us=300.0))
    assert by_limits
    assert set(by_limits) <= set(by_labels)
    assert by_limits[0] == by_labels[0]


@pytest.mark.parametrize("labels", [True, False])
def test_beyond_what_was_not_good_enough(problem, monkeypatch, labels):
    if not labels:
        monkeypatch.setattr(choices, "frontier_by_labels", lambda problem: None)
    fastest = Choices(problem, known_us=300.0)[0]
    assert fastest is not None
    rest = found(Choices(problem, known_us=300.0, beyond=fastest))
    assert rest
    most = choices.STEP_BEYOND * fastest.selection.distortion
    assert all(distortion <= most + 1e-9 for _, distortion in rest)


def test_nothing_faster_is_nothing_to_choose(problem):
    assert len(Choices(problem, known_us=10.0)) == 0


def test_recovery_changes_what_structures_cost_and_nothing_else(problem):
    mended = after_recovery(problem, 0.1)
    for before, after in zip(problem.options, mended.options, strict=True):
        changed = before.technique == "merge" or before.form == "4 of 8 channels"
        assert after.distortion == (0.1 if changed else 1.0) * before.distortion
        assert after.latency_us == before.latency_us
    # options keep their own figures for what is told of them
    structure = Choices(problem, known_us=300.0, mended=0.1)[0]
    assert structure is not None
    assert {o.distortion for o in structure.options} <= {o.distortion for o in problem.options}
    assert structure.selection.distortion == pytest.approx(
        evaluate_choice(mended, structure.selection.chosen)[2]
    )


def recovery(name, predicted, after):
    change = schema.StructureChange(
        technique="merge", form="3x3", layers=["a"], latency_us=1.0, distortion=predicted
    )
    return schema.Recovery(
        name=name, changes=[change], steps=1, planned=1, seconds=1.0, before=1.0, after=after
    )


def test_the_share_that_recoveries_left():
    assert share_left([]) == 1.0
    looks = [recovery("structure 1-1", 0.5, 0.05), recovery("structure 1-2", 0.4, 0.004)]
    assert share_left(looks) == pytest.approx(math.sqrt(0.1 * 0.01))
    # what was trained for long tells more than looks do
    assert share_left([*looks, recovery("structure 1-2 in full", 0.4, 0.008)]) == pytest.approx(
        0.02
    )
    assert share_left([recovery("structure 1-1", 0.1, 0.3)]) == 1.0
    assert share_left([recovery("structure 1-1", 0.1, math.inf)]) == 1.0
