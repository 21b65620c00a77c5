"""The choices of a selection problem as paths through the states that they leave open.

Layers are decided one after another. Two partial choices that leave the same state behind can be
completed by the same options at the same price. A state holds what is still open:

1. layers further on that an option has covered already;
2. per boundary value that an option further on may touch: whether somebody has read it as uint8,
   read it as float, written it as uint8. Bits that make no difference to what can still become due
   are dropped, so a value needs two or three states, and none once its last reader is decided;
3. per group of channels that an option further on names, the width that was chosen for it, on which
   the others have to agree.

What a value costs (a Quantize, a Dequantize, its rounding) is charged as if nobody else touched it,
and corrected when somebody does. In a chain one value is open, in a residual block two.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np

from compress.passes.base import Boundary
from compress.passes.pareto import Floats, Integers
from compress.passes.select import Problem

READ_UINT8, READ_FLOAT, WRITTEN_UINT8 = 1, 2, 4
ALL_BITS = 8

State = tuple[int, int, tuple[tuple[int, int], ...]]
"""(layers covered ahead, one bit each; bits of the open values, three each; (number, width) of the
open groups of channels, by number)."""

UNDECIDED: State = (0, 0, ())

Price = tuple[tuple[float, float], ...]
"""(latency in us, distortion) that a value costs, by its bits."""

NOTHING = -1
"""In place of an option, for a layer that is covered already."""


@dataclasses.dataclass(frozen=True)
class Arcs:
    """The decision for one layer, in every state: (n,) each, by rising source.

    Attributes:
        sources, targets: numbers of the states before and after it.
        options: index of the option that is taken, or NOTHING.
        latencies, distortions: of the option, and what it adds to the costs of values; in us.
        sizes: bytes of the option.
        ahead: by target state: the layers that are covered ahead, one bit each.
    """

    sources: Integers
    targets: Integers
    options: Integers
    latencies: Floats
    distortions: Floats
    sizes: Floats
    ahead: tuple[int, ...]

    @property
    def first(self) -> Integers:
        """By source state: its first arc. Every source has one."""
        return np.flatnonzero(np.diff(self.sources, prepend=-1))


@dataclasses.dataclass(frozen=True)
class _Move:
    """One option, taken at its first layer.

    Attributes:
        covers: its layers, one bit each.
        touches: (shift of the value's bits, bits that it sets, price by bits).
        widths: by group's number.
    """

    option: int
    covers: int
    latency: float
    distortion: float
    size: int
    touches: tuple[tuple[int, int, Price], ...]
    widths: Mapping[int, int]


@dataclasses.dataclass(frozen=True)
class _Step:
    """The decision for one layer.

    Attributes:
        layer: its bit.
        moves: the options whose first layer it is.
        simplify: (shift of a value's bits, the bits that stand for them from here on).
        closes: groups that no option further on names.
    """

    layer: int
    moves: tuple[_Move, ...]
    simplify: tuple[tuple[int, tuple[int, ...]], ...]
    closes: frozenset[int]


def state_graph(problem: Problem, max_states: int) -> list[Arcs] | None:
    """The arcs of each layer, in the problem's order. Every path from the only state before the
    first to the only one after the last is a choice, and every choice is a path.

    Returns:
        Empty if nothing covers every layer once and agrees on all widths. None beyond `max_states`
        after any layer.
    """
    graph: list[Arcs] = []
    states: list[State] = [UNDECIDED]
    for step in _steps(problem):
        numbers: dict[State, int] = {}
        rows = []
        for source, state in enumerate(states):
            for target, option, latency, distortion, size in _transitions(step, state):
                number = numbers.setdefault(target, len(numbers))
                rows.append((source, number, option, latency, distortion, size))
        if len(numbers) > max_states:
            return None
        if not rows:
            return []
        table = np.array(rows, dtype=np.float64)
        whole = table[:, :3].astype(np.int64)
        states = list(numbers)
        ahead = tuple(covered for covered, *_ in states)
        graph.append(
            Arcs(
                whole[:, 0], whole[:, 1], whole[:, 2], table[:, 3], table[:, 4], table[:, 5], ahead
            )
        )
    return _without_dead_ends(graph)


def _without_dead_ends(graph: list[Arcs]) -> list[Arcs]:
    """Without the states from which the last layer cannot be reached, in new numbers."""
    result: list[Arcs] = []
    if not graph:
        return result
    alive = np.ones(1, dtype=bool)
    counts = [1, *(len(arcs.ahead) for arcs in graph[:-1])]
    for arcs, count in zip(reversed(graph), reversed(counts), strict=True):
        kept = alive[arcs.targets]
        number = np.cumsum(alive) - 1
        before = np.zeros(count, dtype=bool)
        before[arcs.sources[kept]] = True
        result.append(
            Arcs(
                (np.cumsum(before) - 1)[arcs.sources[kept]],
                number[arcs.targets[kept]],
                arcs.options[kept],
                arcs.latencies[kept],
                arcs.distortions[kept],
                arcs.sizes[kept],
                tuple(itertools.compress(arcs.ahead, alive)),
            )
        )
        alive = before
    return result[::-1] if alive.any() else []


def _steps(problem: Problem) -> list[_Step]:
    layers = problem.layers()
    place = {layer: number for number, layer in enumerate(layers)}
    shift = {name: 3 * number for number, name in enumerate(problem.boundaries)}
    price = {name: _price(boundary) for name, boundary in problem.boundaries.items()}
    group = {
        name: k for k, name in enumerate(sorted({g for o in problem.options for g in o.widths}))
    }
    last_named: dict[int, int] = {}
    touched: list[dict[str, int]] = [{} for _ in layers]
    moves: list[list[_Move]] = [[] for _ in layers]
    for index, option in enumerate(problem.options):
        first = min(place[layer] for layer in option.layers)
        bits: dict[str, int] = {}
        for names, bit in (
            (option.reads_uint8, READ_UINT8),
            (option.reads_float, READ_FLOAT),
            (option.writes_uint8, WRITTEN_UINT8),
        ):
            for name in sorted(names & problem.boundaries.keys()):
                bits[name] = bits.get(name, 0) | bit
        for name, bit in bits.items():
            touched[first][name] = touched[first].get(name, 0) | bit
        widths = {group[name]: width for name, width in option.widths.items()}
        for number in widths:
            last_named[number] = max(last_named.get(number, 0), first)
        moves[first].append(
            _Move(
                index,
                sum(1 << place[layer] for layer in set(option.layers)),
                option.latency_us,
                option.distortion,
                option.bytes,
                tuple((shift[name], bit, price[name]) for name, bit in bits.items()),
                widths,
            )
        )
    steps = []
    pending: dict[str, int] = {}
    for number in reversed(range(len(layers))):
        simplify = tuple(
            (shift[name], _representatives(price[name], pending.get(name, 0)))
            for name in touched[number]
        )
        closes = frozenset(g for g, last in last_named.items() if last == number)
        steps.append(_Step(1 << number, tuple(moves[number]), simplify, closes))
        for name, bit in touched[number].items():
            pending[name] = pending.get(name, 0) | bit
    return steps[::-1]


def _price(boundary: Boundary) -> Price:
    """What a value costs, by who has touched it: as `evaluate_choice` charges it."""
    prices = []
    for bits in range(ALL_BITS):
        latency = 0.0
        if bits & READ_UINT8 and not bits & WRITTEN_UINT8:
            latency += boundary.quantize_us
        if bits & WRITTEN_UINT8 and (bits & READ_FLOAT or boundary.is_output):
            latency += boundary.dequantize_us
        rounded = bits & (READ_UINT8 | WRITTEN_UINT8)
        prices.append((latency, boundary.distortion if rounded else 0.0))
    return tuple(prices)


def _representatives(price: Price, pending: int) -> tuple[int, ...]:
    """By bits: the lowest bits for which all that options further on may add costs the same.

    Args:
        pending: the bits that any option further on sets.
    """
    additions = [bits for bits in range(ALL_BITS) if bits & pending == bits]
    first: dict[tuple[tuple[float, float], ...], int] = {}
    result = []
    for bits in range(ALL_BITS):
        future = tuple(
            (price[bits | more][0] - price[bits][0], price[bits | more][1] - price[bits][1])
            for more in additions
        )
        result.append(first.setdefault(future, bits))
    return tuple(result)


def _transitions(step: _Step, state: State) -> list[tuple[State, int, float, float, int]]:
    """(state after the layer, option, latency, distortion, bytes) of every way to go on."""
    covered, values, widths = state
    if covered & step.layer:
        target = _simplified(step, covered & ~step.layer, values, dict(widths))
        return [(target, NOTHING, 0.0, 0.0, 0)]
    result = []
    known = dict(widths)
    for move in step.moves:
        agrees = all(known.get(group, width) == width for group, width in move.widths.items())
        if covered & move.covers or not agrees:
            continue
        latency, distortion, changed = move.latency, move.distortion, values
        for shift, bits, price in move.touches:
            before = values >> shift & (ALL_BITS - 1)
            after = before | bits
            latency += price[after][0] - price[before][0]
            distortion += price[after][1] - price[before][1]
            changed |= bits << shift
        ahead = (covered | move.covers) & ~step.layer
        target = _simplified(step, ahead, changed, {**known, **move.widths})
        result.append((target, move.option, latency, distortion, move.size))
    return result


def _simplified(step: _Step, covered: int, values: int, widths: Mapping[int, int]) -> State:
    for shift, representatives in step.simplify:
        bits = values >> shift & (ALL_BITS - 1)
        values ^= (bits ^ representatives[bits]) << shift
    open_widths = sorted((g, width) for g, width in widths.items() if g not in step.closes)
    return covered, values, tuple(open_widths)
