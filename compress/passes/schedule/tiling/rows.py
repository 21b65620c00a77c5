"""Which rows of an input some rows of an output need, and how stripes follow from it."""

from __future__ import annotations

import dataclasses
from typing import Literal

Kind = Literal["window", "pointwise", "whole"]


@dataclasses.dataclass(frozen=True)
class Window:
    """The vertical geometry of a convolution or pooling.

    Attributes:
        kernel, stride, dilation: in rows.
        padding: rows before the first one. What is behind the last one follows from the height.
    """

    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    padding: int = 0


ROW_BY_ROW = Window()


def first_row(kind: Kind, window: Window, row: int, height: int) -> int:
    """The first row of an input with `height` rows that output rows from `row` on need."""
    if kind == "whole" or (kind == "pointwise" and height == 1):
        return 0
    if kind == "pointwise":
        return row
    return min(max(row * window.stride - window.padding, 0), height)


def last_row(kind: Kind, window: Window, rows: int, height: int) -> int:
    """One more than the last row of an input with `height` rows that the first `rows` rows of the
    output need. For a stripe of r rows inside, a window needs r_in = (r - 1) stride + (kernel - 1)
    dilation + 1."""
    if rows <= 0:
        return 0
    if kind == "whole":
        return height
    if kind == "pointwise":
        return min(rows, height)
    reach = (window.kernel - 1) * window.dilation + 1
    return min(max((rows - 1) * window.stride - window.padding + reach, 0), height)


def needed_rows(kind: Kind, window: Window, rows: tuple[int, int], height: int) -> tuple[int, int]:
    """The rows (first, one after the last) of an input that rows [a, b) of the output need.

    Args:
        rows: (a, b), not empty.
        height: of the input.

    Returns:
        May be empty (both the same) where a window lies in the padding.
    """
    low = first_row(kind, window, rows[0], height)
    return low, max(low, last_row(kind, window, rows[1], height))


def even_ends(rows: int, stripes: int) -> list[int]:
    """How many rows are done after 0, 1, ..., `stripes` stripes of about the same height."""
    return [-(-rows * s // stripes) for s in range(stripes + 1)]


def stripe_counts(rows: int) -> list[int]:
    """Numbers of stripes worth trying: the smallest for each height that a stripe can have."""
    return sorted({-(-rows // height) for height in range(1, rows + 1)})
