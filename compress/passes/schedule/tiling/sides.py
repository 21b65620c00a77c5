"""What a group reads and leaves, and the ways to do so: as a whole, or row by row."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

from compress.passes.schedule.tiling.groups import Stripes, TilingOptions
from compress.passes.schedule.tiling.operators import StripedGraph
from compress.passes.schedule.tiling.plans import TiledGroup

State = tuple[tuple[str, bool], ...]
"""Planes that are resident at a cut, by name, and whether they are off chip as well."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """A way to run a group, weights aside.

    Attributes:
        loads: inputs that are loaded as a whole, to stay.
        stays: outputs that stay.
        room: bytes of what arrives and leaves, besides what is resident before.
        moved: off-chip bytes, weights loaded once included.
        added: to the state behind the group.
    """

    loads: tuple[str, ...]
    stays: tuple[str, ...]
    room: int
    moved: int
    added: State


class Sides:
    """One group in some number of stripes.

    Attributes:
        room: bytes that it may take, weights aside.
        most: of how many planes all subsets are tried; of more, those that are needed first.
        exact: whether `choices` has all combinations.
    """

    def __init__(
        self, graph: StripedGraph, stripes: Stripes, options: TilingOptions, room: int, most: int
    ) -> None:
        self.graph, self.stripes, self.options = graph, stripes, options
        self.room, self.most = room, most
        operators = graph.operators[stripes.start : stripes.stop]
        self.weight_bytes = sum(operator.weight_bytes for operator in operators)
        # what is needed next comes first
        self.onward = {
            name: next(reader for reader in graph.consumers[name] if reader >= stripes.stop)
            for name in (*stripes.arriving, *stripes.leaving)
            if graph.consumers[name] and graph.consumers[name][-1] >= stripes.stop
        }
        onward = self._by_next_use(stripes.leaving)
        self.exact = len(onward) <= most
        self.outputs = [self._leave(stays) for stays in subsets(onward, most)]
        self.known: dict[tuple[str, ...], list[Choice]] = {}

    def _by_next_use(self, names: Iterable[str]) -> list[str]:
        return sorted((v for v in names if v in self.onward), key=lambda v: self.onward[v])

    def choices(self, state: State) -> list[Choice]:
        """All ways to run the group from a state within the room."""
        resident = {name for name, _ in state}
        absent = tuple(name for name in self.stripes.arriving if name not in resident)
        found = self.known.get(absent)
        if found is None:
            found = self.known[absent] = [
                Choice(
                    loads,
                    stays,
                    self.stripes.inside_bytes + room_in + room_out,
                    self.weight_bytes + moved_in + moved_out,
                    (*((name, True) for name in loads), *added),
                )
                for loads, room_in, moved_in in self._arrive(absent)
                for stays, room_out, moved_out, added in self.outputs
                if self.stripes.inside_bytes + room_in + room_out <= self.room
            ]
        return found

    def after(self, state: State, choice: Choice) -> State:
        """The state behind the group."""
        arriving = self.stripes.arriving
        left = [pair for pair in state if pair[0] not in arriving or pair[0] in self.onward]
        return tuple(sorted((*left, *choice.added)))

    def _arrive(self, absent: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int, int]]:
        """(loaded as a whole, room, off-chip bytes) for inputs that are not resident."""
        graph, stripes = self.graph, self.stripes
        names = self._by_next_use(absent)
        self.exact &= len(names) <= self.most
        for loads in subsets(names, self.most):
            room = moved = 0
            for name in absent:
                plane = graph.planes[name]
                whole = name in loads
                held = graph.wanted[name] if whole else stripes.arriving[name]
                room += self.options.room(held * plane.row_bytes)
                rows = graph.wanted[name] if whole else stripes.ends[name][-1]
                moved += rows * plane.row_bytes
            yield loads, room, moved

    def _leave(self, stays: tuple[str, ...]) -> tuple[tuple[str, ...], int, int, State]:
        """(stays, room, off-chip bytes, added to the state) for outputs."""
        graph = self.graph
        room = sum(
            self.options.room(
                (graph.wanted[name] if name in stays else rows) * graph.planes[name].row_bytes
            )
            for name, rows in self.stripes.leaving.items()
        )
        moved = sum(graph.moved_bytes(name) for name in self._streamed(stays))
        return stays, room, moved, tuple((name, graph.planes[name].kept) for name in stays)

    def _streamed(self, stays: tuple[str, ...]) -> tuple[str, ...]:
        planes = self.graph.planes
        return tuple(v for v in self.stripes.leaving if v not in stays or planes[v].kept)

    def group(self, state: State, choice: Choice) -> TiledGroup:
        """The group of a choice, without its weights, footprint and bytes."""
        arriving = self.stripes.arriving
        return TiledGroup(
            self.stripes,
            resident=tuple(name for name, _ in state if name in arriving),
            loaded=choice.loads,
            staying=choice.stays,
            streamed=self._streamed(choice.stays),
            bystanders=tuple(name for name, _ in state if name not in arriving),
            pinned=(),
            stream_bytes=0,
            footprint=0,
            off_chip_bytes=0,
        )


def subsets(names: Sequence[str], most: int) -> Iterator[tuple[str, ...]]:
    """All subsets of up to `most` names, the smallest first; of more names, the first ones."""
    if len(names) > most:
        yield from (tuple(names[:size]) for size in range(len(names) + 1))
        return
    for size in range(len(names) + 1):
        yield from itertools.combinations(names, size)
