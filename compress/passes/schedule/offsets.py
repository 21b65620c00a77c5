"""Addresses for buffers with known lifetimes: within a capacity, or in the least memory.

Fast methods come first. Greedy orders pack what is easy in milliseconds, the search what is hard,
mostly in a second. What is left has CP-SAT, where OR-tools is installed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from compress.passes.schedule import offsets_solver
from compress.passes.schedule.offsets_check import overlaps
from compress.passes.schedule.offsets_greedy import climb, first_fit, orders
from compress.passes.schedule.offsets_problem import Block, Layout, Packing, Part, Status
from compress.passes.schedule.offsets_search import search

__all__ = ["Block", "Packing", "Part", "greedy", "hill_climb", "overlaps", "pack", "smallest"]

CLIMB_STEPS = 2000
"""Of the hill climb; as many as Vela takes where nothing else is said."""

SEARCH_SHARE = 0.6
"""Of the time that is left, for the search before CP-SAT."""

INTERLOCKING_SHARE = 0.2
"""The same where blocks may interlock: the search proves nothing for them."""

FINISH_SECONDS = 1.0
"""For CP-SAT to finish what a run of the search began."""

TRIAL_SHARE = 0.25
"""Of the time that is left, for one capacity where the smallest is looked for."""


def pack(
    blocks: Sequence[Block], capacity: int, *, seconds: float, threads: int = 1, seed: int = 0
) -> Packing:
    """Addresses for all blocks within a capacity.

    Args:
        capacity: bytes.
        seconds: after which it gives up, about.
        threads: of CP-SAT.
        seed: of the search and of CP-SAT.

    Returns:
        "packed", "infeasible" if no packing exists, or "unknown" if time ran out.
    """
    started = time.monotonic()
    layout = Layout.of(blocks)
    room = capacity // layout.unit
    if layout.bound > room:
        return _packing(layout, "infeasible", None, "load", layout.bound, started)
    method, bases = _greedy(layout)
    if layout.peak(bases) <= room:
        return _packing(layout, "packed", bases, method, layout.bound, started)
    status, found, method = _within(
        layout, room, deadline=started + seconds, threads=threads, seed=seed
    )
    bound = room + 1 if status == "infeasible" else layout.bound
    return _packing(layout, status, found, method, bound, started)


def smallest(
    blocks: Sequence[Block], *, seconds: float, threads: int = 1, seed: int = 0
) -> Packing:
    """Addresses for all blocks with the lowest peak that is found in time; its bound says how
    much lower another one could be.

    The least that any packing needs is tried first, then capacities halfway to the best peak.
    """
    started = time.monotonic()
    deadline = started + seconds
    layout = Layout.of(blocks)
    bound = layout.bound
    method, bases = _greedy(layout)
    low = bound  # Nothing is known to be packed below; proven up to `bound`.
    target = bound
    while low < layout.peak(bases) and (now := time.monotonic()) < deadline:
        status, found, by = _within(
            layout,
            target,
            deadline=now + TRIAL_SHARE * (deadline - now),
            threads=threads,
            seed=seed,
        )
        if found is not None:
            method, bases = by, found
        elif status == "infeasible":
            bound = low = target + 1
        else:
            low = target + 1
        target = (low + layout.peak(bases)) // 2
    return _packing(layout, "packed", bases, method, bound, started)


def greedy(blocks: Sequence[Block]) -> Packing:
    """The largest block first, each at the lowest address that is free."""
    started = time.monotonic()
    layout = Layout.of(blocks)
    bases = first_fit(layout, orders(layout)["size"])
    return _packing(layout, "packed", bases, "greedy by size", layout.bound, started)


def hill_climb(
    blocks: Sequence[Block],
    *,
    iterations: int = CLIMB_STEPS,
    seconds: float = 60.0,
    seed: int = 0,
) -> Packing:
    """A hill climb over orders, much as Arm's compiler Vela does it."""
    started = time.monotonic()
    layout = Layout.of(blocks)
    bases = climb(
        layout,
        target=layout.bound,
        iterations=iterations,
        deadline=started + seconds,
        seed=seed,
    )
    return _packing(layout, "packed", bases, "hill climb", layout.bound, started)


def _greedy(layout: Layout) -> tuple[str, list[int]]:
    """(method, bases) of the best greedy order."""
    candidates = {f"greedy by {n}": first_fit(layout, o) for n, o in orders(layout).items()}
    return min(candidates.items(), key=lambda item: layout.peak(item[1]))


def _within(
    layout: Layout, room: int, *, deadline: float, threads: int, seed: int
) -> tuple[Status, list[int] | None, str]:
    """(status, bases, method) for one capacity in units, by all that is not greedy."""
    now = time.monotonic()
    solver = offsets_solver.available()
    share = SEARCH_SHARE if layout.ordered else INTERLOCKING_SHARE
    if not solver:
        share = 1.0 if layout.ordered else 0.5

    def finish(fixed: Mapping[int, int]) -> list[int] | None:
        limit = min(FINISH_SECONDS, deadline - time.monotonic())
        return offsets_solver.solve(layout, room, seconds=limit, seed=seed, fixed=fixed)[1]

    status, bases, method = search(
        layout,
        room,
        deadline=now + share * (deadline - now),
        seed=seed,
        finish=finish if solver else None,
    )
    if status != "unknown":
        return status, bases, method
    left = deadline - time.monotonic()
    if solver and left > 0:
        status, bases = offsets_solver.solve(layout, room, seconds=left, threads=threads, seed=seed)
        return status, bases, "cp-sat"
    bases = climb(layout, target=room, iterations=CLIMB_STEPS, deadline=deadline, seed=seed)
    if layout.peak(bases) <= room:
        return "packed", bases, "hill climb"
    return "unknown", None, method


def _packing(
    layout: Layout,
    status: Status,
    bases: Sequence[int] | None,
    method: str,
    bound: int,
    started: float,
) -> Packing:
    """In bytes."""
    unit = layout.unit
    return Packing(
        offsets=None if bases is None else tuple(base * unit for base in bases),
        peak=0 if bases is None else layout.peak(bases) * unit,
        bound=bound * unit,
        status=status,
        method=method,
        seconds=time.monotonic() - started,
    )
