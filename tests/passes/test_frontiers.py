"""Trade-offs: the same by labels and by the integer program; thinning keeps both ends."""

from __future__ import annotations

import math

import pytest

from compress.passes import frontiers
from compress.passes.base import Option
from compress.passes.frontiers import thinned, trade_offs
from compress.passes.select import Problem, Selection, evaluate_choice, select


def problem(layers=6):
    """Float or int8 per layer, spans over two, and one group of channels at two widths."""
    options = []
    for i in range(layers):
        for width in (8, 16):
            widths = {"group": width} if i in (2, 3) else {}
            if width == 8 and not widths:
                continue
            share = width / 16
            options.append(
                Option("float", "float", (f"l{i}",), 10.0 * share + i, 100, 0.0, widths=widths)
            )
            options.append(
                Option(
                    "quantize", "int8", (f"l{i}",), 4.0 * share, 25, 0.01 * (i + 1), widths=widths
                )
            )
    for width, lost in ((16, 0.0), (8, 0.03)):
        options.append(
            Option("prune", f"{width} of 16", ("channels",), 0, 0, lost, widths={"group": width})
        )
    options.append(Option("merge", "3x3", ("l4", "l5"), 3.0, 50, 0.2))
    return Problem(tuple(options), {})


def test_each_is_optimal_for_its_own_distortion():
    given = problem()
    found = trade_offs(given, points=1000)
    assert len(found) > 5
    for selection in found:
        assert evaluate_choice(given, selection.chosen) == pytest.approx(
            (selection.latency_us, selection.bytes, selection.distortion)
        )
        best = select(given, max_distortion=selection.distortion)
        assert best.latency_us == pytest.approx(selection.latency_us)


def test_the_integer_program_takes_over(monkeypatch):
    given = problem()
    by_labels = trade_offs(given, points=1000)
    monkeypatch.setattr(frontiers, "frontier_by_labels", lambda *a, **k: None)
    monkeypatch.setattr(frontiers, "hull_by_labels", lambda *a, **k: None)
    by_program = trade_offs(given, points=20)
    known = {(round(s.latency_us, 6), round(s.distortion, 9)) for s in by_labels}
    assert {(round(s.latency_us, 6), round(s.distortion, 9)) for s in by_program} <= known


def test_all_chosen_options_agree_on_widths():
    given = problem()
    for selection in trade_offs(given, points=1000):
        widths = [given.options[i].widths.get("group") for i in selection.chosen]
        assert len({w for w in widths if w is not None}) == 1


def selections(count):
    return [Selection((i,), 100.0 - i, 0, math.exp(-i), 0.0, "optimal", 0.0) for i in range(count)][
        ::-1
    ]


@pytest.mark.parametrize("points", [2, 3, 10, 50])
def test_thinning_keeps_the_ends_and_the_order(points):
    given = selections(50)
    found = thinned(given, points)
    assert len(found) <= max(points, 2)
    assert found[0] is given[0]
    assert found[-1] is given[-1]
    latencies = [s.latency_us for s in found]
    assert latencies == sorted(latencies)
