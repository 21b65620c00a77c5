"""A report and a plan as a run leaves them behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.report.schema import Plan, Report
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
