"""Buffers that need addresses: lifetimes, sizes, and what they come down to.

The problem is known as dynamic storage allocation: rectangles whose place in time is fixed are
moved along the address axis until none overlap and none ends above the capacity.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

_Numbers = NDArray[np.int64]

Status = Literal["packed", "infeasible", "unknown"]


@dataclasses.dataclass(frozen=True)
class Part:
    """A range of addresses that is occupied for some time.

    Attributes:
        lower, upper: it is in use at the times lower <= t < upper.
        size: bytes, at least 1.
        offset: of its first byte from the base of its block, not negative.

    Raises:
        ValueError: it lives at no time, has no bytes, or lies below its block's base.
    """

    lower: int
    upper: int
    size: int
    offset: int = 0

    def __post_init__(self) -> None:
        if self.lower >= self.upper:
            raise ValueError(f"a buffer lives from {self.lower} until before {self.upper}: never")
        if self.size < 1:
            raise ValueError(f"a buffer has {self.size} bytes")
        if self.offset < 0:
            raise ValueError(f"a buffer lies {-self.offset} bytes below its block")


@dataclasses.dataclass(frozen=True)
class Block:
    """Parts that move together, as what is computed in place or concatenated does.

    Parts of one block may overlap each other.

    Raises:
        ValueError: there are no parts.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a block has no parts")

    @property
    def height(self) -> int:
        """Bytes from its base to its highest end."""
        return max(part.offset + part.size for part in self.parts)


@dataclasses.dataclass(frozen=True)
class Packing:
    """Where blocks lie, and what is known about how low they could.

    Attributes:
        offsets: base of each block; None if none were found.
        peak: the highest end of any part; 0 where there are no offsets.
        bound: proven lower bound of the peak of any packing.
        status: "packed"; "infeasible", which is proven; "unknown" if time ran out.
        method: what found or proved it.
        seconds: that it took.
    """

    offsets: tuple[int, ...] | None
    peak: int
    bound: int
    status: Status
    method: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class Rectangle:
    """What a block occupies: the addresses low <= a < high above its base, in units, during the
    sections first <= s < end. Rectangles of one block do not overlap."""

    block: int
    first: int
    end: int
    low: int
    high: int

    @property
    def size(self) -> int:
        return self.high - self.low


@dataclasses.dataclass(frozen=True)
class Layout:
    """Blocks in the least terms: addresses in units, time in sections.

    A section is a span of time in which nothing begins or ends. Those in which nothing is
    occupied that is not also occupied in the section before or behind are left out: they allow
    whatever the other allows.

    Attributes:
        unit: greatest common divisor of all sizes and offsets, in bytes.
        heights: by block, in units.
        rectangles: of all blocks.
        sections: how many there are.
    """

    unit: int
    heights: tuple[int, ...]
    rectangles: tuple[Rectangle, ...]
    sections: int

    @classmethod
    def of(cls, blocks: Sequence[Block]) -> Layout:
        unit = math.gcd(*(n for b in blocks for p in b.parts for n in (p.size, p.offset))) or 1
        sections = _maximal(_sections(blocks, unit))
        return cls(
            unit,
            tuple(block.height // unit for block in blocks),
            tuple(_rectangles(sections)),
            len(sections),
        )

    @functools.cached_property
    def loads(self) -> tuple[int, ...]:
        """By section, the units that are occupied in it."""
        loads = [0] * self.sections
        for rectangle in self.rectangles:
            for section in range(rectangle.first, rectangle.end):
                loads[section] += rectangle.size
        return tuple(loads)

    @property
    def bound(self) -> int:
        """Units that any packing needs at least."""
        return max((*self.loads, *self.heights), default=0)

    @functools.cached_property
    def simple(self) -> bool:
        """Whether each block is one rectangle that begins at its base."""
        return len(self.rectangles) == len(self.heights) and all(
            rectangle.low == 0 for rectangle in self.rectangles
        )

    @functools.cached_property
    def conflicts(self) -> tuple[dict[int, tuple[tuple[int, int], ...]], ...]:
        """By block i and block j that shares a section with it, the (low, high) between which
        base_j - base_i must not lie: low < base_j - base_i < high is an overlap. In order, and
        apart from each other."""
        live: list[list[Rectangle]] = [[] for _ in range(self.sections)]
        for rectangle in self.rectangles:
            for section in range(rectangle.first, rectangle.end):
                live[section].append(rectangle)
        found: list[dict[int, set[tuple[int, int]]]] = [{} for _ in self.heights]
        for section, present in enumerate(live):
            for one in present:
                for other in present:
                    # Two rectangles first meet in the section where the later one begins.
                    if one.block != other.block and section == max(one.first, other.first):
                        span = (one.low - other.high, one.high - other.low)
                        found[one.block].setdefault(other.block, set()).add(span)
        return tuple({j: _apart(spans) for j, spans in own.items()} for own in found)

    @functools.cached_property
    def ordered(self) -> bool:
        """Whether of two blocks that share a section one always lies wholly above the other, as
        where no block has an overhang."""
        return all(
            len(spans) == 1 and spans[0][0] < 0 < spans[0][1]
            for own in self.conflicts
            for spans in own.values()
        )

    @functools.cached_property
    def spans(self) -> tuple[tuple[_Numbers, _Numbers, _Numbers], ...]:
        """The same as arrays: by block, others, lows and highs, one entry per span."""
        columns = (
            np.array([(j, *span) for j, spans in own.items() for span in spans], dtype=np.int64)
            for own in self.conflicts
        )
        return tuple((c[:, 0], c[:, 1], c[:, 2]) for c in (c.reshape(-1, 3) for c in columns))

    def peak(self, bases: Sequence[int]) -> int:
        """Of a packing, in units."""
        return max((b + h for b, h in zip(bases, self.heights, strict=True)), default=0)


def _apart(spans: set[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The same numbers between (not at) the ends, without spans that overlap."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        if merged and low < merged[-1][1]:
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        else:
            merged.append((low, high))
    return tuple(merged)


_Occupied = tuple[int, int, int]
"""(block, low, high)."""


def _sections(blocks: Sequence[Block], unit: int) -> list[frozenset[_Occupied]]:
    """By span between two events, what is occupied in it."""
    times = sorted({t for b in blocks for p in b.parts for t in (p.lower, p.upper)})
    number = {time: i for i, time in enumerate(times)}
    sections: list[list[_Occupied]] = [[] for _ in times[:-1]]
    for index, block in enumerate(blocks):
        spans: dict[int, list[tuple[int, int]]] = {}
        for part in block.parts:
            span = part.offset // unit, (part.offset + part.size) // unit
            for section in range(number[part.lower], number[part.upper]):
                spans.setdefault(section, []).append(span)
        for section, occupied in spans.items():
            sections[section] += [(index, low, high) for low, high in _union(occupied)]
    return [frozenset(section) for section in sections]


def _union(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same numbers, in spans that do not touch."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        if merged and low <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        else:
            merged.append((low, high))
    return merged


def _maximal(sections: list[frozenset[_Occupied]]) -> list[frozenset[_Occupied]]:
    """Without those that a neighbour contains. In an interval graph what contains a section lies
    behind a run of sections that contain it too, so looking at neighbours finds all."""
    kept: list[frozenset[_Occupied]] = []
    for section in sections:
        while kept and kept[-1] <= section:
            kept.pop()
        if section and not (kept and section <= kept[-1]):
            kept.append(section)
    return kept


def _rectangles(sections: list[frozenset[_Occupied]]) -> list[Rectangle]:
    began: dict[_Occupied, int] = {}
    found = []
    for number, section in enumerate([*sections, frozenset[_Occupied]()]):
        for occupied in [o for o in began if o not in section]:
            block, low, high = occupied
            found.append(Rectangle(block, began.pop(occupied), number, low, high))
        for occupied in section:
            began.setdefault(occupied, number)
    return sorted(found, key=lambda r: (r.block, r.first, r.low))
