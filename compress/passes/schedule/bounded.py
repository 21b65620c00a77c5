"""Integer programs in a process of their own, which ends when their time is over.

Solvers overrun their time limits (HiGHS by half a minute was seen) and may crash; neither may take
the caller with it. Small programs are solved in place: starting a process takes longer than they.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pickle
import subprocess
import sys
from typing import Any

SMALL = 400
"""Binary variables up to which a program is solved in place."""

GRACE_S = 3.0
"""How long a solver may overrun its limit before its process is ended."""

TOLERANCE = 1e-6

OTHERS = {"highs": "cbc", "cbc": "highs"}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a solver found.

    Attributes:
        values: by variable name; None if nothing was found.
        bound: proven lower bound of the objective; -inf if none.
        proven: the values are optimal.
        infeasible: proven to have no solution.
    """

    values: dict[str, float] | None
    bound: float = -math.inf
    proven: bool = False
    infeasible: bool = False

    @property
    def whole_bound(self) -> int:
        """Of an objective with whole values that is never negative."""
        return 0 if self.bound < 0 else math.ceil(self.bound - TOLERANCE * max(1.0, self.bound))


NOTHING = Outcome(None)


def solve_bounded(model: Any, *, seconds: float, solver: str = "highs") -> Outcome:
    """Solves a pulp program within a time limit that holds.

    Args:
        model: the objective is minimised and has no constant term: solvers leave it out of their
            bound.
        solver: "highs" or "cbc"; where it fails the other one gets what time is left.
    """
    binaries = sum(1 for v in model.variables() if v.cat == "Integer")
    if solver == "highs" and binaries <= SMALL:
        outcome = solve_here(model, seconds, solver)
        if outcome is not None:
            return outcome
    return solve_apart(model, seconds=seconds, solver=solver)


def solve_here(model: Any, seconds: float, solver: str) -> Outcome | None:
    """In this process. None if the solver failed."""
    import pulp

    if solver == "highs":
        engine: Any = pulp.HiGHS(msg=False, timeLimit=seconds, threads=1, gapRel=0.0, gapAbs=0.0)
    else:
        engine = pulp.PULP_CBC_CMD(msg=False, timeLimit=seconds, threads=1, gapRel=0.0)
    try:
        model.solve(engine)
    except Exception:
        return None
    # what a solver calls infeasible when its time is over is not: only HiGHS tells them apart
    values = {v.name: v.varValue for v in model.variables() if v.varValue is not None}
    feasible = bool(values) and model.valid(1e-5)
    bound = -math.inf
    proven = feasible and model.sol_status == pulp.LpSolutionOptimal
    infeasible = False
    if solver == "highs":
        info = model.solverModel.getInfo()
        bound = float(info.mip_dual_bound) if math.isfinite(info.mip_dual_bound) else -math.inf
        infeasible = not feasible and "Infeasible" in str(model.solverModel.getModelStatus())
    if proven:
        bound = max(bound, float(pulp.value(model.objective)))
    return Outcome(values if feasible else None, bound, proven, infeasible)


def solve_apart(model: Any, *, seconds: float, solver: str) -> Outcome:
    """The same, in a process of its own whatever the size of the program."""
    for name in (solver, OTHERS[solver]):
        outcome = _apart(model, seconds, name)
        if outcome is not None:
            return outcome
    return NOTHING


def _apart(model: Any, seconds: float, solver: str) -> Outcome | None:
    """In a process that is ended when its time is over. None if the solver failed."""
    given = pickle.dumps((model.to_dict(), seconds, solver))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "compress.passes.schedule.bounded"],
            input=given,
            capture_output=True,
            timeout=seconds + GRACE_S,
            check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        answer: tuple[Any, ...] | None = pickle.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return NOTHING
    except (subprocess.CalledProcessError, OSError, pickle.UnpicklingError, EOFError):
        return None
    return None if answer is None else Outcome(*answer)


def _serve() -> None:
    """The process: a pickled program on standard input, its outcome on standard output."""
    import pulp

    content, seconds, solver = pickle.load(sys.stdin.buffer)
    answer, sys.stdout = sys.stdout.buffer, sys.stderr
    _, model = pulp.LpProblem.from_dict(content)
    outcome = solve_here(model, seconds, solver)
    # as a plain tuple: a class of this file has another name in the other process
    answer.write(pickle.dumps(None if outcome is None else dataclasses.astuple(outcome)))
    answer.flush()


if __name__ == "__main__":
    _serve()
