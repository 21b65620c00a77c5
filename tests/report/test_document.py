"""docs/report.md is what the schema says."""

from __future__ import annotations

from pathlib import Path

from compress.report.document import document
from compress.report.schema import Bench, LayerInfo, LayerPlan, Plan, Report

PAGE = Path(__file__).resolve().parents[2] / "docs" / "report.md"


def test_the_committed_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == document(), (
        "run: python -m compress.report.document > docs/report.md"
    )


def test_every_field_is_there_with_its_meaning() -> None:
    page = document()
    for record in (Report, Plan, LayerPlan, LayerInfo, Bench):
        for name in record.model_fields:
            assert f"| `{name}` |" in page
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert all(row.rstrip(" |").count("|") >= 3 for row in rows), "a field without a meaning"


def test_every_link_leads_to_a_record() -> None:
    page = document()
    targets = {part.partition(")")[0] for part in page.split("](#")[1:]}
    headings = [line[4:].lower() for line in page.splitlines() if line.startswith("### ")]
    assert targets <= set(headings)
    assert len(headings) == len(set(headings)), "a record is told twice"
