"""Where the points of the latency-distortion picture lie; the template draws them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from compress.report import text
from compress.report.schema import Candidate, FrontierPoint

WIDTH, HEIGHT = 960, 340
LEFT, RIGHT, TOP, BOTTOM = 74, 18, 16, 46
"""Margins of the drawing area, in the picture's own units."""


@dataclasses.dataclass(frozen=True)
class Mark:
    """A point of the picture and what is said about it."""

    x: float
    y: float
    kind: Literal["optimal", "candidate", "shipped"]
    label: str


@dataclasses.dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    position: float
    label: str


@dataclasses.dataclass(frozen=True)
class Scatter:
    """A picture: latency from left to right, distortion from bottom to top on a log scale."""

    marks: tuple[Mark, ...]
    line: str
    """The frontier, as the `points` of an SVG polyline."""
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    top: int = TOP
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM


def scatter(frontier: Sequence[FrontierPoint], candidates: Sequence[Candidate]) -> Scatter | None:
    """The frontier and the candidates by predicted latency and distortion; None without any."""
    optimal = [p for p in frontier if _drawable(p.latency_us, p.distortion)]
    built = [
        (c, c.predicted_us, c.predicted_distortion)
        for c in candidates
        if c.predicted_us is not None
        and c.predicted_distortion is not None
        and _drawable(c.predicted_us, c.predicted_distortion)
    ]
    latencies = [p.latency_us for p in optimal] + [us for _, us, _ in built]
    distortions = [p.distortion for p in optimal] + [d for _, _, d in built]
    if not latencies:
        return None
    across = _Linear(min(latencies), max(latencies))
    upward = _Log(distortions)
    marks = [
        Mark(
            across.at(p.latency_us),
            upward.at(p.distortion),
            "shipped" if p.shipped else "optimal",
            _label("shipped" if p.shipped else "optimal", p.latency_us, p.distortion),
        )
        for p in optimal
    ]
    marks += [
        Mark(
            across.at(us),
            upward.at(distortion),
            "shipped" if c.shipped else "candidate",
            _label(c.name, us, distortion),
        )
        for c, us, distortion in built
    ]
    line = sorted(optimal, key=lambda p: p.latency_us)
    return Scatter(
        marks=tuple(sorted(marks, key=lambda m: m.kind == "shipped")),  # the last is on top
        line=" ".join(f"{across.at(p.latency_us)},{upward.at(p.distortion)}" for p in line),
        x_ticks=across.ticks(),
        y_ticks=upward.ticks(),
    )


def _drawable(latency_us: float, distortion: float) -> bool:
    return math.isfinite(latency_us) and math.isfinite(distortion) and distortion >= 0


def _label(name: str, latency_us: float, distortion: float) -> str:
    shown = text.milliseconds(latency_us / 1000)
    return f"{name}: {shown} predicted, distortion {text.figures(distortion)}"


class _Linear:
    """Latency in us to x."""

    def __init__(self, low: float, high: float) -> None:
        room = (high - low) * 0.06 or max(abs(high), 1.0) * 0.1
        self._low, self._high = max(0.0, low - room), high + room

    def at(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def ticks(self) -> tuple[Tick, ...]:
        span = self._high - self._low
        step = 10.0 ** math.floor(math.log10(span / 4))
        step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6)
        first = math.ceil(self._low / step)
        places = [n * step for n in range(first, math.floor(self._high / step) + 1)]
        return tuple(Tick(self.at(place), f"{place / 1000:.6g}") for place in places)


class _Log:
    """Distortion to y, in decades; what is exactly 0 lies one decade below the rest."""

    def __init__(self, values: Sequence[float]) -> None:
        positive = [math.log10(v) for v in values if v > 0]
        self._low = math.floor(min(positive, default=-4.0))
        self._high = max(math.ceil(max(positive, default=-3.0)), self._low + 1)
        self._zero = len(positive) < len(values)
        if self._zero:
            self._low -= 1

    def at(self, value: float) -> float:
        decade = math.log10(value) if value > 0 else self._low
        share = (decade - self._low) / (self._high - self._low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    def ticks(self) -> tuple[Tick, ...]:
        every = max(1, math.ceil((self._high - self._low) / 6))
        first = self._low + 1 if self._zero else self._low
        ticks = [Tick(self.at(10.0**d), f"1e{d}") for d in range(first, self._high + 1, every)]
        return (Tick(self.at(0.0), "0"), *ticks) if self._zero else tuple(ticks)
