"""COSMA's program as published (arXiv 2311.18246): order, residency and addresses in one.

For reference and for small graphs: it has a binary per tensor and step for each of creating,
preserving, spilling and retrieving, an address per tensor and step, and an order per pair of
tensors and step. Open solvers do not close 20 operators in a minute.

Departures: tensors that are external or kept, several outputs and workspaces are allowed for as in
the rest of the scheduler; inputs that lie inside outputs are not, so that it may need more than the
others where there are any. A tensor is spilled at most once, right after it is made or before it is
retrieved first, which changes no optimum. Addresses can be left out.
"""

from __future__ import annotations

from typing import Any

from compress.passes.schedule.bounded import solve_apart
from compress.passes.schedule.candidates import Candidate, Solved, cost_of, solved
from compress.passes.schedule.presolve import Instance

METHOD = "published joint program"


def best_joint(
    instance: Instance, *, seconds: float, addresses: bool = False, solver: str = "highs"
) -> Solved:
    """The least traffic over all orders, by the published program.

    Args:
        addresses: True makes all tensors have addresses, too. The candidate does not tell them.
        solver: "highs" or "cbc".
    """
    program = _Program(instance, addresses)
    outcome = solve_apart(program.model, seconds=seconds, solver=solver)
    if outcome.values is None:
        if outcome.infeasible:
            return Solved(None, 0, "infeasible")
        return solved(None, outcome.whole_bound - program.compulsory)
    candidate = program.candidate(outcome.values)
    bound = outcome.whole_bound - program.compulsory
    return solved(candidate, candidate.cost if outcome.proven else bound)


class _Program:
    """The pulp program of an instance. Steps are positions; variables are named as in the paper:
    C runs an operator, P keeps a tensor from the step before, R retrieves it, S spills it, L is
    its address. The first loads of external tensors, `compulsory` units, are part of the
    objective."""

    def __init__(self, instance: Instance, addresses: bool) -> None:
        import pulp

        self.instance = instance
        self.model: Any = pulp.LpProblem("joint", pulp.LpMinimize)
        count = instance.operators
        steps = range(count)
        self.compulsory = sum(
            size
            for tensor, size in enumerate(instance.sizes)
            if instance.producers[tensor] is None and instance.consumers[tensor]
        )
        self.runs = [
            {
                t: pulp.LpVariable(f"C_{o}_{t}", cat="Binary")
                for t in range(instance.earliest[o], instance.latest[o] + 1)
            }
            for o in range(count)
        ]
        self.used = [
            tensor
            for tensor, readers in enumerate(instance.consumers)
            if readers or instance.producers[tensor] is not None
        ]
        self.preserves = self._per_step("P", "Binary")
        self.retrieves = self._per_step("R", "Binary")
        self.spills = {t: pulp.LpVariable(f"S_{t}", 0, 1) for t in self.used}
        for o in range(count):
            self.model += pulp.lpSum(self.runs[o].values()) == 1
        for t in steps:
            self.model += pulp.lpSum(r[t] for r in self.runs if t in r) == 1
        for o, waits in enumerate(instance.predecessors):
            for p in waits:
                self.model += self._place(p) + 1 <= self._place(o)
        for tensor in self.used:
            self._follow(tensor)
        for t in steps:
            workspace = pulp.lpSum(
                instance.workspaces[o] * r[t] for o, r in enumerate(self.runs) if t in r
            )
            held = pulp.lpSum(instance.sizes[a] * self._resident(a, t) for a in self.used)
            self.model += held + workspace <= instance.capacity
        if addresses:
            self._address()
        self.model += pulp.lpSum(self._costs())

    def _per_step(self, letter: str, kind: str) -> dict[tuple[int, int], Any]:
        import pulp

        return {
            (a, t): pulp.LpVariable(f"{letter}_{a}_{t}", cat=kind)
            for a in self.used
            for t in range(self.instance.operators)
        }

    def _place(self, operator: int) -> Any:
        import pulp

        return pulp.lpSum(t * x for t, x in self.runs[operator].items())

    def _made(self, tensor: int, step: int) -> Any:
        producer = self.instance.producers[tensor]
        return 0 if producer is None else self.runs[producer].get(step, 0)

    def _resident(self, tensor: int, step: int) -> Any:
        """1 if the tensor is there at a step: made, preserved or retrieved."""
        key = tensor, step
        return self._made(tensor, step) + self.preserves[key] + self.retrieves[key]

    def _follow(self, tensor: int) -> None:
        """Preserved if it was there, retrieved if it is off chip, there for those who read it."""
        import pulp

        instance = self.instance
        producer = instance.producers[tensor]
        for t in range(instance.operators):
            before = self._resident(tensor, t - 1) if t else 0
            self.model += self.preserves[tensor, t] <= before
            self.model += self._resident(tensor, t) <= 1
            for reader in instance.consumers[tensor]:
                if t in self.runs[reader]:
                    self.model += self._resident(tensor, t) >= self.runs[reader][t]
            if producer is not None:
                made = pulp.lpSum(x for s, x in self.runs[producer].items() if s < t)
                self.model += self.retrieves[tensor, t] <= made
                self.model += self.retrieves[tensor, t] <= self.spills[tensor]

    def _costs(self) -> list[Any]:
        instance = self.instance
        terms = []
        for tensor in self.used:
            size = instance.sizes[tensor]
            terms += [size * self.retrieves[tensor, t] for t in range(instance.operators)]
            terms.append(instance.store_costs[tensor] * self.spills[tensor])
        return terms

    def _address(self) -> None:
        """Stable addresses while preserved; of any two tensors that are there, one lies below the
        other. Workspaces count as tensors of one step."""
        import pulp

        instance, room = self.instance, self.instance.capacity
        things: dict[Any, tuple[int, Any]] = {a: (instance.sizes[a], None) for a in self.used}
        things |= {("w", o): (w, o) for o, w in enumerate(instance.workspaces) if w}
        earlier: dict[Any, Any] = {}
        for t in range(instance.operators):
            lows = {
                name: pulp.LpVariable(f"L_{number}_{t}", 0, room - size)
                for number, (name, (size, _)) in enumerate(things.items())
            }
            there = {
                name: self._resident(name, t) if owner is None else self.runs[owner].get(t, 0)
                for name, (_, owner) in things.items()
            }
            if t:
                for a in self.used:
                    slack = room * (1 - self.preserves[a, t])
                    self.model += lows[a] - earlier[a] <= slack
                    self.model += earlier[a] - lows[a] <= slack
            earlier = lows
            names = list(things)
            for i, one in enumerate(names):
                for j, other in enumerate(names[:i]):
                    below = pulp.LpVariable(f"B_{i}_{j}_{t}", cat="Binary")
                    apart = room * (2 - there[one] - there[other])
                    self.model += (
                        lows[one] + things[one][0] <= lows[other] + room * (1 - below) + apart
                    )
                    self.model += lows[other] + things[other][0] <= lows[one] + room * below + apart

    def candidate(self, values: dict[str, float]) -> Candidate:
        """The plan that a solver found."""

        def value(variable: Any) -> float:
            return values.get(variable.name, 0.0)

        step_of = {o: t for o, r in enumerate(self.runs) for t, x in r.items() if value(x) > 0.5}
        order = tuple(sorted(step_of, key=step_of.__getitem__))
        loads = []
        for (tensor, t), variable in self.retrieves.items():
            if value(variable) > 0.5:
                later = [r for r in self.instance.consumers[tensor] if step_of[r] >= t]
                if later:
                    loads.append((tensor, min(later, key=step_of.__getitem__)))
        return Candidate(cost_of(self.instance, order, tuple(loads)), order, tuple(loads), METHOD)
