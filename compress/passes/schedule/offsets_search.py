"""A complete search for packings within a capacity, from the ground upwards.

Some packing has every block as low as what lies below it allows, if there is any at all. So one
of the blocks that could be next is *placed* at its lowest base, and all others that share a
section with it lie above it from then on; or, after that has failed, it is *postponed*: it has to
rest on one that is not placed yet, which raises it. What is left in a section must fit above the
lowest block of it. These are the canonical solutions and the section inference of Moffitt,
"MiniMalloc: A Lightweight Memory Allocator for Hardware-Accelerated Machine Learning" (ASPLOS
2023), with three differences:

- Branching is "place or postpone", as in scheduling (Le Pape et al., "Time-versus-capacity
  compromises in project scheduling", 1994), not over all blocks in sorted order. A postponed
  block's lowest base rises with those that it may rest on.
- Every bound remembers the placements that it follows from. A contradiction goes back to the
  last placement that it depends on and keeps all others in mind as the reason (conflict-directed
  backjumping, Prosser 1993). Parts of a network that do not touch are so searched as if apart.
- Sections that were contradicted gain weight, and their blocks come first (the idea of Boussemart
  et al., "Boosting systematic search by weighting constraints", 2004), through restarts.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.passes.schedule.offsets_problem import Layout, Status

MOST_BLOCKS = 2500
"""Above it, states and tables (quadratic in the blocks) would take gigabytes."""

ROUND = 4
"""Steps of a search before the first restart, per block."""

GROWTH = 1.2
"""Of the steps, from one round of restarts to the next."""

NOISE = 0.02
"""After the first round, ranks change by about this share of the number of blocks."""

KEPT_WEIGHT = 0.5
"""Share of the sections' weights that stays at a restart, in every other round. In the others
each run starts without."""

FINISHED_FROM = 0.7
"""Share of the blocks that a run must have placed at once for its start to be finished."""

FIXED = 0.75
"""Share of the placements of such a run that stay, the first ones."""

EXPLAINED = 6
"""Sections without room among which the best reason is looked for."""

_FAR = 1 << 60
"""Base of what is placed or does not matter: sums of two still fit 64 bits."""


class _OutOfSteps(Exception):
    """The limit of a run."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """Which block is tried next.

    Attributes:
        order: of its keys, the most important first: T, the fullest section it lives in; W, its
            length in sections; A, its area.
        lowest: whether only blocks at the lowest base of all are tried. Otherwise all are that
            nothing else could lie below.
    """

    order: str
    lowest: bool


RULES = tuple(Rule(order, lowest) for lowest in (True, False) for order in ("WAT", "TAW", "TWA"))


@dataclasses.dataclass
class _State:
    """Between two steps.

    Attributes:
        bases: by block, the lowest that it can have; _FAR once it is placed.
        resting: whether a block at that base lies on the ground or on a placed block. If not, it
            was postponed and has to rest on one that is not placed.
        waiting: by section, units of the blocks in it that are not placed.
        reasons: by block, the placements that its lowest base follows from, as bits by level.
        postponed: by block, those that it was postponed for.
    """

    bases: NDArray[np.int64]
    resting: NDArray[np.bool_]
    waiting: NDArray[np.int64]
    reasons: list[int]
    postponed: list[int]

    def copy(self) -> _State:
        return _State(
            self.bases.copy(),
            self.resting.copy(),
            self.waiting,
            self.reasons.copy(),
            self.postponed.copy(),
        )


class Search:
    """The tables of one layout, for any number of runs.

    `deepest` holds the most (block, base) that the last run had placed at once, from the first to
    the last.

    Each block is taken to lie wholly above or wholly below another. Where that is not so
    (`Layout.ordered`), packings in which two interlock are lost.
    """

    def __init__(self, layout: Layout) -> None:
        count = len(layout.heights)
        self.layout = layout
        self.overhanging = not layout.simple
        self.heights = np.array(layout.heights, dtype=np.int64)
        self.weights = np.zeros(layout.sections)
        self.neighbours = [np.array(list(c), dtype=np.int64) for c in layout.conflicts]
        self.near = [list(c) for c in layout.conflicts]
        # distances[i][k]: how far above block i the base of its k-th neighbour is at least,
        # where that one lies above; above[j, i] is the same for all pairs, by the upper block.
        self.distances = [
            np.array([max(high for _, high in spans) for spans in c.values()], dtype=np.int64)
            for c in layout.conflicts
        ]
        self.above = np.full((count, count), _FAR, dtype=np.int64)
        for block, (others, distances) in enumerate(
            zip(self.neighbours, self.distances, strict=True)
        ):
            self.above[others, block] = distances
        self.amounts = np.zeros((count, layout.sections), dtype=np.int64)
        for r in layout.rectangles:
            self.amounts[r.block, r.first : r.end] += r.size
        self.live = self.amounts > 0
        self._list_sections()
        self.twins = self._twins()
        self.deepest: list[tuple[int, int]] = []

    def _list_sections(self) -> None:
        """Rectangles section by section, one after the other."""
        entries = sorted(
            (section, r.block, r.low)
            for r in self.layout.rectangles
            for section in range(r.first, r.end)
        )
        self.entry_blocks = np.array([block for _, block, _ in entries], dtype=np.int64)
        self.entry_lows = np.array([low for _, _, low in entries], dtype=np.int64)
        counts = np.bincount([s for s, _, _ in entries], minlength=self.layout.sections)
        self.starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        self.in_section = np.split(self.entry_blocks, self.starts[1:])

    def _twins(self) -> list[list[int]]:
        """By block, those that are the same as it, itself included."""
        groups: dict[tuple[tuple[int, int, int, int], ...], list[int]] = {}
        for block, own in itertools.groupby(self.layout.rectangles, lambda r: r.block):
            shape = tuple((r.first, r.end, r.low, r.high) for r in own)
            groups.setdefault(shape, []).append(block)
        twins: list[list[int]] = [[] for _ in self.layout.heights]
        for group in groups.values():
            for block in group:
                twins[block] = group
        return twins

    def ranks(self, order: str) -> NDArray[np.int64]:
        """By block, its place in a rule's order."""
        loads = np.array(self.layout.loads)
        keys = {
            "T": np.where(self.live, loads, 0).max(axis=1),
            "W": self.live.sum(axis=1),
            "A": self.amounts.sum(axis=1),
        }
        return _ranks([-keys[key] for key in order])

    def run(
        self,
        capacity: int,
        rule: Rule,
        *,
        steps: int,
        deadline: float,
        noise: NDArray[np.float64] | None = None,
    ) -> tuple[Status, list[int] | None]:
        """One search, without restarts: "unknown" after so many steps, "infeasible" if there is
        no packing in which all blocks lie above each other.

        Args:
            capacity: units.
            deadline: on time.monotonic()'s clock.
            noise: by block, what is added to its rank.
        """
        ranks = self.ranks(rule.order)
        if noise is not None:
            ranks = _ranks([ranks + noise])
        try:
            bases = self._search(capacity, rule.lowest, ranks, steps, deadline)
        except _OutOfSteps:
            return "unknown", None
        return ("infeasible" if bases is None else "packed"), bases

    def _search(
        self,
        capacity: int,
        lowest: bool,
        ranks: NDArray[np.int64],
        steps: int,
        deadline: float,
    ) -> list[int] | None:
        count = len(self.heights)
        self.deepest = []
        state = _State(
            np.zeros(count, dtype=np.int64),
            np.ones(count, dtype=np.bool_),
            self.amounts.sum(axis=0),
            [0] * count,
            [0] * count,
        )
        before: list[tuple[_State, int]] = []  # by level, the state and the block placed in it
        conflict = self._propagate(state, capacity)
        for step in itertools.count():
            if step >= steps or (step % 16 == 0 and time.monotonic() > deadline):
                raise _OutOfSteps
            if conflict is None:
                if len(before) == count:
                    return [base for _, base in sorted(self.deepest)]
                block = self._choose(state, lowest, ranks)
                before.append((state, block))
                if len(before) > len(self.deepest):
                    self.deepest = [(b, int(earlier.bases[b])) for earlier, b in before]
                state = state.copy()
                self._place(state, block, 1 << (len(before) - 1))
            elif conflict == 0:
                return None
            else:
                level = conflict.bit_length() - 1
                state, block = before[level]
                del before[level:]
                others = conflict ^ (1 << level)
                if not state.resting[block]:
                    conflict = others
                    continue
                state = state.copy()
                self._postpone(state, block, others)
            conflict = self._propagate(state, capacity)
        raise AssertionError

    def _choose(self, state: _State, lowest: bool, ranks: NDArray[np.int64]) -> int:
        """The block to place: of those in the heaviest section, the first by rank."""
        bases = state.bases
        if lowest:
            found = np.flatnonzero(bases == bases.min())
        else:
            found = np.flatnonzero(state.resting & (bases < (bases + self.heights).min()))
        if self.overhanging:
            # Something may lie below the overhang of a block of several rectangles.
            free = found[bases[found] < (self.above[found] + bases).min(axis=1)]
            found = free if len(free) else np.flatnonzero(bases == bases.min())
        if len(found) > 1:
            heaviest = np.where(self.live[found], self.weights, 0.0).max(axis=1)
            found = found[heaviest == heaviest.max()]
        return int(found[ranks[found].argmin()])

    def _place(self, state: _State, block: int, bit: int) -> None:
        """At its lowest base: what is not placed and shares a section with it is above it."""
        near = self.neighbours[block]
        lowest = state.bases[block] + self.distances[block]
        raised = lowest >= state.bases[near]
        blocks = near[raised]
        state.bases[blocks] = lowest[raised]
        state.resting[blocks] = True
        state.bases[block] = _FAR
        state.waiting = state.waiting - self.amounts[block]
        state.reasons[block] |= bit
        for other in blocks.tolist():
            state.reasons[other] = state.reasons[block]
            state.postponed[other] = 0

    def _postpone(self, state: _State, block: int, conflict: int) -> None:
        """It, and those like it, cannot lie where they are. They rest on something else, which
        is so because of the placements in the conflict and of where all around them is."""
        for twin in self.twins[block]:
            if state.bases[twin] == state.bases[block]:
                state.resting[twin] = False
                state.postponed[twin] |= conflict | self._around(state, block)
                state.postponed[twin] |= state.reasons[twin]

    def _around(self, state: _State, block: int) -> int:
        reason = state.reasons[block]
        for other in self.near[block]:
            reason |= state.reasons[other]
        return reason

    def _propagate(self, state: _State, capacity: int) -> int | None:
        """Raises what is postponed; the placements that contradict each other, if any do."""
        bases = state.bases
        floating = np.flatnonzero(~state.resting & (bases < _FAR))
        while len(floating):
            lowest = (self.above[floating] + bases).min(axis=1)
            raised = np.flatnonzero(lowest > bases[floating])
            if not len(raised):
                break
            for index in raised.tolist():
                block = int(floating[index])
                reason = state.postponed[block] | self._around(state, block)
                state.reasons[block] = reason
            bases[floating[raised]] = lowest[raised]
            if (lowest[raised] + self.heights[floating[raised]] > capacity).any():
                break
        over = np.flatnonzero((bases + self.heights > capacity) & (bases < _FAR))
        if len(over):
            return min(state.reasons[block] for block in over.tolist())
        floors = np.minimum.reduceat(bases[self.entry_blocks] + self.entry_lows, self.starts)
        excess = floors + state.waiting - capacity
        full = np.flatnonzero((excess > 0) & (state.waiting > 0))
        if not len(full):
            return None
        self.weights[full] += 1
        return min(self._explain(state, s, int(excess[s])) for s in full[:EXPLAINED].tolist())

    def _explain(self, state: _State, section: int, excess: int) -> int:
        """Placements because of which what is left in a section does not fit: without the blocks
        that are not needed for that, those with the latest reasons first."""
        blocks = self.in_section[section]
        waiting = sorted(
            (
                (state.reasons[block], int(self.amounts[block, section]))
                for block in set(blocks[state.bases[blocks] < _FAR].tolist())
            ),
            reverse=True,
        )
        reason = 0
        for why, amount in waiting:
            if amount < excess:
                excess -= amount
            else:
                reason |= why
        return reason


def _ranks(keys: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    """Places in the order of the first key, then of the next, and so on."""
    order = np.lexsort(list(reversed(keys)))
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


def search(
    layout: Layout,
    capacity: int,
    *,
    deadline: float,
    seed: int = 0,
    rules: Sequence[Rule] = RULES,
    finish: Callable[[Mapping[int, int]], list[int] | None] | None = None,
) -> tuple[Status, list[int] | None, str]:
    """(status, bases in units, method): rounds of runs, one with each rule.

    How long a run takes to a packing varies a lot, so that many short ones with a little noise
    find one sooner than a long one. They grow, so that in the end one is complete.

    Args:
        capacity: units.
        deadline: on time.monotonic()'s clock.
        seed: of the noise.
        finish: finds bases for all blocks where some (block -> base) are given, or does not. It
            gets what a run began with that came far: mistakes are mostly made late.
    """
    count = len(layout.heights)
    if count > MOST_BLOCKS:
        return "unknown", None, "search (too many blocks)"
    if not count:
        return "packed", [], "search"
    tables = Search(layout)
    draw = np.random.default_rng(seed)
    noise = None
    steps = float(ROUND * count)
    for number in itertools.count():
        for rule in rules:
            tables.weights *= KEPT_WEIGHT if number % 2 else 0.0
            status, bases = tables.run(
                capacity, rule, steps=int(steps), deadline=deadline, noise=noise
            )
            method = f"search ({rule.order}{', lowest' if rule.lowest else ''})"
            if status == "infeasible" and not layout.ordered:
                return "unknown", None, method
            if status != "unknown" or time.monotonic() > deadline:
                return status, bases, method
            if finish is not None and len(tables.deepest) > FINISHED_FROM * count:
                bases = finish(dict(tables.deepest[: int(FIXED * len(tables.deepest))]))
                if bases is not None:
                    return "packed", bases, f"{method} and cp-sat"
        steps *= GROWTH
        noise = draw.normal(0.0, NOISE * count, count)
    raise AssertionError
