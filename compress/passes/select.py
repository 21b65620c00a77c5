"""The selector: an exact choice of one option per layer, boundaries between domains included."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from compress.errors import DeviceError
from compress.passes.base import Boundary, Option

FRONTIER_POINTS = 20
TIME_LIMIT_S = 20.0
"""Per solve; the instances seen take milliseconds, so this is a bound on the unexpected."""

WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "latency": {"latency": 1e6, "distortion": 0.1, "size": 1e-3},
    "distortion": {"distortion": 1e6},
    "size": {"size": 1e6},
}
"""Objectives, as shares of the largest value. The small weights break ties: they are far above the
solver's tolerances and outweigh less than a millionth of the latency."""

TOLERANCES = {
    "gapRel": 0.0,
    "gapAbs": 0.0,
    "primal_feasibility_tolerance": 1e-9,
    "dual_feasibility_tolerance": 1e-9,
}
"""HiGHS's options: what it calls optimal has to be so for figures of very different size."""

MOST_REPAIRS = 50
"""How many choices that exceed a limit by less than the solver's tolerance are ruled out."""

ROUNDING = 1 + 1e-12
"""By how much sums of the same figures in another order may differ."""

LIMIT_ROW = 1e3
"""Right-hand side of a limit's row. HiGHS forgives violations of 1e-6: a billionth of the limit.
(A smaller tolerance instead made it miss optima.)"""

WRONG_PRESOLVE = frozenset({"1.14.0"})
"""Versions of HiGHS whose presolve returns choices that are not optimal as if they were (HiGHS
issue 3043, fixed in 1.15.0): there it is left out, and solving takes twice as long."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """One option for every layer, at the least latency.

    Attributes:
        options: each layer must be covered by exactly one chosen option.
        boundaries: by value name; values that are not named move for free.
        fixed_us: latency of everything no option covers.
        fixed_bytes: likewise.
    """

    options: tuple[Option, ...]
    boundaries: Mapping[str, Boundary]
    fixed_us: float = 0.0
    fixed_bytes: int = 0

    def layers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(itertools.chain.from_iterable(o.layers for o in self.options)))


@dataclasses.dataclass(frozen=True)
class Selection:
    """A choice with its costs; what the solver proved, and how long it took.

    Attributes:
        chosen: indices into the problem's options.
        latency_us, bytes, distortion: predicted totals, from `evaluate_choice`.
        bound_us: proven lower bound of the latency under the same limits (for the objectives
            "distortion" and "size": among the choices that are best in them).
        status: "optimal", "feasible" (time ran out) or "infeasible".
        seconds: spent solving.
    """

    chosen: tuple[int, ...]
    latency_us: float
    bytes: int
    distortion: float
    bound_us: float
    status: str
    seconds: float


def evaluate_choice(problem: Problem, chosen: Sequence[int]) -> tuple[float, int, float]:
    """(latency in us, bytes, distortion) of a choice, computed from its definition.

    This is the selector's independent checker: it shares nothing with the integer program.

    Raises:
        ValueError: a layer is covered not once, or a group of channels has two widths.
    """
    covered: dict[str, int] = {}
    widths: dict[str, int] = {}
    reads_u8: set[str] = set()
    reads_float: set[str] = set()
    writes_u8: set[str] = set()
    latency, size, distortion = problem.fixed_us, problem.fixed_bytes, 0.0
    for index in chosen:
        option = problem.options[index]
        for layer in option.layers:
            covered[layer] = covered.get(layer, 0) + 1
        for group, width in option.widths.items():
            if widths.setdefault(group, width) != width:
                raise ValueError(f"{group} has {widths[group]} channels and {width}")
        reads_u8 |= option.reads_uint8
        reads_float |= option.reads_float
        writes_u8 |= option.writes_uint8
        latency += option.latency_us
        size += option.bytes
        distortion += option.distortion
    wrong = [layer for layer in problem.layers() if covered.get(layer, 0) != 1]
    if wrong:
        raise ValueError(f"layers not covered exactly once: {', '.join(wrong)}")
    for name, boundary in problem.boundaries.items():
        if name in reads_u8 and name not in writes_u8:
            latency += boundary.quantize_us
        if name in writes_u8 and (name in reads_float or boundary.is_output):
            latency += boundary.dequantize_us
        if name in reads_u8 or name in writes_u8:
            distortion += boundary.distortion
    return latency, size, distortion


def select(
    problem: Problem,
    *,
    max_distortion: float = math.inf,
    max_latency_us: float = math.inf,
    max_bytes: float = math.inf,
    objective: str = "latency",
    gap: float = 0.0,
) -> Selection:
    """The exact best choice under the limits, by integer programming (pulp, HiGHS).

    Args:
        objective: what is minimised: "latency", "distortion" or "size". Among choices that are
            best in distortion or size, the fastest is taken; equally fast ones are told apart by
            distortion and size, so that the same problem gives the same choice every time.
        gap: share of the optimum by which the result may miss it, to be found sooner; 0 for the
            optimum itself.

    Raises:
        DeviceError: the solver itself failed.
    """
    if objective == "latency":
        return _solve(problem, objective, max_distortion, max_latency_us, max_bytes, gap)
    first = _solve(problem, objective, max_distortion, max_latency_us, max_bytes, gap)
    if first.status != "optimal":
        return first
    if objective == "distortion":
        max_distortion = first.distortion
    else:
        max_bytes = first.bytes
    second = _solve(problem, "latency", max_distortion, max_latency_us, max_bytes, gap)
    found = second if second.chosen or first.status == second.status else first
    return dataclasses.replace(found, seconds=first.seconds + second.seconds)


def _solve(
    problem: Problem,
    objective: str,
    max_distortion: float,
    max_latency_us: float,
    max_bytes: float,
    gap: float,
) -> Selection:
    """One integer program.

    Variables: one binary per option; per value three continuous ones that the constraints force to
    0 or 1: a Quantize is needed if somebody reads uint8 that nobody writes, a Dequantize likewise,
    and the value is rounded if anybody touches it as uint8.
    """
    import pulp

    started = time.perf_counter()
    options = problem.options
    model = pulp.LpProblem("selection", pulp.LpMinimize)
    picks = [pulp.LpVariable(f"x{i}", cat="Binary") for i in range(len(options))]
    by_layer: dict[str, list[int]] = {}
    readers_u8: dict[str, list[int]] = {}
    readers_float: dict[str, list[int]] = {}
    writers: dict[str, list[int]] = {}
    for index, option in enumerate(options):
        for layer in option.layers:
            by_layer.setdefault(layer, []).append(index)
        for name in option.reads_uint8:
            readers_u8.setdefault(name, []).append(index)
        for name in option.reads_float:
            readers_float.setdefault(name, []).append(index)
        for name in option.writes_uint8:
            writers.setdefault(name, []).append(index)
    for indices in by_layer.values():
        model += pulp.lpSum(picks[i] for i in indices) == 1, f"cover_{len(model.constraints)}"
    _agree_on_widths(model, options, picks)
    latency = [(o.latency_us, x) for o, x in zip(options, picks, strict=True)]
    distortion = [(o.distortion, x) for o, x in zip(options, picks, strict=True)]
    size = [(float(o.bytes), x) for o, x in zip(options, picks, strict=True)]
    for number, (name, boundary) in enumerate(problem.boundaries.items()):
        written = _any_of(model, f"u{number}", options, picks, writers.get(name, []))
        if readers_u8.get(name) and boundary.quantize_us > 0:
            quantize = pulp.LpVariable(f"q{number}", 0, 1)
            for i in readers_u8[name]:
                model += quantize >= picks[i] - written
            latency.append((boundary.quantize_us, quantize))
        if writers.get(name) and boundary.dequantize_us > 0:
            dequantize = pulp.LpVariable(f"d{number}", 0, 1)
            if boundary.is_output:
                model += dequantize >= written
            for i in readers_float.get(name, []):
                model += dequantize >= picks[i] + written - 1
            latency.append((boundary.dequantize_us, dequantize))
        touching = {*readers_u8.get(name, []), *writers.get(name, [])}
        if touching and boundary.distortion > 0:
            rounded = pulp.LpVariable(f"r{number}", 0, 1)
            for i in sorted(touching):
                model += rounded >= picks[i]
            distortion.append((boundary.distortion, rounded))
    terms = {"latency": latency, "distortion": distortion, "size": size}
    limits = {
        "latency": max_latency_us - problem.fixed_us,
        "distortion": max_distortion,
        "size": max_bytes - problem.fixed_bytes,
    }
    for what, limit in limits.items():
        _limit(model, terms[what], limit)
    model += sum(
        (weight * _share(terms[what]) for what, weight in WEIGHTS[objective].items()),
        start=pulp.LpAffineExpression(),
    )
    presolve = {"presolve": "off"} if version("highspy") in WRONG_PRESOLVE else {}
    tolerances = {**TOLERANCES, "gapRel": gap}
    solver = pulp.HiGHS(msg=False, timeLimit=TIME_LIMIT_S, threads=1, **tolerances, **presolve)
    for _ in range(MOST_REPAIRS):
        try:
            model.solve(solver)
        except Exception as error:
            raise DeviceError(f"the integer programming solver failed: {error}") from error
        chosen = tuple(
            i for i, x in enumerate(picks) if x.varValue is not None and x.varValue > 0.5
        )
        covered_once = sum(len(options[i].layers) for i in chosen) == len(by_layer)
        if model.status != pulp.LpStatusOptimal and not (chosen and covered_once):
            seconds = time.perf_counter() - started
            return Selection((), math.inf, 0, math.inf, math.inf, "infeasible", seconds)
        latency_us, total_bytes, total_distortion = evaluate_choice(problem, chosen)
        if (
            latency_us <= max_latency_us * ROUNDING
            and total_bytes <= max_bytes
            and total_distortion <= max_distortion * ROUNDING
        ):
            break
        # the solver takes 0.999999 for one: what exceeds a limit by a millionth is ruled out
        model += pulp.lpSum(picks[i] for i in chosen) <= len(chosen) - 1
    seconds = time.perf_counter() - started
    proven = model.status == pulp.LpStatusOptimal and model.sol_status == pulp.LpSolutionOptimal
    bound = latency_us if proven and objective == "latency" else problem.fixed_us
    return Selection(
        chosen,
        latency_us,
        total_bytes,
        total_distortion,
        bound,
        "optimal" if proven else "feasible",
        seconds,
    )


def _any_of(
    model: Any, name: str, options: Sequence[Option], picks: Sequence[Any], indices: Sequence[int]
) -> Any:
    """1 if any of these options is chosen, else 0.

    That is their sum where all of them cover one layer, so that no two are chosen together, as the
    writers of a value of a network do.
    """
    import pulp

    total = pulp.lpSum(picks[i] for i in indices)
    if not indices or set.intersection(*(set(options[i].layers) for i in indices)):
        return total
    chosen = pulp.LpVariable(name, 0, 1)
    model += chosen <= total
    for i in indices:
        model += chosen >= picks[i]
    return chosen


def _agree_on_widths(model: Any, options: Sequence[Option], picks: Sequence[Any]) -> None:
    """One width for each group of channels: options that name another one are out.

    Of each layer at most one option is chosen, so that all of its options that name a width are
    held by one row, which is tighter than a row for each.
    """
    import pulp

    users: dict[tuple[str, int], dict[tuple[str, ...], list[int]]] = {}
    for index, option in enumerate(options):
        for group, width in option.widths.items():
            users.setdefault((group, width), {}).setdefault(option.layers, []).append(index)
    groups: dict[str, list[Any]] = {}
    for number, ((group, _), by_layers) in enumerate(users.items()):
        taken = pulp.LpVariable(f"w{number}", 0, 1)
        groups.setdefault(group, []).append(taken)
        for indices in by_layers.values():
            model += pulp.lpSum(picks[i] for i in indices) <= taken
    for variables in groups.values():
        model += pulp.lpSum(variables) <= 1


def _limit(model: Any, terms: Sequence[tuple[float, Any]], limit: float) -> None:
    """Keeps the sum of coefficient x variable within `limit`.

    Figures span many orders of magnitude, and solvers forgive small violations: terms that exceed
    the limit alone are ruled out first, and the row is scaled to the limit.
    """
    import pulp

    if limit == math.inf:
        return
    fitting = []
    for coefficient, variable in terms:
        if coefficient > max(limit, 0.0) * ROUNDING:
            model += variable <= 0
        else:
            fitting.append((coefficient, variable))
    unit = (limit if limit > 0 else 1.0) / LIMIT_ROW
    model += pulp.lpSum((c / unit) * v for c, v in fitting) <= limit / unit


def _share(terms: Sequence[tuple[float, Any]]) -> Any:
    """The sum of coefficient x variable as a share of what it is if all variables are one."""
    import pulp

    total = sum(coefficient for coefficient, _ in terms)
    return pulp.lpSum((c / total) * v for c, v in terms if c > 0) if total > 0 else pulp.lpSum([])


def frontier(
    problem: Problem,
    *,
    points: int = FRONTIER_POINTS,
    max_bytes: float = math.inf,
    objective: str = "latency",
) -> list[Selection]:
    """Latency-distortion trade-offs, fastest first: each is optimal for its own distortion.

    Distortion limits are spaced geometrically between that of the fastest choice and that of the
    most faithful one; choices that another one beats in both respects are left out. With objective
    "size", smallest takes the place of fastest throughout.
    """
    fastest = select(problem, max_bytes=max_bytes, objective=objective)
    if fastest.status == "infeasible":
        return []
    faithful = select(problem, max_bytes=max_bytes, objective="distortion")
    found = [fastest]
    high = fastest.distortion
    low = max(faithful.distortion, high * 1e-5)
    if high > low > 0:
        for step in range(1, points):
            limit = high * (low / high) ** (step / points)
            # limits only shrink: what was optimal for a wider one and fits is optimal still
            if found[-1].distortion > limit:
                selection = select(
                    problem, max_distortion=limit, max_bytes=max_bytes, objective=objective
                )
                if selection.status != "infeasible":
                    found.append(selection)
    return pareto([*found, faithful], objective)


def pareto(selections: Sequence[Selection], objective: str = "latency") -> list[Selection]:
    """Those that no other one beats in both the objective and distortion, best first."""
    result: list[Selection] = []

    def order(selection: Selection) -> tuple[float, float, float]:
        first = selection.bytes if objective == "size" else selection.latency_us
        return first, selection.distortion, selection.latency_us

    for candidate in sorted(selections, key=order):
        if not result or candidate.distortion < result[-1].distortion * (1 - 1e-12):
            result.append(candidate)
    return result
