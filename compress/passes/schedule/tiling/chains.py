"""The best cuts of an order of operators into fused groups: an exact dynamic program."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator

from compress.errors import ModelError
from compress.passes.schedule.tiling.bounds import Behind, least_room
from compress.passes.schedule.tiling.groups import Stripes, TilingOptions, stripes_ending_at
from compress.passes.schedule.tiling.operators import StripedGraph
from compress.passes.schedule.tiling.plans import TiledGroup, TiledPlan
from compress.passes.schedule.tiling.sides import Choice, Sides, State
from compress.passes.schedule.tiling.weights import WeightChoice, WeightItem, choose_weights

DEFAULTS = TilingOptions()


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much is tried.

    Attributes:
        states: per cut.
        subsets: of how many planes all subsets may be resident.
        choices: that are looked at before giving up; None: all.
    """

    states: int
    subsets: int
    choices: int | None = None


FIRST = Effort(states=8, subsets=2)
"""Of the pass that bounds the second one. It is enough for chains, and fast where much is alive."""

SECOND = Effort(states=64, subsets=5, choices=1_000_000)


def plan_order(
    graph: StripedGraph,
    capacity: int,
    options: TilingOptions = DEFAULTS,
    *,
    deadline: float = math.inf,
    finish: bool = True,
) -> TiledPlan:
    """The plan of the least off-chip bytes for the operators in their order.

    Dynamic program over cuts. A state says which of the planes that are needed behind the cut are
    resident; all others are off chip. From each state, each group that begins there runs in stripes
    of each height that its last operator can have; each of its outputs stays as a whole or leaves
    row by row; each input that is not resident arrives row by row or, where it is needed again, may
    be loaded to stay. Weights stay or pass through, whichever moves the least. No row is computed
    twice.

    A first pass over few states bounds the second one: what has to be moved behind a cut (weights,
    outputs, planes that are needed and not resident) is known from below. The result is exact for
    intervals of the order, unless so many planes cross a cut that states were left out
    (`TiledPlan.exact`).

    Args:
        capacity: of the scratchpad, in bytes.
        deadline: of `time.monotonic()`; the second pass is given up then.
        finish: whether the first pass goes on beyond it.

    Raises:
        ModelError: no plan fits; it names the operator that needs the most.
        TimeoutError: the first pass was given up.
    """
    plan = quick_plan(graph, capacity, options, deadline=math.inf if finish else deadline)
    if plan is None:
        raise too_small(graph, capacity, options)
    return improve(plan, deadline=deadline) if options.thorough else plan


def quick_plan(
    graph: StripedGraph, capacity: int, options: TilingOptions, *, deadline: float = math.inf
) -> TiledPlan | None:
    """What the first pass of `plan_order` finds; None if no plan fits.

    Raises:
        TimeoutError: it is later than the deadline, of `time.monotonic()`.
    """
    started = time.monotonic()
    if not fits(graph, capacity, options):
        return None
    first = _Search(graph, capacity, options, FIRST)
    if not first.run(deadline):
        return None
    exact = first.exact or first.total == graph.compulsory_bytes
    seconds = time.monotonic() - started
    return TiledPlan(graph, capacity, options, first.groups(), first.total, exact, seconds)


def improve(plan: TiledPlan, *, deadline: float = math.inf) -> TiledPlan:
    """A plan of the same order that moves less, if the second pass finds one until a deadline."""
    if plan.exact:
        return plan
    started = time.monotonic()
    search = _Search(plan.graph, plan.capacity, plan.options, SECOND, plan.off_chip_bytes)
    better = False
    with contextlib.suppress(TimeoutError):
        better = search.run(deadline)
    seconds = plan.seconds + time.monotonic() - started
    if not better:
        return dataclasses.replace(plan, exact=search.exact, seconds=seconds)
    return dataclasses.replace(
        plan,
        groups=search.groups(),
        off_chip_bytes=search.total,
        exact=search.exact,
        seconds=seconds,
    )


@dataclasses.dataclass(frozen=True)
class _Entry:
    """The cheapest way to a state: from another one by a group or, without one, by letting go of
    a plane."""

    bytes: int
    cut: int
    state: State
    sides: Sides | None = None
    choice: Choice | None = None
    weights: WeightChoice | None = None


class _Search:
    def __init__(
        self,
        graph: StripedGraph,
        capacity: int,
        options: TilingOptions,
        effort: Effort,
        limit: int | None = None,
    ) -> None:
        """`limit`: off-chip bytes that only plans below are looked for."""
        self.graph, self.capacity, self.options = graph, capacity, options
        self.effort, self.limit = effort, limit
        self.tried = 0
        self.exact = True
        self.best: list[dict[State, _Entry]] = [{(): _Entry(0, 0, ())}]
        self.active: list[list[State]] = [[()]]
        """By cut, the states that groups begin from."""
        self.stream = [options.stream_bytes(operator) for operator in graph.operators]
        self.behind = Behind(graph, options)
        self.pinned = [options.pinned_bytes(operator) for operator in graph.operators]

    @property
    def total(self) -> int:
        return self.best[-1][()].bytes

    def run(self, deadline: float) -> bool:
        """Whether there is a plan (below the limit).

        Raises:
            TimeoutError: it is later than the deadline, of `time.monotonic()`.
        """
        graph = self.graph
        for stop in range(1, len(graph.operators) + 1):
            if not any(self.active[-self.options.most_operators :]):
                return False
            found: dict[State, _Entry] = {}
            done: set[tuple[int, State, tuple[str, ...], tuple[str, ...]]] = set()
            if self.effort.choices is not None and self.tried > self.effort.choices:
                self.exact = False
                return False
            for stripes in stripes_ending_at(graph, stop, self.capacity, self.options):
                if time.monotonic() > deadline:
                    self.exact = False
                    raise TimeoutError
                if self.active[stripes.start]:
                    self._extend(stripes, found, done)
            self.best.append(found)
            self.active.append(self._let_go(stop, found))
        return () in self.best[-1]

    def _extend(
        self,
        stripes: Stripes,
        found: dict[State, _Entry],
        done: set[tuple[int, State, tuple[str, ...], tuple[str, ...]]],
    ) -> None:
        """Relaxes the states behind a group. `done` holds what more stripes cannot improve."""
        positions = range(stripes.start, stripes.stop)
        items = tuple(
            WeightItem(self.graph.operators[n].weight_bytes, self.pinned[n], self.stream[n], runs)
            for n, runs in zip(positions, stripes.runs, strict=True)
        )
        least = max(self.stream[n] for n in positions)
        room = self.capacity - least
        sides = Sides(self.graph, stripes, self.options, room, self.effort.subsets)
        for state in self.active[stripes.start]:
            before = self.best[stripes.start][state].bytes
            free = self.capacity - self.behind.resident_bytes(state) - least
            choices = sides.choices(state)
            self.tried += len(choices)
            for choice in choices:
                key = (stripes.start, state, choice.loads, choice.stays)
                if choice.room > free or key in done:
                    continue
                total = before + choice.moved
                after = sides.after(state, choice)
                known = found.get(after)
                if known is not None and known.bytes <= total:
                    continue
                if self._hopeless(stripes.stop, after, total):
                    continue
                weights = choose_weights(items, free + least - choice.room)
                if weights is None:
                    continue
                if not weights.reloaded:
                    done.add(key)
                total += weights.reloaded
                if self._hopeless(stripes.stop, after, total):
                    continue
                if known is None or total < known.bytes:
                    found[after] = _Entry(total, stripes.start, state, sides, choice, weights)
        self.exact &= sides.exact

    def _hopeless(self, cut: int, state: State, total: int) -> bool:
        return self.limit is not None and total + self.behind.least(cut, state) >= self.limit

    def _let_go(self, cut: int, found: dict[State, _Entry]) -> list[State]:
        """States that groups begin from: the most promising ones, and those with less resident.

        What is not off chip is stored as it leaves. Of few planes any may leave; of many, those
        that are needed last leave first.
        """
        promise = {s: entry.bytes + self.behind.least(cut, s) for s, entry in found.items()}
        waiting = sorted(found, key=lambda state: -len(state))
        seen = set(waiting)
        for state in waiting:
            few = len(state) <= self.effort.subsets
            self.exact &= few
            for plane in self._by_next_use(cut, state)[None if few else -1 :]:
                copied = dict(state)[plane]
                total = found[state].bytes + (0 if copied else self.graph.moved_bytes(plane))
                smaller = tuple(pair for pair in state if pair[0] != plane)
                known = found.get(smaller)
                if known is None or total < known.bytes:
                    if self._hopeless(cut, smaller, total):
                        continue
                    found[smaller] = _Entry(total, cut, state)
                    promise[smaller] = total + self.behind.least(cut, smaller)
                if smaller not in seen:
                    seen.add(smaller)
                    waiting.append(smaller)
        ranked = sorted(promise, key=lambda state: (promise[state], state))
        if len(ranked) <= self.effort.states:
            return ranked
        self.exact = False
        kept = ranked[: self.effort.states]
        # the state with nothing resident gets everywhere
        return kept if () in kept or () not in promise else [*kept, ()]

    def _by_next_use(self, cut: int, state: State) -> list[str]:
        readers = self.graph.consumers
        return sorted(
            (plane for plane, _ in state), key=lambda v: next(r for r in readers[v] if r >= cut)
        )

    def groups(self) -> tuple[TiledGroup, ...]:
        """Of the best plan."""
        groups: list[TiledGroup] = []
        spilled: list[str] = []
        dropped: list[str] = []
        state: State = ()
        for entry in self._backwards(len(self.graph.operators), state):
            if entry.sides is None:
                before = dict(entry.state)
                (plane,) = before.keys() - dict(state).keys()
                (dropped if before[plane] else spilled).append(plane)
            else:
                groups.append(self._group(entry, tuple(spilled), tuple(dropped)))
                spilled, dropped = [], []
            state = entry.state
        return tuple(reversed(groups))

    def _backwards(self, cut: int, state: State) -> Iterator[_Entry]:
        while cut > 0:
            entry = self.best[cut][state]
            yield entry
            cut, state = entry.cut, entry.state

    def _group(
        self, entry: _Entry, spilled: tuple[str, ...], dropped: tuple[str, ...]
    ) -> TiledGroup:
        sides, choice, weights = entry.sides, entry.choice, entry.weights
        assert sides is not None
        assert choice is not None
        assert weights is not None
        operators = self.graph.operators[sides.stripes.start : sides.stripes.stop]
        stored = sum(self.graph.moved_bytes(plane) for plane in spilled)
        return dataclasses.replace(
            sides.group(entry.state, choice),
            pinned=tuple(
                o.name for o, stays in zip(operators, weights.pinned, strict=True) if stays
            ),
            stream_bytes=weights.stream_bytes,
            footprint=self.behind.resident_bytes(entry.state) + choice.room + weights.bytes,
            off_chip_bytes=choice.moved + weights.reloaded + stored,
            spilled=spilled,
            dropped=dropped,
        )


def fits(graph: StripedGraph, capacity: int, options: TilingOptions) -> bool:
    """Whether there is a plan for this order; that takes much less time than to find it."""
    if least_room(graph, options)[0] > capacity:
        return False
    alone = dataclasses.replace(options, most_operators=1)
    return any(smallest_scratchpad(graph, each)[0] <= capacity for each in (alone, options))


def smallest_scratchpad(
    graph: StripedGraph, options: TilingOptions = DEFAULTS, *, deadline: float = math.inf
) -> tuple[int, str]:
    """The bytes below which no plan exists for this order, and the operator that needs them.

    Everything arrives and leaves row by row then, and weights pass through. Beyond a deadline of
    `time.monotonic()` groups are no longer tried, which may need less than their operators alone.
    """
    alone = dataclasses.replace(options, most_operators=1)
    single = [0] * len(graph.operators)
    needs: list[tuple[int, int, int]] = [(0, 0, 0)]
    for stop in range(1, len(graph.operators) + 1):
        options_here: list[tuple[int, int, int]] = []
        tried = options if time.monotonic() < deadline else alone
        for stripes in stripes_ending_at(graph, stop, None, tried):
            positions = range(stripes.start, stripes.stop)
            sides = (stripes.arriving | stripes.leaving).items()
            footprint = (
                stripes.inside_bytes
                + sum(options.room(rows * graph.planes[name].row_bytes) for name, rows in sides)
                + max(options.stream_bytes(graph.operators[n]) for n in positions)
            )
            if len(positions) == 1:
                single[stripes.start] = min(single[stripes.start] or footprint, footprint)
            before = needs[stripes.start]
            options_here.append(max(before, (footprint, stripes.start, stripes.stop)))
        needs.append(min(options_here))
    bytes_, start, stop = needs[-1]
    return bytes_, graph.operators[max(range(start, stop), key=lambda n: single[n])].name


def too_small(graph: StripedGraph, capacity: int, options: TilingOptions) -> ModelError:
    """What to say where nothing fits."""
    needed, operator = least_room(graph, options)
    if needed <= capacity:
        needed, operator = smallest_scratchpad(graph, options)
    return ModelError(
        f"a scratchpad of {capacity} bytes is too small: operator {operator} needs {needed} bytes, "
        "row by row and with its weights passing through"
    )
