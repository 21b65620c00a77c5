"""The steps that a plan comes down to: what is copied and computed where, byte by byte.

Whole-tensor plans and fused stripes end in the same program. It is what is executed as a proof,
written to memory_plan.json and drawn.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Buffer:
    """A place in the scratchpad for (some rows of) one tensor, during some steps.

    Layout "whole": the tensor as the model has it. Layout "rows": row h of a (1, C, H, W) tensor,
    all channels of it (C, W in order), lies at address + (h mod `rows`) * `row_bytes`: a rolling
    buffer that holds `rows` rows in a row. Layout "scratch": bytes that only one operator uses.

    Attributes:
        name: unique.
        tensor: the value's name in the model; several buffers may hold one tensor at different
            times, or different rows of it.
        address, bytes: where it lies.
        first, last: steps of the program between which it is occupied, both included.
        shares: names of buffers that may overlap it: what an operator writes over its input, or
            places inside a concatenation.
    """

    name: str
    tensor: str
    address: int
    bytes: int
    first: int
    last: int
    layout: Literal["whole", "rows", "scratch"] = "whole"
    rows: int = 0
    row_bytes: int = 0
    shares: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Step:
    """One thing that happens.

    - "load": `rows` of the tensor (all of it if None) are copied from off chip to `outputs[0]`.
    - "store": `rows` of it are copied from `inputs[0]` to off chip.
    - "compute": an operator reads `inputs` and writes `rows` (all if None) of its output to
      `outputs`. Inputs that are constants outside of every buffer are part of the program's code.

    Attributes:
        operator: its name, of "compute" alone.
        inputs, outputs: names of buffers, in the operator's order. A weight that was loaded to
            the scratchpad stands among the inputs.
        rows: first row and the one after the last.
        bytes: that cross the border of the chip. Of a "compute" they are those of weights that
            have no buffer among the inputs: they pass through a "scratch" buffer during the step,
            block by block, each time it runs; and rows that are looked up in a table off chip.
        compulsory: whether they do in every plan.
        group: number of the fused group that the step belongs to, if any.
    """

    kind: Literal["load", "store", "compute"]
    operator: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    rows: tuple[int, int] | None = None
    bytes: int = 0
    compulsory: bool = False
    group: int | None = None


@dataclasses.dataclass(frozen=True)
class Program:
    """Steps in their order, and the buffers they use.

    Attributes:
        capacity: bytes of the scratchpad.
        align: bytes that the addresses of all buffers are multiples of.
    """

    capacity: int
    buffers: tuple[Buffer, ...]
    steps: tuple[Step, ...]
    align: int = 1

    @functools.cached_property
    def by_name(self) -> dict[str, Buffer]:
        return {buffer.name: buffer for buffer in self.buffers}

    @property
    def off_chip_bytes(self) -> int:
        return sum(step.bytes for step in self.steps)

    @property
    def peak(self) -> int:
        """The highest address in use plus one."""
        return max((b.address + b.bytes for b in self.buffers), default=0)
