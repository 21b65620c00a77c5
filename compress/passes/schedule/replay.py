"""Running a plan on paper: the independent checker of every schedule.

It knows the rules and nothing of the models: what it counts and what it finds wrong depends on the
plan and the graph alone.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from compress.passes.schedule.problem import Graph, Plan, Share, Stay


@dataclasses.dataclass(frozen=True)
class Replay:
    """What a plan comes to.

    Attributes:
        extra_bytes: off-chip bytes beyond the compulsory ones.
        peak: highest address in use plus one; the largest sum of resident bytes where the plan has
            no addresses.
        problems: rules that it breaks, a sentence each; empty if it is valid.
    """

    extra_bytes: int
    peak: int
    problems: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Place:
    """Bytes in use at some step: a stay, or an operator's workspace."""

    name: str
    address: int
    bytes: int
    stay: Stay | None = None


def replay(graph: Graph, plan: Plan, capacity: int) -> Replay:
    """Checks every rule of a plan, and counts.

    1. Every operator runs once, after those that make its inputs.
    2. A tensor's stays follow one another. The first begins with the step that makes it, if one
       does; all others are loads right before a step that reads it.
    3. Inputs and outputs are resident when an operator runs.
    4. What is loaded has a copy off chip: it is external, or the whole of it was there at the end
       of its first stay. The same holds for what has to be off chip in the end.
    5. At no step is more resident than the capacity; an input that lies inside an output, where it
       is used last, counts once.
    6. With addresses: everything lies within the capacity, and what is resident at the same step
       does not overlap, but for such inputs exactly at their offset.
    7. The plan says no less traffic and no lower peak than there is.
    """
    problems: list[str] = []
    names = [t.name for t in graph.tensors]
    if sorted(plan.order) != list(range(len(graph.operators))):
        return Replay(0, 0, ("the order does not hold every operator once",))
    place = {operator: step for step, operator in enumerate(plan.order)}
    stays: list[list[Stay]] = [[] for _ in graph.tensors]
    for stay in plan.stays:
        if not 0 <= stay.tensor < len(stays):
            problems.append(f"a stay is of tensor {stay.tensor}, which does not exist")
        elif not 0 <= stay.first <= stay.last < len(plan.order):
            problems.append(f"{names[stay.tensor]} stays from {stay.first} to {stay.last}")
        else:
            stays[stay.tensor].append(stay)
    makers = {t: place[o] for o, operator in enumerate(graph.operators) for t in operator.outputs}
    readers: list[list[int]] = [[] for _ in graph.tensors]
    for o, operator in enumerate(graph.operators):
        for t in operator.inputs:
            readers[t].append(place[o])
            if t in makers and makers[t] >= place[o]:
                problems.append(f"{operator.name} runs before {names[t]} is made")
    extra = 0
    for t, own in enumerate(stays):
        own.sort(key=lambda stay: stay.first)
        problems += _wrong_stays(names[t], own, makers.get(t), readers[t])
        loads = sum(stay.loaded for stay in own)
        size = graph.tensors[t].bytes
        if graph.tensors[t].external:
            extra += max(0, loads - 1) * size
        elif loads:
            extra += loads * size if graph.tensors[t].kept else (loads + 1) * size
    if problems:
        return Replay(extra, 0, tuple(problems))
    shares = [_possible_shares(graph, o, place[o], stays) for o in plan.order]
    packed = bool(plan.stays) and all(stay.address is not None for stay in plan.stays)
    if not packed and any(stay.address is not None for stay in plan.stays):
        problems.append("some stays have addresses, others have none")
    peak = 0
    for step, used in enumerate(_residents(plan)):
        operator = graph.operators[plan.order[step]]
        if packed:
            highest, wrong = _check_addresses(graph, plan, step, used, shares[step])
            problems += wrong
        else:
            highest = sum(graph.tensors[stay.tensor].bytes for stay in used) + operator.workspace
            highest -= _most_shared(graph, shares[step])
        if highest > capacity:
            problems.append(f"{operator.name} needs {highest} bytes of {capacity}")
        peak = max(peak, highest)
    if plan.extra_bytes < extra:
        problems.append(f"the plan says {plan.extra_bytes} extra bytes, there are {extra}")
    if plan.peak < peak:
        problems.append(f"the plan says a peak of {plan.peak} bytes, it is {peak}")
    return Replay(extra, peak, tuple(problems))


def _wrong_stays(name: str, own: list[Stay], made: int | None, read: Sequence[int]) -> list[str]:
    """What is wrong with the stays of one tensor, in their order."""
    wrong = []
    for before, after in itertools.pairwise(own):
        if after.first <= before.last:
            wrong.append(f"{name} is loaded at step {after.first} while it is resident")
    for number, stay in enumerate(own):
        if number == 0 and made is not None:
            if stay.loaded or stay.first != made:
                wrong.append(f"{name} does not begin where it is made, at step {made}")
        elif not stay.loaded:
            wrong.append(f"{name} is there from step {stay.first} and nothing loaded it")
        elif stay.first not in read:
            wrong.append(f"{name} is loaded for step {stay.first}, which does not read it")
    for step in (*read, *(() if made is None else (made,))):
        if not any(stay.first <= step <= stay.last for stay in own):
            wrong.append(f"{name} is not resident at step {step}, which needs it")
    return wrong


def _residents(plan: Plan) -> list[list[Stay]]:
    """By step, the stays during it."""
    result: list[list[Stay]] = [[] for _ in plan.order]
    for stay in plan.stays:
        for step in range(stay.first, stay.last + 1):
            result[step].append(stay)
    return result


def _possible_shares(
    graph: Graph, operator: int, step: int, stays: Sequence[Sequence[Stay]]
) -> list[Share]:
    """Those whose input ends its last stay here, with nothing left to be stored of it."""
    found = []
    for share in graph.operators[operator].shares:
        tensor, output = graph.tensors[share.input], graph.tensors[share.output]
        inside = share.offset >= 0 and share.offset + tensor.bytes <= output.bytes
        if inside and not tensor.kept and stays[share.input][-1].last == step:
            found.append(share)
    return found


def _most_shared(graph: Graph, shares: Sequence[Share]) -> int:
    """The most bytes that shares can save together: all choices are tried where they conflict."""
    best = 0
    pending: list[tuple[int, int, tuple[Share, ...]]] = [(0, 0, ())]
    while pending:
        index, saved, taken = pending.pop()
        best = max(best, saved)
        if index == len(shares):
            continue
        share = shares[index]
        size = graph.tensors[share.input].bytes
        fits = all(
            share.input != other.input
            and (
                share.output != other.output
                or share.offset + size <= other.offset
                or other.offset + graph.tensors[other.input].bytes <= share.offset
            )
            for other in taken
        )
        if fits:
            pending.append((index + 1, saved + size, (*taken, share)))
        if not fits or any(_contend(graph, share, other) for other in shares[index + 1 :]):
            pending.append((index + 1, saved, taken))
    return best


def _contend(graph: Graph, share: Share, other: Share) -> bool:
    if share.input == other.input:
        return True
    return (
        share.output == other.output
        and share.offset < other.offset + graph.tensors[other.input].bytes
        and other.offset < share.offset + graph.tensors[share.input].bytes
    )


def _check_addresses(
    graph: Graph, plan: Plan, step: int, used: Sequence[Stay], shares: Sequence[Share]
) -> tuple[int, list[str]]:
    """The highest address in use at a step plus one, and what overlaps."""
    operator = graph.operators[plan.order[step]]
    wrong: list[str] = []
    places = [
        _Place(graph.tensors[s.tensor].name, s.address or 0, graph.tensors[s.tensor].bytes, s)
        for s in used
    ]
    if operator.workspace:
        number = plan.order[step]
        address = plan.workspaces[number] if number < len(plan.workspaces) else None
        if address is None:
            wrong.append(f"the workspace of {operator.name} has no address")
        else:
            places.append(_Place(f"the workspace of {operator.name}", address, operator.workspace))
    for index, one in enumerate(places):
        if one.address < 0:
            wrong.append(f"{one.name} lies at address {one.address}")
        for other in places[:index]:
            apart = (
                one.address + one.bytes <= other.address
                or other.address + other.bytes <= one.address
            )
            begins = any(p.stay is None or p.stay.first == step for p in (one, other))
            if not apart and begins and not _shared(one, other, step, shares):
                wrong.append(f"{one.name} and {other.name} overlap at step {step}")
    return max((p.address + p.bytes for p in places), default=0), wrong


def _shared(one: _Place, other: _Place, step: int, shares: Sequence[Share]) -> bool:
    """Whether one of the two is an input that lies inside the other, an output, as it may."""
    if one.stay is None or other.stay is None:
        return False
    return any(
        inner.stay is not None
        and outer.stay is not None
        and share.input == inner.stay.tensor
        and share.output == outer.stay.tensor
        and inner.stay.last == step == outer.stay.first
        and inner.address == outer.address + share.offset
        for share in shares
        for inner, outer in ((one, other), (other, one))
    )
