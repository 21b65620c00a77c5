"""Random graphs of operators for the scheduler, of any size: plain ones and ones like NAS cells."""

from __future__ import annotations

import random

from compress.passes.schedule.anneal import Peak, anneal
from compress.passes.schedule.orders import greedy_peak
from compress.passes.schedule.presolve import presolve
from compress.passes.schedule.problem import Graph, Operator, Tensor

KIB = 1024
REACH = 8
"""From how many operators before it one of a plain graph reads."""


def random_dag(operators: int, seed: int = 0) -> Graph:
    """Each operator reads one to three of the eight before it, and makes 4 to 35 KiB or, now and
    then, 64; nothing but the last is made in vain: what nobody read is read by the last that can.
    """
    rng = random.Random(seed)
    made: list[tuple[tuple[int, ...], int]] = []
    unread: set[int] = set()
    for number in range(operators):
        near = range(max(0, number - REACH), number)
        inputs = set(rng.sample(near, min(len(near), rng.randint(1, 3))))
        ending = number == operators - 1
        inputs |= {u for u in unread if ending or u <= number - REACH}
        unread -= inputs
        unread.add(number)
        size = rng.choice((4, 8, 16, 32)) + rng.randint(0, 3) if rng.random() < 0.9 else 64
        made.append((tuple(sorted(inputs)), size * KIB))
    return _graph(made)


def nas_dag(operators: int, seed: int = 0) -> Graph:
    """Cells of five blocks, each the sum of two branches of one or two operators from the two cells
    before or from blocks of its own cell; all blocks are concatenated."""
    rng = random.Random(seed)
    unit = 33 * KIB
    made: list[tuple[tuple[int, ...], int]] = [((), 6 * unit), ((0,), 6 * unit)]
    before, last = 0, 1

    def add(inputs: tuple[int, ...], size: int) -> int:
        made.append((tuple(dict.fromkeys(inputs)), size))
        return len(made) - 1

    while len(made) < operators:
        choices = [add((before,), unit), add((last,), unit)]
        for _ in range(5):
            branches = []
            for source in (rng.choice(choices), rng.choice(choices)):
                branch = source
                for _ in range(rng.choice((0, 1, 1, 2))):
                    branch = add((branch,), unit)
                branches.append(branch)
            choices.append(add(tuple(branches), unit))
        before, last = last, add(tuple(choices[1:]), 6 * unit)
    return _graph(made[:operators])


def middle_capacity(graph: Graph, seconds: float = 1.0) -> int:
    """M_H: the mean of what the largest operator needs and the lowest peak that is found."""
    instance = presolve(graph, graph.largest_working_set)
    lowest = anneal(instance, Peak(instance, greedy_peak(instance)), seconds=seconds, keep=1)[0]
    return (graph.largest_working_set + int(lowest.value) * instance.unit) // 2


def _graph(made: list[tuple[tuple[int, ...], int]]) -> Graph:
    operators = tuple(Operator(f"o{i}", inputs, (i,)) for i, (inputs, _) in enumerate(made))
    return Graph(operators, tuple(Tensor(f"t{i}", size) for i, (_, size) in enumerate(made)))
