"""Rows go back through operators as their definition says."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st
from striped_graphs import outgoing, read, windows

from compress.passes.schedule.tiling.operators import StripedOperator
from compress.passes.schedule.tiling.rows import (
    Window,
    even_ends,
    first_row,
    last_row,
    needed_rows,
    stripe_counts,
)


@given(st.data(), st.integers(1, 12), st.sampled_from(["window", "pointwise", "whole"]))
def test_needed_rows_are_those_that_rows_depend_on(data: st.DataObject, height, kind) -> None:
    window = data.draw(windows(height)) if kind == "window" else Window()
    made = outgoing(window, height) if kind == "window" else height
    operator = StripedOperator("o", kind, ("x",), ("y",), window)
    first = data.draw(st.integers(0, made - 1))
    stop = data.draw(st.integers(first + 1, made))
    low, high = needed_rows(kind, window, (first, stop), height)
    assert set(range(low, high)) == read(operator, range(first, stop), height)


def test_inside_rows_grow_by_the_window() -> None:
    window = Window(kernel=3, stride=2, dilation=2, padding=2)
    for rows in range(1, 5):
        low, high = needed_rows("window", window, (3, 3 + rows), 100)
        assert high - low == (rows - 1) * 2 + (3 - 1) * 2 + 1


def test_one_row_is_shared_by_all() -> None:
    assert needed_rows("pointwise", Window(), (4, 6), 1) == (0, 1)
    assert first_row("whole", Window(), 3, 9) == 0
    assert last_row("whole", Window(), 1, 9) == 9
    assert last_row("whole", Window(), 0, 9) == 0


@given(st.integers(1, 300))
def test_stripe_counts_have_each_height_once(rows: int) -> None:
    counts = stripe_counts(rows)
    heights = [-(-rows // count) for count in counts]
    assert heights == sorted(set(heights), reverse=True)
    assert set(heights) == {-(-rows // count) for count in range(1, rows + 1)}
    for count in counts:
        ends = even_ends(rows, count)
        assert ends[0] == 0
        assert ends[-1] == rows
        assert max(b - a for a, b in itertools.pairwise(ends)) == -(-rows // count)
