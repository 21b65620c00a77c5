"""Addresses that are multiples of some bytes, as DMA engines and vector units want them."""

from __future__ import annotations

import dataclasses

from compress.errors import UsageError
from compress.passes.schedule.extract import Extracted
from compress.passes.schedule.kernels import value_bytes
from compress.passes.schedule.problem import Graph

DEFAULT_ALIGN = 16
"""Bytes: what Ethos-U asks for, and as wide as most vector units load."""


def check_align(align: int) -> None:
    """
    Raises:
        UsageError: it is not a power of two of at least 1.
    """
    if align < 1 or align & (align - 1):
        raise UsageError(f"addresses in multiples of {align} bytes: give a power of two, as in 16")


def round_up(size: int, align: int) -> int:
    """The least multiple of `align` bytes that holds `size` bytes."""
    return -(-size // align) * align


def aligned(extracted: Extracted, align: int) -> Graph:
    """The problem with the room that everything takes where addresses are multiples of `align`.

    Sizes of tensors are rounded up, and so are those of an operator's own weights, each for itself.
    Parts lie inside a concatenation only at offsets that are such multiples. Where all sizes are
    multiples already, this is the problem itself, and else its traffic is counted too high: count
    it on the problem itself.
    """
    graph = extracted.graph
    if align == 1:
        return graph
    tensors = tuple(
        dataclasses.replace(tensor, bytes=round_up(tensor.bytes, align)) for tensor in graph.tensors
    )
    operators = tuple(
        dataclasses.replace(
            operator,
            workspace=sum(round_up(value_bytes(weight), align) for weight in weights),
            shares=tuple(share for share in operator.shares if share.offset % align == 0),
        )
        for operator, weights in zip(graph.operators, extracted.streamed, strict=True)
    )
    return Graph(operators, tensors)
