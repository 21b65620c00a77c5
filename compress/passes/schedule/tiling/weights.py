"""Which weights of a group stay in the scratchpad, and which pass through for every stripe."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class WeightItem:
    """The weights of one operator.

    Attributes:
        bytes: that each of their passes moves.
        room: bytes that they take where they stay.
        stream_bytes: bytes that they take while they pass through; operators take turns in them.
        runs: how often they pass through.
    """

    bytes: int
    room: int
    stream_bytes: int
    runs: int

    @property
    def reloaded(self) -> int:
        """Off-chip bytes that staying saves."""
        return self.bytes * (self.runs - 1)


@dataclasses.dataclass(frozen=True)
class WeightChoice:
    """What stays.

    Attributes:
        pinned: by operator, whether its weights stay.
        pinned_bytes: room for those.
        stream_bytes: room for the others.
        reloaded: off-chip bytes beyond loading each once.
    """

    pinned: tuple[bool, ...]
    pinned_bytes: int
    stream_bytes: int
    reloaded: int

    @property
    def bytes(self) -> int:
        return self.pinned_bytes + self.stream_bytes


@functools.lru_cache(maxsize=1 << 16)
def choose_weights(items: tuple[WeightItem, ...], room: int) -> WeightChoice | None:
    """The choice that loads the least within `room` bytes, exactly; None if there is none.

    The stream takes as much as the largest block that passes through it. For each size it can have,
    what is larger has to stay, and the rest is a knapsack.
    """
    free = tuple(item.reloaded > 0 for item in items)
    best = _measured(items, free)
    if best.bytes <= room:
        return best
    best_found: WeightChoice | None = None
    for stream in sorted({0, *(item.stream_bytes for item in items)}):
        forced = [item.stream_bytes > stream for item in items]
        left = room - stream - sum(i.room for i, f in zip(items, forced, strict=True) if f)
        if left < 0:
            continue
        others = [n for n, f in enumerate(forced) if not f and items[n].reloaded > 0]
        chosen = _knapsack([(items[n].room, items[n].reloaded) for n in others], left)
        staying = {others[k] for k in chosen}
        pinned = tuple(f or n in staying for n, f in enumerate(forced))
        choice = _measured(items, pinned)
        if best_found is None or choice.reloaded < best_found.reloaded:
            best_found = choice
    return best_found


def _measured(items: Sequence[WeightItem], pinned: tuple[bool, ...]) -> WeightChoice:
    stays = sum(item.room for item, p in zip(items, pinned, strict=True) if p)
    passes = [item for item, p in zip(items, pinned, strict=True) if not p]
    stream = max((item.stream_bytes for item in passes), default=0)
    return WeightChoice(pinned, stays, stream, sum(item.reloaded for item in passes))


def _knapsack(items: Sequence[tuple[int, int]], room: int) -> tuple[int, ...]:
    """Numbers of the (bytes, value) items of the largest value that fit together."""
    order = sorted(range(len(items)), key=lambda n: -items[n][1] / max(items[n][0], 1))
    partial: list[tuple[int, int, tuple[int, ...]]] = [(0, 0, ())]
    after = [sum(items[n][1] for n in order[k:]) for k in range(len(order) + 1)]
    for k, n in enumerate(order):
        size, value = items[n]
        more = [(s + size, v + value, (*c, n)) for s, v, c in partial if s + size <= room]
        merged = sorted(partial + more, key=lambda entry: (entry[0], -entry[1]))
        floor = max(v for _, v, _ in merged)
        partial, top = [], -1
        for entry in merged:
            if entry[1] > top and entry[1] + after[k + 1] >= floor:
                partial.append(entry)
                top = entry[1]
    return max(partial, key=lambda entry: entry[1])[2]
