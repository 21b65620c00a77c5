"""Which structures were tried, and what became of each."""

from __future__ import annotations

import pytest

from compress.report.recoveries import in_words, tried
from compress.report.schema import Plan, Report, StructureChange


def test_each_has_its_best_model_and_its_outcome(restructured: tuple[Report, Plan]) -> None:
    report, plan = restructured
    rows = tried(plan.recoveries, report.candidates)
    assert [(row.candidate.name if row.candidate else None, row.outcome) for row in rows] == [
        ("structure 1-1", "given up after a first look"),
        ("structure 1-2", "trained in full"),
        ("structure 1 candidate-1", "shipped"),
    ]
    assert [row.recovery.shipped for row in rows] == [False, False, True]


def test_a_model_within_the_budget_stands_for_its_structure(
    restructured: tuple[Report, Plan],
) -> None:
    """Of a structure that others were built on: not the fastest, where that answers too badly."""
    report, plan = restructured
    candidates = [c.model_copy(update={"shipped": False}) for c in report.candidates]
    recoveries = [r.model_copy(update={"shipped": False}) for r in plan.recoveries]
    row = tried(recoveries, candidates)[-1]
    assert row.candidate is candidates[2]
    assert row.outcome == "bettered by a later one"


def test_models_that_are_not_in_the_report_are_not_made_up(
    restructured: tuple[Report, Plan],
) -> None:
    rows = tried(restructured[1].recoveries, [])
    assert [row.candidate for row in rows] == [None] * 3


def changes(*wanted: tuple[str, str, int]) -> list[StructureChange]:
    return [
        StructureChange(
            technique=technique,
            form=form,
            layers=[f"{n}" for n in range(count)],
            latency_us=0,
            distortion=0,
        )
        for technique, form, count in wanted
    ]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ([], ""),
        ([("merge", "3x3", 3), ("merge", "5x5 int8", 4)], "7 layers to 2"),
        ([("merge", "drop", 1)], "1 layer dropped"),
        ([("prune", "8 of 16 channels", 1)], "1 group narrowed"),
        (
            [("prune", "8 of 16 channels", 1), ("merge", "3x3", 3), ("merge", "drop", 2)] * 2,
            "6 layers to 2, 4 layers dropped, 2 groups narrowed",
        ),
    ],
)
def test_changes_in_words(wanted: list[tuple[str, str, int]], words: str) -> None:
    assert in_words(changes(*wanted)) == words
