"""Large graphs: windows of the order are improved one by one, and bounded one by one.

Improvement: outside a window everything stays as it is, inside order and residency are free.

Bound: the tensors are divided among windows. A window's problem has the operators around it, its
own tensors in full, and of all others only what a running operator cannot do without. A plan of
the whole graph, restricted to the operators and tensors of a window, is one of the window's
problem that costs no more than these tensors cost in the plan: between two uses of a tensor it is
resident throughout or it was loaded at least once. As each tensor belongs to one window, the
optima of the windows add up to a lower bound. They are divided where the best known plan moves
least, since what tensors of two windows do to each other is what such a bound leaves out.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Sequence

from compress.passes.schedule.candidates import Candidate, cost_of
from compress.passes.schedule.clock import Clock
from compress.passes.schedule.presolve import Instance, as_set, members, presolve
from compress.passes.schedule.problem import Graph, Operator, Share
from compress.passes.schedule.retention import best_retention

LARGE = 260
"""Operators from which a plan is improved in windows before it is bounded."""

WINDOW = 80
"""Operators of a window at first, about: graphs of this size are proven optimal in a second."""

LEVEL_SHARE = 0.4
"""Of the time that is left, for all windows of one size."""

LEAST_S = 0.2
"""Time for which a window is not begun any more."""

MARGIN = 12
"""Operators to either side of it that take part in its problem."""

IMPROVING = 0.25
"""Share of the time for improvement."""


@dataclasses.dataclass(frozen=True)
class Divided:
    """The best plan, and a lower bound of all plans, in units."""

    candidate: Candidate
    bound: int


def divide(
    instance: Instance, known: Candidate, *, seconds: float, threads: int = 1, seed: int = 0
) -> Divided:
    """Improves a plan and bounds it, window by window."""
    clock = Clock(seconds)
    best = known
    if instance.operators > LARGE:
        best = improve(instance, known, seconds=IMPROVING * seconds, threads=threads, seed=seed)
    return prove(instance, best, seconds=clock.left, threads=threads, seed=seed)


def improve(
    instance: Instance,
    known: Candidate,
    *,
    seconds: float,
    threads: int = 1,
    seed: int = 0,
    window: int = WINDOW,
) -> Candidate:
    """The plan after each window's order and residency were chosen anew, from first to last."""
    clock = Clock(seconds)
    best = known
    count = instance.operators
    starts = list(range(0, max(1, count - window // 2), window // 2))
    for number, start in enumerate(starts):
        if not best.cost or clock.left < 0.5:
            break
        found = best_retention(
            instance,
            seconds=clock.left / (len(starts) - number),
            threads=threads,
            seed=seed,
            known=best,
            free=best.order[start : start + window],
        )
        if found.candidate is not None and found.candidate.cost < best.cost:
            best = dataclasses.replace(found.candidate, method="windows")
    return best


def prove(
    instance: Instance,
    known: Candidate,
    *,
    seconds: float,
    threads: int = 1,
    seed: int = 0,
    window: int = WINDOW,
) -> Divided:
    """A lower bound from windows of the best known plan; neighbours are joined as long as there is
    time, until there is one window that is the whole graph."""
    clock = Clock(seconds)
    best = known
    windows = [_Window(start, end, 0) for start, end in _windows(instance, known, window)]
    while True:
        whole = len(windows) == 1
        sharing = clock.left * (1.0 if whole else LEVEL_SHARE)
        for number, each in enumerate(windows):
            if clock.left < LEAST_S:
                break
            part, plan = (instance, best) if whole else _part(instance, known, each.start, each.end)
            # a part has units of its own, in units of the instance
            scale = 1 if whole else part.unit
            if plan.cost * scale <= each.bound:
                continue
            found = best_retention(
                part,
                seconds=sharing / (len(windows) - number),
                threads=threads,
                seed=seed,
                known=plan,
                bound=-(-each.bound // scale),
            )
            bound = max(each.bound, found.bound * scale)
            windows[number] = dataclasses.replace(each, bound=bound)
            sharing = max(0.0, sharing - sharing / (len(windows) - number))
            if whole and found.candidate is not None and found.candidate.cost < best.cost:
                best = found.candidate
        total = sum(w.bound for w in windows)
        if whole or total >= best.cost or clock.left < LEAST_S:
            return Divided(best, min(total, best.cost))
        windows = [
            _Window(pair[0].start, pair[-1].end, sum(w.bound for w in pair))
            for pair in (windows[n : n + 2] for n in range(0, len(windows), 2))
        ]


@dataclasses.dataclass(frozen=True)
class _Window:
    """Positions from `start` until before `end`, and a bound of what its tensors cost."""

    start: int
    end: int
    bound: int


def _windows(instance: Instance, known: Candidate, window: int) -> list[tuple[int, int]]:
    """(first position, the one after the last) of each window: of `window` operators, give or take
    a third, divided where the least is off chip in the plan, then where the least is alive."""
    count = instance.operators
    activity = _activity(instance, known)
    shortest, longest = max(1, 2 * window // 3), 4 * window // 3
    best: list[tuple[float, int] | None] = [None] * (count + 1)
    best[0] = (0.0, 0)
    for end in range(1, count + 1):
        for start in range(max(0, end - longest), end - min(shortest, count) + 1):
            before = best[start]
            if before is None:
                continue
            cost = before[0] + (activity[end] if end < count else 0.0)
            reached = best[end]
            if reached is None or cost < reached[0]:
                best[end] = (cost, start)
    windows: list[tuple[int, int]] = []
    end = count
    while end:
        entry = best[end]
        start = 0 if entry is None else entry[1]
        windows.append((start, end))
        end = start
    return windows[::-1]


def _activity(instance: Instance, known: Candidate) -> list[float]:
    """By position, what dividing right before it cuts through: tensors that are off chip and come
    back, and a little for those that are alive."""
    position = {operator: place for place, operator in enumerate(known.order)}
    activity = [0.0] * (instance.operators + 1)
    loads = set(known.loads)
    for tensor, readers in enumerate(instance.consumers):
        producer = instance.producers[tensor]
        places = sorted((position[r], r) for r in readers)
        if producer is not None:
            places.insert(0, (position[producer], -1))
        for (before, _), (after, reader) in itertools.pairwise(places):
            share = 1.0 if (tensor, reader) in loads else 0.01
            for place in range(before + 1, after + 1):
                activity[place] += share * instance.sizes[tensor]
    return activity


def _part(instance: Instance, known: Candidate, start: int, end: int) -> tuple[Instance, Candidate]:
    """A window's problem, and what the known plan is for it."""
    position = {operator: place for place, operator in enumerate(known.order)}
    own = []
    operators = set(known.order[max(0, start - MARGIN) : end + MARGIN])
    for tensor, readers in enumerate(instance.consumers):
        producer = instance.producers[tensor]
        places = [position[r] for r in readers]
        home = min(places, default=-1) if producer is None else position[producer]
        if readers and start <= home < end:
            own.append(tensor)
            operators.update(readers)
            if producer is not None:
                operators.add(producer)
    order = [o for o in known.order if o in operators]
    part = restricted(instance, order, own)
    number = {operator: n for n, operator in enumerate(order)}
    index = {tensor: n for n, tensor in enumerate(own)}
    loads = tuple((index[t], number[o]) for t, o in known.loads if t in index)
    plan = Candidate(
        cost_of(part, range(len(order)), loads), tuple(range(len(order))), loads, "window"
    )
    return part, plan


def restricted(instance: Instance, order: Sequence[int], own: Collection[int]) -> Instance:
    """The problem of some operators, with some tensors in full and of the others only the bytes
    that a running operator cannot do without, at the least.

    Args:
        order: operators, in a valid order.
        own: tensors, all of whose producers and readers are among them.
    """
    index = {tensor: n for n, tensor in enumerate(own)}
    operators = []
    for operator in order:
        shares = []
        workspace = instance.workspaces[operator]
        touched = (*instance.inputs[operator], *instance.outputs[operator])
        workspace += sum(instance.sizes[t] for t in touched if t not in index)
        for share in instance.shares[operator]:
            if share.input in index and share.output in index:
                offset = share.offset // instance.unit
                shares.append(Share(index[share.input], index[share.output], offset))
            else:
                workspace -= instance.sizes[share.input]
        operators.append(
            Operator(
                instance.graph.operators[operator].name,
                tuple(index[t] for t in instance.inputs[operator] if t in index),
                tuple(index[t] for t in instance.outputs[operator] if t in index),
                max(0, workspace),
                shares=tuple(shares),
            )
        )
    tensors = tuple(
        dataclasses.replace(instance.graph.tensors[t], bytes=instance.sizes[t]) for t in own
    )
    part = presolve(Graph(tuple(operators), tensors), instance.capacity)
    number = {operator: n for n, operator in enumerate(order)}
    chosen = as_set(order)
    ancestors = [_renumbered(instance.ancestors[o] & chosen, number) for o in order]
    descendants = [_renumbered(instance.descendants[o] & chosen, number) for o in order]
    predecessors = []
    for above in ancestors:
        implied = 0
        for a in members(above):
            implied |= ancestors[a]
        predecessors.append(frozenset(members(above & ~implied)))
    return dataclasses.replace(
        part,
        predecessors=tuple(predecessors),
        ancestors=tuple(ancestors),
        descendants=tuple(descendants),
    )


def _renumbered(numbers: int, number: dict[int, int]) -> int:
    return as_set(number[n] for n in members(numbers))
