"""Tiled plans: groups in their order, and what stays in the scratchpad between them."""

from __future__ import annotations

import dataclasses

from compress.passes.schedule.tiling.groups import Stripes, TilingOptions
from compress.passes.schedule.tiling.operators import StripedGraph


@dataclasses.dataclass(frozen=True)
class TiledGroup:
    """Operators that run in stripes together.

    Attributes:
        stripes: which, in how many stripes, with how many rows in each buffer.
        resident: inputs that are in the scratchpad as a whole already.
        loaded: inputs that are loaded as a whole before the first stripe, as they are needed again
            later. All other inputs are streamed in.
        staying: outputs that stay in the scratchpad as a whole.
        streamed: outputs that leave row by row. An output may be in both.
        bystanders: planes that are resident meanwhile and not read.
        pinned: operators whose weights stay, by name; those of others pass through per stripe.
        stream_bytes: room for the weights that pass through.
        spilled: planes that are stored as a whole behind the group, and leave.
        dropped: planes that leave behind the group without being stored: they are off chip.
        footprint: bytes of all buffers.
        off_chip_bytes: that the group moves, its spills included.
    """

    stripes: Stripes
    resident: tuple[str, ...]
    loaded: tuple[str, ...]
    staying: tuple[str, ...]
    streamed: tuple[str, ...]
    bystanders: tuple[str, ...]
    pinned: tuple[str, ...]
    stream_bytes: int
    footprint: int
    off_chip_bytes: int
    spilled: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class TiledPlan:
    """What runs in which stripes.

    Attributes:
        graph: with its operators in the order of the plan.
        capacity: of the scratchpad, in bytes.
        options: that it was made with.
        off_chip_bytes: all of them.
        exact: no plan over intervals of this order, with groups of up to
            `TilingOptions.most_operators`, moves less.
        seconds: that planning took.
    """

    graph: StripedGraph
    capacity: int
    options: TilingOptions
    groups: tuple[TiledGroup, ...]
    off_chip_bytes: int
    exact: bool
    seconds: float

    @property
    def extra_bytes(self) -> int:
        """Off-chip bytes beyond the compulsory ones."""
        return self.off_chip_bytes - self.graph.compulsory_bytes

    @property
    def peak(self) -> int:
        """Bytes of the largest group."""
        return max((group.footprint for group in self.groups), default=0)
