"""Packings by placing one block after the other at the lowest address that is free."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import numpy as np

from compress.passes.schedule.offsets_problem import Layout


def first_fit(layout: Layout, order: Sequence[int]) -> list[int]:
    """By block, its base in units: each in turn at the lowest one that is free of those before."""
    bases = np.full(len(layout.heights), -1, dtype=np.int64)
    for block in order:
        others, lows, highs = layout.spans[block]
        at = bases[others]
        placed = at >= 0
        # A span is of base_other - base_block; turned round, where this one must not lie between.
        starts, ends = (at - highs)[placed], (at - lows)[placed]
        by_start = starts.argsort()
        reach = np.maximum.accumulate(np.append(0, ends[by_start]))
        free = np.flatnonzero(reach[:-1] <= starts[by_start])
        bases[block] = reach[free[0]] if len(free) else reach[-1]
    return [int(base) for base in bases]


def orders(layout: Layout) -> dict[str, list[int]]:
    """Orders that are known to do well, by name: largest first, and so on."""
    lengths = [0] * len(layout.heights)
    areas = [0] * len(layout.heights)
    fullest = [0] * len(layout.heights)
    for r in layout.rectangles:
        lengths[r.block] += r.end - r.first
        areas[r.block] += (r.end - r.first) * r.size
        fullest[r.block] = max(fullest[r.block], *layout.loads[r.first : r.end])
    blocks = range(len(layout.heights))
    keys = {
        "size": [(layout.heights[b], lengths[b]) for b in blocks],
        "lifetime": [(lengths[b], layout.heights[b]) for b in blocks],
        "area": [(areas[b], lengths[b]) for b in blocks],
        "pressure": [(fullest[b], areas[b]) for b in blocks],
    }
    return {name: sorted(blocks, key=lambda b: key[b], reverse=True) for name, key in keys.items()}


def climb(
    layout: Layout, *, target: int, iterations: int, deadline: float, seed: int = 0
) -> list[int]:
    """Hill climbing over orders, as in Arm's compiler Vela: bases in units.

    The order starts by lifetime. At each step two blocks change places in it: one of those that
    hold up the highest block (each rests on the one below), and one that shares a section with
    it. The step is kept if the peak is no higher. Vela's own bookkeeping of turns and its ways to
    choose the two are simplified here.

    Args:
        target: peak at which it stops, in units.
        deadline: on time.monotonic()'s clock.
    """
    draw = random.Random(seed)
    order = min(orders(layout).values(), key=lambda o: layout.peak(first_fit(layout, o)))
    best = bases = first_fit(layout, order)
    peak = layout.peak(best)
    for _ in range(iterations):
        if peak <= target or time.monotonic() > deadline:
            break
        pillar = _pillar(layout, bases, draw)
        one = draw.choice(pillar)
        near = [*pillar, *layout.conflicts[one]]
        other = draw.choice(near)
        changed = list(order)
        i, j = changed.index(one), changed.index(other)
        changed[i], changed[j] = changed[j], changed[i]
        bases = first_fit(layout, changed)
        found = layout.peak(bases)
        if found <= peak:
            best, order, peak = bases, changed, found
        else:
            bases = best
    return best


def _pillar(layout: Layout, bases: Sequence[int], draw: random.Random) -> list[int]:
    """A highest block, one that it rests on, and so on down to the ground."""
    tops = [base + height for base, height in zip(bases, layout.heights, strict=True)]
    block = draw.choice([b for b, top in enumerate(tops) if top == max(tops)])
    pillar = [block]
    while bases[block] > 0:
        below = [
            other
            for other, spans in layout.conflicts[block].items()
            if any(bases[block] == bases[other] - low for low, _ in spans)
        ]
        if not below:
            break
        block = draw.choice(below)
        pillar.append(block)
    return pillar
