"""Lines against a common axis, as a small SVG document."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PANEL_WIDTH, PANEL_HEIGHT = 380, 240
LEFT, RIGHT, TOP, BOTTOM = 48, 16, 44, 40
"""Margins of a panel around its axes."""
COLOURS = ("#1f5f99", "#b4552d", "#2a6f4e", "#7a4b8f")
LABEL_STEP = 14


@dataclass(frozen=True)
class Line:
    """A curve: `colour` is an index into COLOURS, points in the order of their x."""

    label: str
    colour: int
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False


def plot(panels: Sequence[tuple[str, Sequence[Line]]], across: str) -> str:
    """Panels side by side, each with its unit and its lines, from zero on.

    Args:
        across: what all panels have on the horizontal axis.
    """
    width = PANEL_WIDTH * len(panels)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {PANEL_HEIGHT}" '
        'font-family="sans-serif" font-size="11" role="img">',
        f'<rect width="{width}" height="{PANEL_HEIGHT}" fill="#ffffff"/>',
    ]
    for number, (unit, curves) in enumerate(panels):
        lines += _panel(number * PANEL_WIDTH, unit, curves, across)
    return "\n".join([*lines, "</svg>", ""])


def rounded_up(value: float) -> float:
    """The next of 1, 2, 4, 5 or 10 times a power of ten: a good end for an axis."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(m * power for m in (1.0, 2.0, 4.0, 5.0, 10.0) if value <= m * power * (1 + 1e-9))


def _panel(offset: int, unit: str, curves: Sequence[Line], across: str) -> Iterator[str]:
    left, right = offset + LEFT, offset + PANEL_WIDTH - RIGHT
    bottom = PANEL_HEIGHT - BOTTOM
    end_x = rounded_up(max((x for c in curves for x in c.x), default=0))
    end_y = rounded_up(max((y for c in curves for y in c.y), default=0))

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            round(left + (right - left) * x / end_x, 1),
            round(bottom - (bottom - TOP) * y / end_y, 1),
        )

    yield f'<path d="M{left},{TOP} V{bottom} H{right}" fill="none" stroke="#888888"/>'
    for part in range(5):
        x, y = place(end_x * part / 4, end_y * part / 4)
        yield _text(x, bottom + 14, f"{end_x * part / 4:g}", "middle")
        yield _text(left - 4, y + 4, f"{end_y * part / 4:g}", "end")
    yield _text(right, bottom + 30, across, "end")
    yield _text(left - 4, TOP - 12, unit, "end")
    for number, curve in enumerate(curves):
        style = f'stroke="{COLOURS[curve.colour % len(COLOURS)]}"'
        dashed = ' stroke-dasharray="4 3"' if curve.dashed else ""
        places = [place(x, y) for x, y in zip(curve.x, curve.y, strict=True)]
        points = " ".join(f"{x},{y}" for x, y in places)
        yield f'<polyline points="{points}" fill="none" {style}{dashed}/>'
        for x, y in places:
            yield f'<circle cx="{x}" cy="{y}" r="2.5" fill="#ffffff" {style}/>'
        row, column = number // 2, number % 2
        at_x, at_y = left + 12 + 150 * column, 12 + LABEL_STEP * row
        yield f'<path d="M{at_x},{at_y - 4} h20" {style}{dashed}/>'
        yield _text(at_x + 26, at_y, curve.label, "start")


def _text(x: float, y: float, words: str, anchor: str) -> str:
    escaped = html.escape(words, quote=True)
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="#333333">{escaped}</text>'
