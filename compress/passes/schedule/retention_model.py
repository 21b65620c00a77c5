"""The constraint program of order and residency together, in CP-SAT.

Every tensor is retained in intervals: one begins with its production, and at most one more right
before each operator that reads it (the tensor is loaded for it). Each reader picks one interval
that covers its position. Operators take one position each, and at every position the retained
intervals and the running operator's workspace stay within the capacity.

Beyond that: an external tensor has no interval of production and its first load is free; storing a
kept one is free; an input that lies inside an output ends one step earlier, if that operator is the
last to read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compress.passes.schedule.bottlenecks import add_bottlenecks
from compress.passes.schedule.candidates import Candidate, cost_of
from compress.passes.schedule.presolve import Instance, conflict

METHOD = "retention intervals"


class RetentionModel:
    """The constraint program of an instance.

    Args:
        order: if given, positions are fixed.

    Attributes:
        positions: by operator.
        loads: by (tensor, operator).
        cost: to be minimised.
    """

    def __init__(self, instance: Instance, order: Sequence[int] | None) -> None:
        from ortools.sat.python import cp_model

        self.instance = instance
        self.model: Any = cp_model.CpModel()
        self.loads: dict[tuple[int, int], Any] = {}
        self.ends: dict[tuple[int, int | None], Any] = {}
        self.covers: dict[tuple[int, int, int | None], Any] = {}
        self.stores: dict[int, Any] = {}
        self.shares: dict[tuple[int, int, int], Any] = {}
        self.first_is_free: list[int] = []
        self._intervals: list[Any] = []
        self._demands: list[int] = []
        count = instance.operators
        if order is not None:
            places = {operator: place for place, operator in enumerate(order)}
            self.positions = [self.model.new_constant(places[o]) for o in range(count)]
        else:
            self.positions = [
                self.model.new_int_var(instance.earliest[o], instance.latest[o], f"p{o}")
                for o in range(count)
            ]
            steps = [self.model.new_fixed_size_interval_var(p, 1, "") for p in self.positions]
            self.model.add_no_overlap(steps)
            for o, predecessors in enumerate(instance.predecessors):
                for p in predecessors:
                    self.model.add(self.positions[p] + 1 <= self.positions[o])
        for o in range(count):
            self._share(o)
            if instance.workspaces[o]:
                step = self.model.new_fixed_size_interval_var(self.positions[o], 1, "")
                self._occupy(step, instance.workspaces[o])
        terms = []
        for tensor in range(len(instance.sizes)):
            terms += self._retain(tensor)
        self.model.add_cumulative(self._intervals, self._demands, instance.capacity)
        if order is None:
            add_bottlenecks(self.model, instance, self.positions, self.loads)
        self.cost: Any = sum(terms)
        self.model.minimize(self.cost)

    def _occupy(self, interval: Any, units: int) -> None:
        self._intervals.append(interval)
        self._demands.append(units)

    def _share(self, operator: int) -> None:
        """Which inputs lie inside an output: only where all other readers came before."""
        shares = self.instance.shares[operator]
        chosen = []
        for share in shares:
            flag = self.model.new_bool_var("")
            chosen.append(flag)
            self.shares[operator, share.input, share.output] = flag
            for reader in self.instance.consumers[share.input]:
                if reader != operator and not self.instance.ancestors[operator] >> reader & 1:
                    self.model.add(
                        self.positions[reader] < self.positions[operator]
                    ).only_enforce_if(flag)
        for i, one in enumerate(shares):
            for j in range(i):
                if conflict(self.instance.graph, one, shares[j]):
                    self.model.add_at_most_one(chosen[i], chosen[j])

    def _retain(self, tensor: int) -> list[Any]:
        """Intervals of one tensor; the terms of its cost."""
        model, instance, positions = self.model, self.instance, self.positions
        readers, producer = instance.consumers[tensor], instance.producers[tensor]
        size, count = instance.sizes[tensor], instance.operators
        sources: list[int | None] = [*readers]
        shared = {
            reader: flags
            for reader in readers
            if (flags := [f for (o, i, _), f in self.shares.items() if (o, i) == (reader, tensor)])
        }
        if producer is not None:
            if not readers:
                step = model.new_fixed_size_interval_var(positions[producer], 1, "")
                self._occupy(step, size)
                return []
            sources.insert(0, None)
            end = model.new_int_var(1, count, "")
            length = model.new_int_var(1, count, "")
            step = model.new_interval_var(positions[producer], length, end, "")
            self._occupy(step, size)
            self.ends[tensor, None] = end
        for reader in readers:
            load = model.new_bool_var("")
            end = model.new_int_var(0, count, "")
            length = model.new_int_var(0 if reader in shared else 1, count, "")
            step = model.new_optional_interval_var(positions[reader], length, end, load, "")
            self._occupy(step, size)
            self.loads[tensor, reader] = load
            self.ends[tensor, reader] = end
        for reader in readers:
            options = []
            for source in sources:
                if source is None:
                    flag = model.new_bool_var("")
                elif source == reader:
                    flag = self.loads[tensor, reader]
                elif instance.descendants[reader] >> source & 1:
                    continue
                else:
                    flag = model.new_bool_var("")
                    model.add_implication(flag, self.loads[tensor, source])
                    if not instance.ancestors[reader] >> source & 1:
                        model.add(positions[source] < positions[reader]).only_enforce_if(flag)
                options.append(flag)
                self.covers[tensor, reader, source] = flag
                end = self.ends[tensor, source]
                inside = shared.get(reader)
                if inside:
                    model.add(end >= positions[reader] + 1 - sum(inside)).only_enforce_if(flag)
                else:
                    model.add(end >= positions[reader] + 1).only_enforce_if(flag)
            model.add_exactly_one(options)
        loads = [self.loads[tensor, reader] for reader in readers]
        terms: list[Any] = [size * load for load in loads]
        if producer is None and readers:
            terms.append(-size)
        if instance.store_costs[tensor]:
            store = model.new_bool_var("")
            self.stores[tensor] = store
            for load in loads:
                model.add_implication(load, store)
            terms.append(instance.store_costs[tensor] * store)
        return terms

    def candidate(self, solver: Any) -> Candidate:
        """The plan that a solver found."""
        places = [solver.value(p) for p in self.positions]
        order = tuple(sorted(range(len(places)), key=places.__getitem__))
        loads = tuple(key for key, load in self.loads.items() if solver.boolean_value(load))
        return Candidate(cost_of(self.instance, order, loads), order, loads, METHOD)

    def hint(self, order: Sequence[int], loads: Sequence[tuple[int, int]]) -> None:
        """Suggests a plan, every variable of it."""
        self.model.clear_hints()
        instance, model = self.instance, self.model
        place = {operator: p for p, operator in enumerate(order)}
        for operator, variable in enumerate(self.positions):
            model.add_hint(variable, place[operator])
        done = 0
        used: set[tuple[int, int, int]] = set()
        for operator in order:
            done |= 1 << operator
            dying = instance.dying(operator, done)
            used |= {(operator, s.input, s.output) for s in instance.used_shares(operator, dying)}
        for share, flag in self.shares.items():
            model.add_hint(flag, share in used)
        loaded = set(loads)
        for tensor, readers in enumerate(instance.consumers):
            if not readers:
                continue
            source: int | None = None
            ends: dict[int | None, int] = {}
            producer = instance.producers[tensor]
            if producer is not None:
                ends[None] = place[producer] + 1
            chosen: dict[int, int | None] = {}
            in_order = sorted(readers, key=place.__getitem__)
            for number, reader in enumerate(in_order):
                if (tensor, reader) in loaded or (number == 0 and producer is None):
                    source = reader
                chosen[reader] = source
                inside = any((reader, tensor) == (o, i) for o, i, _ in used)
                ends[source] = max(ends.get(source, 0), place[reader] + (not inside))
            for reader in readers:
                model.add_hint(self.loads[tensor, reader], chosen[reader] == reader)
            for key, end in self.ends.items():
                if key[0] == tensor and key[1] in ends:
                    model.add_hint(end, ends[key[1]])
            for key3, flag in self.covers.items():
                if key3[0] == tensor and key3[2] != key3[1]:
                    model.add_hint(flag, chosen[key3[1]] == key3[2])
            if tensor in self.stores:
                model.add_hint(self.stores[tensor], any(chosen[r] == r for r in readers))
