"""Which structures to try: optimal choices of the joint problem, corrected by what was tried."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from compress.passes.base import Option
from compress.passes.frontiers import thinned
from compress.passes.labels import frontier_by_labels
from compress.passes.select import Problem, Selection, evaluate_choice, select
from compress.report import schema
from compress.report.recoveries import IN_FULL

STRUCTURAL = frozenset({"merge", "prune"})
"""Techniques that change layers and not only their numbers: networks are trained anew for them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Structure:
    """A choice of structural options: what a selection has besides numeric forms."""

    selection: Selection
    options: tuple[Option, ...]

    @property
    def signature(self) -> tuple[str, ...]:
        return tuple(sorted(f"{o.layers[0]}..{o.layers[-1]}={shape_of(o)}" for o in self.options))


def structural(problem: Problem, chosen: Iterable[int]) -> list[int]:
    """Those of the chosen options that change layers and not only their numbers."""
    full = _full_widths(problem)
    return [
        i
        for i in chosen
        if problem.options[i].technique in STRUCTURAL and not _keeps_all(problem.options[i], full)
    ]


def _full_widths(problem: Problem) -> dict[str, int]:
    """Group -> all of its channels: the largest width that any option names."""
    full: dict[str, int] = {}
    for option in problem.options:
        for name, width in option.widths.items():
            full[name] = max(width, full.get(name, 0))
    return full


def _keeps_all(option: Option, full: Mapping[str, int]) -> bool:
    """Whether it is a pruning option that leaves its group as wide as it is."""
    return option.technique == "prune" and all(
        width == full[name] for name, width in option.widths.items()
    )


def shape_of(option: Option) -> str:
    return option.form.split(" ")[0]


LIMITS = 16
"""Distortions, evenly spaced in their logarithm, among whose optima structures are looked for."""

GAP = 0.005
"""By how much a structure may miss the optimum: far less than recovery moves it."""

STEP_BEYOND = 0.8
"""Share of a structure's distortion that the next ones may have where it was not good enough."""

LEAST_SHARE = 0.01
"""Of the predicted distortion, that recovery is ever trusted to leave."""

LEAST_GAIN = 0.95
"""Share of the best latency so far, as predicted, from which on a structure is not tried."""


class Choices(Sequence[Structure | None]):
    """Optimal structures, fastest first.

    Where labels solve the joint problem they give its whole frontier at once, and the structures
    are points of it. Where too many decisions are open at a time, each structure is the integer
    program's optimum for a limit of distortion, solved for when it is asked for.

    None stands where the optimum has no other layers, or is hardly faster than what there is.
    """

    def __init__(
        self,
        problem: Problem,
        known_us: float,
        *,
        mended: float = 1.0,
        beyond: Structure | None = None,
    ) -> None:
        """Prepares the choice.

        Args:
            problem: of all techniques together.
            known_us: predicted latency of the best selection so far.
            mended: share of the structural options' distortion that recovery leaves.
            beyond: only structures with less distortion than this one.
        """
        self._problem, self._known_us = problem, known_us
        self._corrected = after_recovery(problem, mended)
        self._solved: dict[int, Selection] = {}
        self._limits: list[float] = []
        self._most = math.inf
        if beyond is not None:
            self._most = STEP_BEYOND * evaluate_choice(self._corrected, beyond.selection.chosen)[2]
        if not self._by_labels():
            self._by_limits()

    def _by_labels(self) -> bool:
        """Whether the whole frontier was found."""
        found = frontier_by_labels(self._corrected)
        if found is None:
            return False
        worth = [s for s in found if s.distortion <= self._most and self._structure(s) is not None]
        self._solved = dict(enumerate(thinned(worth, LIMITS)))
        self._limits = [s.distortion for s in self._solved.values()]
        return True

    def _by_limits(self) -> None:
        """Distortions for whose optima the integer program is asked, the largest first."""
        fastest = select(self._corrected, max_distortion=self._most, gap=GAP)
        if fastest.status == "infeasible" or self._structure(fastest) is None:
            return
        limit = LEAST_GAIN * self._known_us
        slowest = select(self._corrected, max_latency_us=limit, objective="distortion", gap=GAP)
        high, low = fastest.distortion, max(slowest.distortion, 1e-9)
        steps = LIMITS if high > low else 1
        self._solved[0] = fastest
        self._limits = [high * (low / high) ** (i / max(1, steps - 1)) for i in range(steps)]

    def __len__(self) -> int:
        return len(self._limits)

    def __getitem__(self, index: Any) -> Any:
        if index not in self._solved:
            limit = self._limits[index]
            self._solved[index] = select(self._corrected, max_distortion=limit, gap=GAP)
        return self._structure(self._solved[index])

    def _structure(self, selection: Selection) -> Structure | None:
        options = tuple(
            self._problem.options[i] for i in structural(self._problem, selection.chosen)
        )
        if not options or selection.latency_us >= LEAST_GAIN * self._known_us:
            return None
        return Structure(selection, options)


def after_recovery(problem: Problem, share: float) -> Problem:
    """The problem with what structural options distort as training leaves it.

    Numeric forms are chosen after recovery and keep what was measured of them: without the
    correction, structures would seem dear beside them.
    """
    changed = set(structural(problem, range(len(problem.options))))
    options = (
        dataclasses.replace(o, distortion=share * o.distortion) if i in changed else o
        for i, o in enumerate(problem.options)
    )
    return dataclasses.replace(problem, options=tuple(options))


def share_left(records: Sequence[schema.Recovery]) -> float:
    """The share of the predicted distortion that recoveries left, as far as any were made.

    The geometric mean of those in full, which train for as long as what is shipped; where there
    are none yet, of first looks. 1 where nothing is known.
    """
    ratios: dict[bool, list[float]] = {True: [], False: []}
    for record in records:
        predicted = sum(change.distortion for change in record.changes)
        if predicted > 0 and record.after > 0 and math.isfinite(record.after):
            ratios[record.name.endswith(IN_FULL)].append(record.after / predicted)
    known = ratios[True] or ratios[False]
    if not known:
        return 1.0
    return float(np.clip(np.exp(np.mean(np.log(known))), LEAST_SHARE, 1.0))
