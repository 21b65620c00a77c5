"""A report and a plan as a run leaves them behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.report.schema import Candidate, Plan, Quality, Recovery, Report, StructureChange
from compress.report.write_json import read_plan, read_report

SAMPLE = Path(__file__).with_name("sample")


@pytest.fixture
def sample() -> Path:
    """A folder with report.json and plan.json."""
    return SAMPLE


@pytest.fixture
def report() -> Report:
    return read_report(SAMPLE)


@pytest.fixture
def plan() -> Plan:
    return read_plan(SAMPLE)


def _change(technique: str, form: str, *layers: str) -> StructureChange:
    return StructureChange(
        technique=technique, form=form, layers=list(layers), latency_us=12.5, distortion=0.02
    )


def _quality(value: float) -> Quality:
    return Quality(
        metric="eval.py:evaluate",
        value=value,
        reference=0.944,
        drop=0.944 - value,
        relative_drop=1 - value / 0.944,
        allowed=0.93456,
    )


@pytest.fixture
def restructured(report: Report, plan: Plan) -> tuple[Report, Plan]:
    """The same run with two looks at other layers; of the second, the shipped model was made."""
    merged = [_change("merge", "5x5 int8", "node_conv_0", "node_conv_1")]
    smaller = [
        _change("merge", "3x3", "node_conv_0", "node_conv_1", "node_add_3"),
        _change("merge", "drop", "node_depthwiseconv_2"),
        _change("prune", "24 of 32 channels", "channels of node_conv_4"),
    ]
    recoveries = [
        Recovery(
            name=name,
            changes=changes,
            steps=steps,
            planned=1000,
            seconds=seconds,
            before=before,
            after=after,
            shipped=shipped,
        )
        for name, changes, steps, seconds, before, after, shipped in (
            ("structure 1-1", merged, 303, 20.2, 0.1275, 0.0336, False),
            ("structure 1-2", smaller, 300, 19.3, 0.6246, 0.2751, False),
            ("structure 1 in full", smaller, 1000, 90.2, 0.2751, 0.0191, True),
        )
    ]
    looks = [
        Candidate(
            name=f"structure 1-{number}",
            size_bytes=400_000,
            predicted_us=us,
            quality=_quality(value),
            verdict="a first look at other layers",
        )
        for number, us, value in ((1, 210.0, 0.913), (2, 180.0, 0.931))
    ]
    given, best, other = report.candidates
    searched = [
        other.model_copy(update={"name": "structure 1 float, simplified"}),
        best.model_copy(update={"name": "structure 1 candidate-1"}),
    ]
    return (
        report.model_copy(update={"candidates": [given, *searched, *looks]}),
        plan.model_copy(update={"recoveries": recoveries}),
    )
