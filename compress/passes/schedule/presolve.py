"""What the solvers work on: a graph reduced to numbers, sizes divided by what they share.

Reductions, none of which changes the optimum:

1. Sizes and the capacity are divided by the sizes' greatest common divisor.
2. External tensors that nobody reads are left out: they never enter the scratchpad.
3. A share is kept if it can ever be used: the input lies wholly inside the output, need not be
   stored as a network output, and no reader of it has to run later.
4. Every operator gets a window of positions from the numbers of its ancestors and descendants.

Sets of operators and of tensors are integers with one bit per member: they are hashable, copied
for free, and their unions are single instructions.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Sequence

from compress.errors import ModelError
from compress.passes.schedule.problem import Graph, Share, Stay


@dataclasses.dataclass(frozen=True)
class Instance:
    """A graph and a capacity, in units of `unit` bytes.

    Attributes:
        graph: the problem itself.
        unit: bytes per unit.
        capacity: in units, rounded down.
        sizes: by tensor, in units.
        workspaces: by operator, in units.
        shares: by operator, those that can be used.
        predecessors: by operator, those that it waits for.
        ancestors, descendants: by operator, sets of operators.
    """

    graph: Graph
    unit: int
    capacity: int
    sizes: tuple[int, ...]
    workspaces: tuple[int, ...]
    shares: tuple[tuple[Share, ...], ...]
    predecessors: tuple[frozenset[int], ...]
    ancestors: tuple[int, ...]
    descendants: tuple[int, ...]

    @property
    def operators(self) -> int:
        return len(self.graph.operators)

    @functools.cached_property
    def inputs(self) -> tuple[tuple[int, ...], ...]:
        return tuple(o.inputs for o in self.graph.operators)

    @functools.cached_property
    def outputs(self) -> tuple[tuple[int, ...], ...]:
        return tuple(o.outputs for o in self.graph.operators)

    @property
    def consumers(self) -> tuple[tuple[int, ...], ...]:
        return self.graph.consumers

    @property
    def producers(self) -> tuple[int | None, ...]:
        return self.graph.producers

    @functools.cached_property
    def input_sets(self) -> tuple[int, ...]:
        return tuple(as_set(i) for i in self.inputs)

    @functools.cached_property
    def output_sets(self) -> tuple[int, ...]:
        return tuple(as_set(i) for i in self.outputs)

    @functools.cached_property
    def consumer_sets(self) -> tuple[int, ...]:
        return tuple(as_set(c) for c in self.consumers)

    @functools.cached_property
    def needs(self) -> tuple[int, ...]:
        """By operator, its inputs, outputs and workspace together, sharing left out."""
        return tuple(
            sum(self.sizes[i] for i in (*self.inputs[o], *self.outputs[o])) + self.workspaces[o]
            for o in range(self.operators)
        )

    @functools.cached_property
    def store_costs(self) -> tuple[int, ...]:
        """By tensor, what storing it costs beyond the compulsory bytes."""
        return tuple(
            0 if tensor.kept or tensor.external else size
            for tensor, size in zip(self.graph.tensors, self.sizes, strict=True)
        )

    @functools.cached_property
    def earliest(self) -> tuple[int, ...]:
        """By operator, its first possible position."""
        return tuple(a.bit_count() for a in self.ancestors)

    @functools.cached_property
    def latest(self) -> tuple[int, ...]:
        """By operator, its last possible position."""
        return tuple(self.operators - 1 - d.bit_count() for d in self.descendants)

    @functools.cached_property
    def _saved(self) -> dict[tuple[int, int], tuple[Share, ...]]:
        return {}

    def dying(self, operator: int, done: int) -> int:
        """The inputs that an operator is the last to read, it being in the set `done`."""
        return as_set(t for t in self.inputs[operator] if not self.consumer_sets[t] & ~done)

    def used_shares(self, operator: int, dying: int) -> tuple[Share, ...]:
        """The shares that save most where the tensors of the set `dying` are used last.

        Each input lies in at most one output, and no two inputs on the same bytes.
        """
        if not self.shares[operator]:
            return ()
        key = (operator, dying)
        if key not in self._saved:
            candidates = [s for s in self.shares[operator] if dying >> s.input & 1]
            self._saved[key] = _best_shares(self.graph, candidates)
        return self._saved[key]

    def saved_by_shares(self, operator: int, dying: int) -> int:
        """What they save, in units."""
        return sum(self.sizes[s.input] for s in self.used_shares(operator, dying))

    def least_need(self, operator: int) -> int:
        """What an operator needs with all that it can share, in units."""
        saved = self.saved_by_shares(operator, self.input_sets[operator])
        return self.needs[operator] - saved

    def check_capacity(self) -> None:
        """
        Raises:
            ModelError: an operator does not fit into the scratchpad on its own.
        """
        if not self.operators:
            return
        worst = max(range(self.operators), key=self.least_need)
        need = self.least_need(worst)
        if need > self.capacity:
            name = self.graph.operators[worst].name
            raise ModelError(
                f"the scratchpad is too small: operator {name} alone needs {need * self.unit} "
                f"bytes; use tiling or a larger scratchpad"
            )

    def stays(self, order: Sequence[int], loads: Iterable[tuple[int, int]]) -> tuple[Stay, ...]:
        """The stays of all tensors, each as short as the loads allow.

        Args:
            order: operators by position.
            loads: (tensor, operator): the tensor is loaded right before the operator. The first
                load of an external tensor need not be named.
        """
        position = {operator: place for place, operator in enumerate(order)}
        by_tensor: dict[int, set[int]] = {}
        for tensor, operator in loads:
            by_tensor.setdefault(tensor, set()).add(position[operator])
        result: list[Stay] = []
        for tensor, readers in enumerate(self.consumers):
            uses = sorted(position[r] for r in readers)
            starts = by_tensor.get(tensor, set())
            producer = self.producers[tensor]
            if producer is not None:
                first, loaded = position[producer], False
            elif uses:
                first, loaded = uses[0], True
            else:
                continue
            last = first
            for use in uses:
                if use in starts and use > first:
                    result.append(Stay(tensor, first, last, loaded))
                    first, loaded = use, True
                last = use
            result.append(Stay(tensor, first, last, loaded))
        return tuple(result)


def presolve(graph: Graph, capacity: int) -> Instance:
    """
    Raises:
        ModelError: the capacity is not positive.
    """
    if capacity < 1:
        raise ModelError(f"a scratchpad of {capacity} bytes cannot hold anything")
    unit = math.gcd(*(t.bytes for t in graph.tensors), *(o.workspace for o in graph.operators)) or 1
    ancestors = [0] * len(graph.operators)
    for operator, predecessors in enumerate(graph.predecessors):
        for p in predecessors:
            ancestors[operator] |= ancestors[p] | 1 << p
    descendants = [0] * len(graph.operators)
    for operator in reversed(range(len(graph.operators))):
        for p in graph.predecessors[operator]:
            descendants[p] |= descendants[operator] | 1 << operator
    return Instance(
        graph,
        unit,
        capacity // unit,
        tuple(t.bytes // unit for t in graph.tensors),
        tuple(o.workspace // unit for o in graph.operators),
        tuple(
            tuple(s for s in o.shares if _usable(graph, number, s, descendants[number]))
            for number, o in enumerate(graph.operators)
        ),
        graph.predecessors,
        tuple(ancestors),
        tuple(descendants),
    )


def _usable(graph: Graph, operator: int, share: Share, descendants: int) -> bool:
    tensor, output = graph.tensors[share.input], graph.tensors[share.output]
    inside = share.offset >= 0 and share.offset + tensor.bytes <= output.bytes
    readers = as_set(graph.consumers[share.input])
    return inside and not tensor.kept and not readers & descendants


def _best_shares(graph: Graph, candidates: Sequence[Share]) -> tuple[Share, ...]:
    """The compatible ones of most bytes; by taking or leaving one after the other."""
    if not candidates:
        return ()
    first, rest = candidates[0], candidates[1:]
    compatible = [s for s in rest if not conflict(graph, first, s)]
    taken = (first, *_best_shares(graph, compatible))
    if len(compatible) == len(rest):
        return taken
    left = _best_shares(graph, rest)
    return max(taken, left, key=lambda chosen: sum(graph.tensors[s.input].bytes for s in chosen))


def conflict(graph: Graph, one: Share, other: Share) -> bool:
    """Whether two shares of one operator cannot both be used."""
    if one.input == other.input:
        return True
    if one.output != other.output:
        return False
    one_end = one.offset + graph.tensors[one.input].bytes
    other_end = other.offset + graph.tensors[other.input].bytes
    return one.offset < other_end and other.offset < one_end


def as_set(members: Iterable[int]) -> int:
    """The set of some numbers."""
    result = 0
    for member in members:
        result |= 1 << member
    return result


def members(numbers: int) -> Iterator[int]:
    """The numbers in a set, ascending."""
    while numbers:
        low = numbers & -numbers
        yield low.bit_length() - 1
        numbers ^= low
