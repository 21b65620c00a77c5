"""Parts of a large graph whose optima add up to a lower bound of the whole.

The tensors are divided among windows of the order of a plan. A window's problem has the operators
around it, its own tensors in full, and of all others only what a running operator cannot do
without. A plan of the whole graph, restricted to the operators and tensors of a window, is one of
the window's problem that costs no more than these tensors cost in the plan: between two uses of a
tensor it is resident throughout or it was loaded at least once. As each tensor belongs to one
window, the optima of the windows add up to a lower bound. What tensors of two windows do to each
other is what such a bound leaves out.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Sequence

from compress.passes.schedule.candidates import Candidate, cost_of
from compress.passes.schedule.presolve import Instance, as_set, members, presolve
from compress.passes.schedule.problem import Graph, Operator, Share

MARGIN = 40
"""Operators to either side of a window that take part in its problem: they cost little, since few
tensors do, and what they need is what drives tensors out."""

AWAY, ALIVE = 0.5, 0.01
"""What it counts to divide where a unit is off chip, and where it is resident between two uses; 1
is dividing a tensor that leaves from the one it is made of. If those are in two windows, neither
has a reason to move anything: one may make the tensor as soon as it likes, the other as late."""


@dataclasses.dataclass(frozen=True)
class Window:
    """A part of the problem.

    Attributes:
        own: its tensors.
        operators: that take part in it, all producers and readers of those among them.
        bound: of what its tensors cost, in units of the instance.
        closed: the bound is the optimum of this window.
        seconds: that this took.
    """

    own: frozenset[int]
    operators: frozenset[int]
    bound: int = 0
    closed: bool = False
    seconds: float = 0.0

    def joined(self, other: Window) -> Window:
        """One window instead of two, not yet bounded anew."""
        return Window(
            self.own | other.own,
            self.operators | other.operators,
            self.bound + other.bound,
            seconds=self.seconds + other.seconds,
        )


def windows_of(instance: Instance, known: Candidate, size: int) -> list[Window]:
    """The windows of a plan, of about `size` positions each."""
    position = {operator: place for place, operator in enumerate(known.order)}
    windows = []
    for start, end in _stretches(instance, known, size):
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
        windows.append(Window(frozenset(own), frozenset(operators)))
    return windows


def part_of(instance: Instance, plan: Candidate, window: Window) -> tuple[Instance, Candidate]:
    """A window's problem, in units of its own, and what a plan is for it."""
    own = sorted(window.own)
    order = [o for o in plan.order if o in window.operators]
    part = restricted(instance, order, own)
    number = {operator: n for n, operator in enumerate(order)}
    index = {tensor: n for n, tensor in enumerate(own)}
    loads = tuple((index[t], number[o]) for t, o in plan.loads if t in index)
    places = tuple(range(len(order)))
    return part, Candidate(cost_of(part, places, loads), places, loads, "window")


def spliced(plan: Candidate, window: Window, order: Sequence[int]) -> tuple[int, ...]:
    """The plan's order with the operators of a window in the order found for it, as far as they
    follow one another in the plan.

    Args:
        order: of the window's operators, numbered by their order in the plan.
    """
    taking = [o for o in plan.order if o in window.operators]
    wanted = [taking[n] for n in order]
    result: list[int] = []
    for inside, group in itertools.groupby(plan.order, key=window.operators.__contains__):
        stretch = list(group)
        if inside:
            here = set(stretch)
            stretch = [o for o in wanted if o in here]
        result += stretch
    return tuple(result)


def cost_in(instance: Instance, plan: Candidate, own: Collection[int]) -> int:
    """Units that a plan moves of some tensors."""
    return cost_of(instance, plan.order, [key for key in plan.loads if key[0] in own])


def _stretches(instance: Instance, known: Candidate, size: int) -> list[tuple[int, int]]:
    """(first position, the one after the last) of each: of `size` operators, give or take a third,
    divided where that leaves out least of what the plan moves."""
    count = instance.operators
    lost = _lost(instance, known)
    shortest, longest = max(1, 2 * size // 3), 4 * size // 3
    best: list[tuple[float, int] | None] = [None] * (count + 1)
    best[0] = (0.0, 0)
    for end in range(1, count + 1):
        for start in range(max(0, end - longest), end - min(shortest, count) + 1):
            before = best[start]
            if before is None:
                continue
            cost = before[0] + (lost[end] if end < count else 0.0)
            reached = best[end]
            if reached is None or cost < reached[0]:
                best[end] = (cost, start)
    stretches: list[tuple[int, int]] = []
    end = count
    while end:
        entry = best[end]
        start = 0 if entry is None else entry[1]
        stretches.append((start, end))
        end = start
    return stretches[::-1]


def _lost(instance: Instance, known: Candidate) -> list[float]:
    """By position, what dividing right before it may leave out, by the plan."""
    position = {operator: place for place, operator in enumerate(known.order)}
    lost = [0.0] * (instance.operators + 1)
    loads = set(known.loads)
    for tensor, readers in enumerate(instance.consumers):
        size, producer = instance.sizes[tensor], instance.producers[tensor]
        places = sorted((position[r], r) for r in readers)
        if producer is not None:
            places.insert(0, (position[producer], -1))
        leaves = False
        for (before, _), (after, reader) in itertools.pairwise(places):
            away = (tensor, reader) in loads
            leaves |= away
            for place in range(before + 1, after + 1):
                lost[place] += (AWAY if away else ALIVE) * size
        if leaves and producer is not None:
            makers = [instance.producers[t] for t in instance.inputs[producer]]
            origin = min((position[m] for m in makers if m is not None), default=position[producer])
            for place in range(origin + 1, position[producer] + 1):
                lost[place] += size
    return lost


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
