"""Networks with other layers that a run has tried, each with what became of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from compress.report.schema import Candidate, Recovery, StructureChange

IN_FULL = "in full"
"""Ends the name of a recovery whose network was searched anew: the candidates of that search have
the rest of the name, and a word of their own behind it."""


@dataclasses.dataclass(frozen=True)
class Tried:
    """One network with other layers.

    Attributes:
        changes: in words.
        candidate: the best model that was built of it; None if none is in the report.
        outcome: what became of it.
    """

    recovery: Recovery
    changes: str
    candidate: Candidate | None
    outcome: str


def tried(recoveries: Sequence[Recovery], candidates: Sequence[Candidate]) -> list[Tried]:
    """All of them, in order."""
    rows = []
    for place, recovery in enumerate(recoveries):
        found = _candidate(recovery, candidates)
        followed = any(later.changes == recovery.changes for later in recoveries[place + 1 :])
        if recovery.shipped:
            outcome = "shipped"
        elif followed:
            outcome = "trained in full"
        elif not recovery.name.endswith(IN_FULL):
            outcome = "given up after a first look"
        elif found is not None:
            outcome = "bettered by a later one"
        else:
            outcome = "nothing better came of it"
        rows.append(Tried(recovery, in_words(recovery.changes), found, outcome))
    return rows


@dataclasses.dataclass(frozen=True)
class Counted:
    """How much was changed.

    Attributes:
        merged: layers that became `spans` operators.
        dropped: layers.
        narrowed: groups of channels.
    """

    merged: int
    spans: int
    dropped: int
    narrowed: int


def count(changes: Sequence[StructureChange]) -> Counted:
    """Merged, dropped and narrowed."""
    dropped = [c for c in changes if c.form.partition(" ")[0] == "drop"]
    merged = [c for c in changes if c.technique == "merge" and c not in dropped]
    return Counted(
        merged=sum(len(c.layers) for c in merged),
        spans=len(merged),
        dropped=sum(len(c.layers) for c in dropped),
        narrowed=sum(c.technique == "prune" for c in changes),
    )


def in_words(changes: Sequence[StructureChange]) -> str:
    """Merged, dropped and narrowed in one line: "7 layers to 1, 3 groups narrowed"."""
    counted = count(changes)
    parts = []
    if counted.spans:
        parts.append(f"{_several(counted.merged, 'layer')} to {counted.spans}")
    if counted.dropped:
        parts.append(f"{_several(counted.dropped, 'layer')} dropped")
    if counted.narrowed:
        parts.append(f"{_several(counted.narrowed, 'group')} narrowed")
    return ", ".join(parts)


def _several(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"


def _candidate(recovery: Recovery, candidates: Sequence[Candidate]) -> Candidate | None:
    """The shipped one, else the fastest that is good enough, else the fastest."""
    name = recovery.name
    if name.endswith(IN_FULL):
        start = name.removesuffix(IN_FULL)
        own = [c for c in candidates if c.name.startswith(start)]
    else:
        own = [c for c in candidates if c.name == name]
    return min(own, key=_rank, default=None)


def _rank(candidate: Candidate) -> tuple[bool, bool, float]:
    quality, latency = candidate.quality, candidate.latency
    allowed = None if quality is None else quality.allowed
    poor = quality is not None and allowed is not None and quality.value < allowed
    return not candidate.shipped, poor, math.inf if latency is None else latency.median_ms
