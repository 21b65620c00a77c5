"""Large graphs: windows of the order are solved one by one, for a bound and for better plans.

The optima of the windows' problems (`compress.passes.schedule.windows`) add up to a bound. How long
a window takes cannot be told before, so the windows are small at first, and as long as there is
time those two neighbours become one window that promise most per second: what they leave
unexplained of the plan's cost, by what they took. What is found for a window also makes plans: its
order is put into the best one.
"""

from __future__ import annotations

import dataclasses

from compress.passes.schedule.candidates import Candidate
from compress.passes.schedule.clock import Clock
from compress.passes.schedule.presolve import Instance
from compress.passes.schedule.residency import best_residency
from compress.passes.schedule.retention import best_retention
from compress.passes.schedule.windows import Window, cost_in, part_of, spliced, windows_of

LARGE = 260
"""Operators from which a graph is large."""

WINDOW = 80
"""Operators of a window at first, about: graphs of this size are proven optimal in a second."""

PIECE = 50
"""The same where the graph is large."""

FIRST_SHARE = 0.6
"""Of the time, for bounding the first windows."""

LEAST_S = 0.2
"""Time for which a window is not begun any more."""

GROWTH = 3.0
"""Times as long as its parts, or as the last attempt, a window is expected to take."""

PATIENCE = 2.0
"""Times as long as expected it may take."""

OPEN = 2.0
"""Times as long again if one of its parts was not solved."""

SPLICE_S = 2.0
"""For trying a window's order in the plan, at most."""


@dataclasses.dataclass(frozen=True)
class Divided:
    """The best plan, and a lower bound of all plans, in units."""

    candidate: Candidate
    bound: int


def divide(
    instance: Instance,
    known: Candidate,
    *,
    seconds: float,
    threads: int = 1,
    seed: int = 0,
    window: int | None = None,
) -> Divided:
    """Improves a plan and bounds it, window by window; neighbours are joined as long as there is
    time, until there is one window that is the whole graph.

    Args:
        window: operators of the first windows, about.
    """
    return Proof(instance, known, Clock(seconds), threads, seed).run(window)


class Proof:
    """Windows and the best plan on the way."""

    def __init__(
        self, instance: Instance, known: Candidate, clock: Clock, threads: int, seed: int
    ) -> None:
        self.instance, self.best, self.clock = instance, known, clock
        self.threads, self.seed = threads, seed
        self.windows: list[Window] = []

    @property
    def bound(self) -> int:
        return sum(w.bound for w in self.windows)

    def run(self, size: int | None) -> Divided:
        if size is None:
            size = PIECE if self.instance.operators > LARGE else WINDOW
        self.windows = windows_of(self.instance, self.best, size)
        count = len(self.windows)
        sharing = Clock(self.clock.left * (FIRST_SHARE if count > 1 else 1.0))
        for number in range(count):
            self.solve(number, self.windows[number], sharing.left / (count - number))
        while self.bound < self.best.cost and self.clock.left >= LEAST_S:
            step = self._most_promising()
            if step is None:
                break
            number, window, expected = step
            if window is not self.windows[number]:
                self.windows[number : number + 2] = [window]
            last = len(self.windows) == 1
            self.solve(number, window, self.clock.left if last else PATIENCE * expected)
        return Divided(self.best, min(self.bound, self.best.cost))

    def _most_promising(self) -> tuple[int, Window, float] | None:
        """(number of a window, it or what it and the next one are together, seconds expected)."""
        gaps = [cost_in(self.instance, self.best, w.own) - w.bound for w in self.windows]
        steps: list[tuple[float, int, Window, float]] = []
        for number, window in enumerate(self.windows):
            if not window.closed and gaps[number] > 0:
                expected = GROWTH * max(LEAST_S, window.seconds)
                steps.append((gaps[number] / expected, number, window, expected))
            if number + 1 < len(self.windows):
                other = self.windows[number + 1]
                both = window.joined(other)
                expected = GROWTH * max(LEAST_S, both.seconds)
                if not (window.closed and other.closed):
                    expected *= OPEN
                gap = gaps[number] + gaps[number + 1]
                steps.append((gap / expected, number, both, expected))
        if not steps:
            return None
        _, number, window, expected = max(steps, key=lambda s: s[0])
        return number, window, expected

    def solve(self, number: int, window: Window, seconds: float) -> None:
        """Bounds a window, which becomes that of this number, and tries what is found as a plan."""
        clock = Clock(min(seconds, self.clock.left))
        if clock.left < LEAST_S:
            return
        instance, best = self.instance, self.best
        whole = len(self.windows) == 1
        part, plan = (instance, best) if whole else part_of(instance, best, window)
        # a part has units of its own, in units of the instance
        scale = 1 if whole else part.unit
        if plan.cost * scale <= window.bound:
            self.windows[number] = dataclasses.replace(window, closed=True)
            return
        found = best_retention(
            part,
            seconds=clock.left,
            threads=self.threads,
            seed=self.seed,
            known=plan,
            bound=-(-window.bound // scale),
        )
        self.windows[number] = dataclasses.replace(
            window,
            bound=max(window.bound, found.bound * scale),
            closed=found.status == "optimal",
            seconds=clock.spent,
        )
        if found.candidate is None or found.candidate.cost >= plan.cost:
            return
        if whole:
            self.best = found.candidate
        else:
            self._try(window, found.candidate)

    def _try(self, window: Window, found: Candidate) -> None:
        """The plan with the order of a window's operators that was found for it alone."""
        order = spliced(self.best, window, found.order)
        seconds = min(SPLICE_S, 0.2 * self.clock.left)
        residency = best_residency(self.instance, order, seconds=seconds)
        if residency.candidate is not None and residency.candidate.cost < self.best.cost:
            self.best = dataclasses.replace(residency.candidate, method="windows")
