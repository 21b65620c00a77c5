"""The check of every packing: buffers and addresses alone, nothing shared with what packs them."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from compress.passes.schedule.offsets_problem import Block


def overlaps(
    blocks: Sequence[Block], offsets: Sequence[int], capacity: int | None = None
) -> list[str]:
    """What is wrong with a packing; nothing if it is right.

    Each part that begins is compared with all that are in use then.

    Args:
        offsets: of the blocks' bases, in bytes.
        capacity: bytes; None for any.
    """
    if len(offsets) != len(blocks):
        return [f"{len(blocks)} blocks have {len(offsets)} offsets"]
    problems = []
    parts = []
    for index, (block, base) in enumerate(zip(blocks, offsets, strict=True)):
        if base < 0:
            problems.append(f"block {index} lies at {base}")
        for part in block.parts:
            start = base + part.offset
            parts.append((part.lower, part.upper, start, start + part.size, index))
            if capacity is not None and start + part.size > capacity:
                over = start + part.size - capacity
                problems.append(f"block {index} ends {over} bytes above the capacity")
    parts.sort()
    in_use: list[tuple[int, int, int, int]] = []  # (upper, start, end, block), a heap by upper
    for lower, upper, start, end, index in parts:
        while in_use and in_use[0][0] <= lower:
            heapq.heappop(in_use)
        for _, other_start, other_end, other in in_use:
            if other != index and start < other_end and other_start < end:
                shared = min(end, other_end) - max(start, other_start)
                problems.append(
                    f"blocks {min(index, other)} and {max(index, other)} share {shared} bytes "
                    f"at time {lower}"
                )
        heapq.heappush(in_use, (upper, start, end, index))
    return problems
