"""Figures and foreign names as words."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.report import text
from compress.report.schema import Latency, Ratio


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.123456, "0.123"),
        (12.3456, "12.3"),
        (1234.5, "1234"),
        (-0.00123, "-0.00123"),
        (1e-7, "1.00e-07"),
        (1e12, "1.00e+12"),
        (math.inf, "infinite"),
        (math.nan, "undefined"),
    ],
)
def test_figures(value: float, shown: str) -> None:
    assert text.figures(value) == shown


@given(st.floats(1e-12, 1e12))
def test_figures_are_close_to_the_value(value: float) -> None:
    assert float(text.figures(value)) == pytest.approx(value, rel=0.0051)


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.00 KB"),
        (4_200_000, "4.20 MB"),
        (2**31, "2.15 GB"),
    ],
)
def test_sizes(count: int, shown: str) -> None:
    assert text.size(count) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(12, "12 bytes"), (32768, "32 KiB"), (1000 * 1024, "1000 KiB"), (2**30, "1 GiB")],
)
def test_binary_sizes(count: int, shown: str) -> None:
    assert text.binary_size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.041, "0.04 s"), (4.21, "4.2 s"), (200, "3 min 20 s"), (3600 * 2 + 60 * 5, "2 h 5 min")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


def test_spreads_are_shown_where_there_are_any() -> None:
    measured = Latency(median_ms=1.234, p10_ms=1.2, p90_ms=1.31, runs=10)
    predicted = Latency(median_ms=1.234, p10_ms=1.234, p90_ms=1.234, runs=0, kind="predicted")
    assert text.latency(measured) == "1.23 ms (1.20-1.31)"
    assert text.latency(predicted) == "1.23 ms"
    assert (
        text.speedup(Ratio(median=1.5, low=1.4, high=1.62, rounds=9)) == "1.50x as fast (1.40-1.62)"
    )


@given(st.text())
def test_printable_text_is_one_harmless_line(name: str) -> None:
    shown = text.printable(name)
    assert shown.isprintable()
    assert name != shown or name.isprintable()


def test_escape_sequences_are_spelled_out() -> None:
    assert text.printable("a\x1b[2Jb\nc\u202ed") == "a\\x1b[2Jb\\nc\\u202ed"
    assert text.printable("conv/Größe 1") == "conv/Größe 1"


def test_long_names_are_cut():
    assert text.shortened("conv1") == "conv1"
    assert text.shortened("a" * 40) == "a" * 40
    cut = text.shortened("a" * 41)
    assert len(cut) == 40
    assert cut.endswith("a…")
