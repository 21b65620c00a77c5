"""The headline and the reasons that a run is summed up with."""

from __future__ import annotations

from typing import Any

import pytest

from compress.report import summary
from compress.report.schema import Candidate, LayerPlan, OptionRecord, Plan, Quality, Report


def quality(value: float, allowed: float | None, reference: float = 0.8) -> Quality:
    drop = reference - value
    return Quality(
        metric="m",
        value=value,
        reference=reference,
        drop=drop,
        relative_drop=drop / reference if reference else None,
        allowed=allowed,
    )


def with_after(report: Report, **changes: Any) -> Report:
    return report.model_copy(update={"after": report.after.model_copy(update=changes)})


def test_headline_of_the_sample(report: Report) -> None:
    latency, size, metric = summary.headline(report)
    assert (latency.before, latency.after) == ("0.270 ms (0.265-0.278)", "0.161 ms (0.159-0.170)")
    assert latency.change == "1.67x as fast (1.60-1.72)"
    assert latency.better is True
    assert size.change == "3.48x smaller"
    assert metric.label == "quality, eval.py:evaluate"
    assert metric.change == "-0.37 % (allowed: 0.9346)"
    assert metric.better is None


@pytest.mark.parametrize(
    ("value", "allowed", "better"),
    [
        (0.79, 0.75, None),
        (0.7, 0.75, False),
        (0.79, None, False),
        (0.8, None, None),
        (0.81, 0.75, True),
    ],
)
def test_a_drop_within_the_budget_is_not_worse(
    report: Report, value: float, allowed: float | None, better: bool | None
) -> None:
    row = summary.headline(with_after(report, quality=quality(value, allowed)))[2]
    assert row.better is better


def test_equal_quality_is_called_unchanged(report: Report) -> None:
    row = summary.headline(with_after(report, quality=quality(0.8, 0.75)))[2]
    assert row.change == "unchanged (allowed: 0.7500)"


def test_quality_against_a_reference_of_zero_is_absolute(report: Report) -> None:
    row = summary.headline(with_after(report, quality=quality(-0.25, None, reference=0.0)))[2]
    assert row.change == "-0.25"


def test_predicted_latencies_say_so(report: Report) -> None:
    row = summary.headline(with_after(report, latency=None, speedup=None))[0]
    assert row.after == "0.148 ms predicted"
    assert row.change == ""


def test_nothing_is_claimed_where_nothing_is_known(report: Report) -> None:
    bare = Candidate(name="x", size_bytes=0, verdict="")
    rows = summary.headline(report.model_copy(update={"before": bare, "after": bare}))
    assert [(row.after, row.change, row.better) for row in rows] == [
        ("", "", None),
        ("0 bytes", "", None),
    ]


def test_equal_outputs_are_called_equal(report: Report) -> None:
    assert summary.fidelity(report.candidates[0]) == "equal to those of the model as given"
    assert "27.3 dB" in summary.fidelity(report.candidates[1])
    assert summary.fidelity(report.candidates[2]) == ""


def layer(name: str, macs: int, chosen: str, why: str, float_us: float) -> LayerPlan:
    options = [
        OptionRecord(technique=t, form=f, latency_us=us, bytes=1, distortion=0.0)
        for t, f, us in (("float", "float", float_us), ("quantize", "int8", float_us / 2))
    ]
    return LayerPlan(
        name=name, kind="Conv", shape="1", macs=macs, options=options, chosen=chosen, why=why
    )


def test_reasons_are_grouped_and_the_costliest_comes_first(plan: Plan) -> None:
    layers = [
        layer("a", 5, "float:float", "slower", 1.0),
        layer("b", 5, "float:float", "distorts", 9.0),
        layer("c", 5, "float:float", "slower", 3.0),
        layer("d", 5, "quantize:int8", "faster", 99.0),
        layer("e", 0, "float:float", "no weights", 99.0),
    ]
    kept = summary.kept_float(plan.model_copy(update={"layers": layers}))
    assert [(g.why, [x.name for x in g.layers]) for g in kept] == [
        ("distorts", ["b"]),
        ("slower", ["c", "a"]),
    ]
    assert summary.chosen_us(layers[3]) == 49.5
