"""What a plan is compared with: bounds, baselines, and traffic at other sizes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping

from compress.backends.scratchpad.check import Verdict
from compress.errors import ModelError
from compress.passes.schedule.baselines import baselines
from compress.passes.schedule.extract import Extracted
from compress.passes.schedule.orders import least_peak
from compress.passes.schedule.presolve import presolve
from compress.passes.schedule.problem import Graph, extra_bytes
from compress.passes.schedule.program import Program
from compress.passes.schedule.tiling.chains import plan_order, smallest_scratchpad
from compress.passes.schedule.tiling.extract import striped
from compress.passes.schedule.tiling.groups import TilingOptions
from compress.passes.schedule.tiling.operators import StripedGraph
from compress.report import memory_plan as schema
from compress.stages.plan_record import Chosen

UNLIMITED = 2**62
"""Bytes."""

QUICK = TilingOptions(most_operators=8)
"""For plans of stripes where there is little time."""

POINTS = 12
"""Of the curve, at most."""

COARSE_TO_FINE = (6, 3, 9, 1, 5, 8, 10, 0, 2, 4, 7)
"""In which order they are found, so that what there is time for covers all sizes."""

CLOSE_ENOUGH = 1.02
"""Ratio of sizes between which the smallest scratchpad without extra traffic is found."""


def find_bounds(
    extracted: Extracted,
    graph: Graph,
    chosen: Chosen,
    verdict: Verdict,
    *,
    align: int,
    seconds: float,
) -> schema.Bounds:
    """The bounds of a plan.

    Args:
        graph: the problem of whole tensors, sizes rounded up to the alignment.
        align: bytes that addresses are multiples of.
        seconds: for everything; the curve has as many points as there is time for. What is 0 or
            less leaves time for the least.
    """
    started = time.monotonic()
    deadline = started + 0.8 * seconds
    peak, order = smallest_peak(graph, seconds=max(0.0, min(2.0, 0.2 * seconds)))
    occupied = most_occupied(chosen.program)
    stripes = striped(extracted).reordered(order)
    options = dataclasses.replace(QUICK, align=align)
    lowest, _ = smallest_scratchpad(stripes, options, deadline=deadline)
    known = {peak: 0, verdict.peak: verdict.extra_bytes}
    curve = _curve(stripes, options, min(lowest, peak), known, deadline)
    least = smallest_in_stripes(extracted, align, deadline=deadline)
    plain = _baselines(
        extracted, graph, chosen.program.capacity, seconds=max(0.0, min(2.0, 0.1 * seconds))
    )
    curve = _falling({**curve, chosen.program.capacity: verdict.extra_bytes})
    free = [size for size, extra in curve.items() if extra == 0]
    return schema.Bounds(
        compulsory_bytes=verdict.off_chip_bytes - verdict.extra_bytes,
        largest_operator=largest_operator(graph),
        smallest_peak_bytes=peak,
        smallest_scratchpad_bytes=min(least, verdict.peak, peak),
        peak_bytes=verdict.peak,
        occupied_bytes=occupied,
        fragmentation=round(1 - occupied / verdict.peak, 6) if verdict.peak else 0.0,
        zero_extra_bytes=min(free, default=None),
        baselines=plain,
        curve=[
            schema.CurvePoint(scratchpad_bytes=size, extra_bytes=extra)
            for size, extra in curve.items()
        ],
    )


def smallest_in_stripes(extracted: Extracted, align: int, *, deadline: float) -> int:
    """Bytes that the network needs where layers run in stripes and copies do not overlap with
    computation; beyond the deadline, those of every layer alone."""
    options = dataclasses.replace(QUICK, align=align, double_buffer=False)
    return smallest_scratchpad(striped(extracted), options, deadline=deadline)[0]


def smallest_peak(graph: Graph, *, seconds: float) -> tuple[int, tuple[int, ...]]:
    """(M_P in bytes, an order that has it): the smallest peak that is found in time."""
    instance = presolve(graph, UNLIMITED)
    need = max(instance.least_need(operator) for operator in range(instance.operators))
    found = least_peak(instance, seconds=seconds, enough=need)
    return int(found.value) * instance.unit, found.order


def largest_operator(graph: Graph) -> schema.OperatorNeed:
    """M_R: the operator that needs the most, with whole tensors."""
    instance = presolve(graph, UNLIMITED)
    largest = max(range(instance.operators), key=instance.least_need)
    return schema.OperatorNeed(
        name=graph.operators[largest].name, bytes=instance.least_need(largest) * instance.unit
    )


def _baselines(
    extracted: Extracted, graph: Graph, capacity: int, *, seconds: float
) -> list[schema.BaselineRecord]:
    try:
        plans = baselines(graph, capacity, seconds=seconds)
    except ModelError:
        return []
    records = []
    for name, plan in plans.items():
        order, _, policy = name.partition(", ")
        extra = None if plan is None else extra_bytes(extracted.graph, plan.stays)
        records.append(schema.BaselineRecord(order=order, policy=policy, extra_bytes=extra))
    return records


def most_occupied(program: Program) -> int:
    """The most bytes in use at one step; memory that two buffers share counts once."""
    changes: dict[int, list[tuple[int, int, int]]] = {}
    for number, buffer in enumerate(program.buffers):
        if buffer.last >= buffer.first >= 0:
            place = (number, buffer.address, buffer.address + buffer.bytes)
            changes.setdefault(buffer.first, []).append(place)
    most = 0
    live: list[tuple[int, int, int]] = []
    for step in sorted(changes):
        live = [p for p in live if program.buffers[p[0]].last >= step] + changes[step]
        end = used = 0
        for _, low, high in sorted(live, key=lambda place: place[1:]):
            used += max(0, high - max(low, end))
            end = max(end, high)
        most = max(most, used)
    return most


def _curve(
    graph: StripedGraph,
    options: TilingOptions,
    lowest: int,
    known: Mapping[int, int],
    deadline: float,
) -> dict[int, int]:
    """Extra bytes by size, from the least that anything runs in to what needs none."""
    found: dict[int, int | None] = dict(known)
    peak = max(known)

    def at(size: int) -> None:
        try:
            plan = plan_order(graph, size, options, deadline=deadline, finish=False)
            found[size] = plan.extra_bytes
        except ModelError:
            found[size] = None
        except TimeoutError:
            pass

    sizes = [round(lowest * (peak / lowest) ** (n / (POINTS - 1))) for n in range(POINTS)]
    for number in COARSE_TO_FINE:
        size = sizes[number]
        impossible = any(extra is None and size <= other for other, extra in found.items())
        free = any(extra == 0 and size >= other for other, extra in found.items())
        if time.monotonic() < deadline and not impossible and not free:
            at(size)
    while time.monotonic() < deadline and (size := _between(found)) is not None:
        at(size)
    return {size: extra for size, extra in found.items() if extra is not None}


def _falling(found: dict[int, int]) -> dict[int, int]:
    """By size; what fits into less fits into more, so that extra bytes never rise with it."""
    result: dict[int, int] = {}
    least: int | None = None
    for size in sorted(found):
        least = found[size] if least is None else min(least, found[size])
        result[size] = least
    return result


def _between(found: Mapping[int, int | None]) -> int | None:
    """A size between the largest that needs extra traffic and the smallest that needs none."""
    enough = min((size for size, extra in found.items() if extra == 0), default=None)
    if enough is None:
        return None
    short = max((size for size, extra in found.items() if extra != 0 and size < enough), default=0)
    if not short or enough <= CLOSE_ENOUGH * short:
        return None
    middle = (short + enough) // 2
    return None if middle in found else middle
