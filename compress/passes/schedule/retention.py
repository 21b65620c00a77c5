"""Order and residency together, by constraint programming: finds the optimum and proves it.

The program is in `compress.passes.schedule.retention_model`. Two ways of CP-SAT to prove its bound
complement one another: learning clauses without a linear relaxation closes graphs with little
freedom in their order in seconds; a search for the bound along the relaxation closes those with
many interchangeable branches. They run side by side, or one after the other on one thread.
"""

from __future__ import annotations

import concurrent.futures
import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import Any

from compress.passes.schedule.candidates import Candidate, Solved, solved
from compress.passes.schedule.clock import Clock
from compress.passes.schedule.presolve import Instance
from compress.passes.schedule.retention_model import RetentionModel

PRESOLVE: Mapping[str, Any] = {"cp_model_probing_level": 0}
"""Probing takes a second per hundred operators and saves less."""

LEARNING: Mapping[str, Any] = {"num_workers": 1, "linearization_level": 0}
BOUNDING: Mapping[str, Any] = {
    "num_workers": 1,
    "linearization_level": 2,
    "optimize_with_lb_tree_search": True,
}
TURNS = ((LEARNING, 0.15), (BOUNDING, 0.4), (LEARNING, 0.5), (BOUNDING, 1.0))
"""On one thread: what runs for which share of the time that is left."""


def cp_sat_available() -> bool:
    return importlib.util.find_spec("ortools") is not None


def best_retention(
    instance: Instance,
    *,
    seconds: float,
    threads: int = 1,
    seed: int = 0,
    order: Sequence[int] | None = None,
    known: Candidate | None = None,
    at_most: int | None = None,
    bound: int = 0,
) -> Solved:
    """The least traffic over all orders.

    Args:
        threads: up to two run the two ways of proving; more of them CP-SAT's own choice beside.
        order: if given, the order is fixed.
        known: a plan to begin with.
        at_most: cost of the worst plan that is of interest.
        bound: lower bound that is already known.
    """
    clock = Clock(seconds)
    built = RetentionModel(instance, order)
    if at_most is not None:
        built.model.add(built.cost <= at_most)
    if bound:
        built.model.add(built.cost >= bound)
    if known is not None:
        built.hint(known.order, known.loads)
    race = _Race(built, seed, bound)
    if threads > 1:
        strategies = [LEARNING, BOUNDING]
        if threads > 2:
            strategies.append({"num_workers": threads - 2})
        with concurrent.futures.ThreadPoolExecutor(len(strategies)) as pool:
            for future in [pool.submit(race.run, s, clock.left) for s in strategies]:
                future.result()
    else:
        for parameters, share in TURNS:
            if not race.over:
                race.run(parameters, share * clock.left)
    if race.infeasible:
        return Solved(None, 0, "infeasible")
    return solved(race.best, race.bound)


class _Race:
    """Solvers of one program, which stop as soon as one of them is done."""

    def __init__(self, built: RetentionModel, seed: int, bound: int) -> None:
        self.built = built
        self.seed = seed
        self.best: Candidate | None = None
        self.bound = bound
        self.infeasible = False
        self._solvers: list[Any] = []

    @property
    def over(self) -> bool:
        return self.infeasible or (self.best is not None and self.bound >= self.best.cost)

    def run(self, parameters: Mapping[str, Any], seconds: float) -> None:
        from ortools.sat.python import cp_model

        solver = cp_model.CpSolver()
        for name, value in {**PRESOLVE, **parameters}.items():
            setattr(solver.parameters, name, value)
        solver.parameters.max_time_in_seconds = seconds
        solver.parameters.random_seed = self.seed
        if self.over:
            return
        self._solvers.append(solver)
        status = solver.solve(self.built.model)
        if status == cp_model.INFEASIBLE:
            self.infeasible = True
        elif status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            found = self.built.candidate(solver)
            if self.best is None or found.cost < self.best.cost:
                self.best = found
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE, cp_model.UNKNOWN):
            self.bound = max(self.bound, math.ceil(solver.best_objective_bound - 1e-6))
        if self.over:
            for other in self._solvers:
                other.stop_search()
