"""The selector: an exact choice of one option per layer, boundaries between domains included."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from compress.errors import DeviceError
from compress.passes.base import Boundary, Option

FRONTIER_POINTS = 20
TIME_LIMIT_S = 20.0
"""Per solve; the instances seen take milliseconds, so this is a bound on the unexpected."""


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
        bound_us: proven lower bound of the latency under the same limits.
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
        ValueError: a layer is covered not once.
    """
    covered: dict[str, int] = {}
    reads_u8: set[str] = set()
    reads_float: set[str] = set()
    writes_u8: set[str] = set()
    latency, size, distortion = problem.fixed_us, problem.fixed_bytes, 0.0
    for index in chosen:
        option = problem.options[index]
        for layer in option.layers:
            covered[layer] = covered.get(layer, 0) + 1
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
) -> Selection:
    """The exact best choice under the limits, by integer programming (pulp, HiGHS).

    Variables: one binary per option; per value three continuous ones that the constraints force to
    0 or 1: a Quantize is needed if somebody reads uint8 that nobody writes, a Dequantize likewise,
    and the value is rounded if anybody touches it as uint8.

    Args:
        objective: what is minimised: "latency", "distortion" or "size". Ties are broken by a small
            weight on the other two, so that equal models are told apart the same way every time.

    Raises:
        DeviceError: the solver itself failed.
    """
    import pulp

    started = time.perf_counter()
    model = pulp.LpProblem("selection", pulp.LpMinimize)
    picks = [pulp.LpVariable(f"x{i}", cat="Binary") for i in range(len(problem.options))]
    by_layer: dict[str, list[int]] = {}
    readers_u8: dict[str, list[int]] = {}
    readers_float: dict[str, list[int]] = {}
    writers: dict[str, list[int]] = {}
    for index, option in enumerate(problem.options):
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
    boundary_terms = []
    rounded_terms: list[tuple[float, Any]] = []
    for number, (name, boundary) in enumerate(problem.boundaries.items()):
        written = pulp.lpSum(picks[i] for i in writers.get(name, []))
        if readers_u8.get(name) and boundary.quantize_us > 0:
            quantize = pulp.LpVariable(f"q{number}", 0, 1)
            for i in readers_u8[name]:
                model += quantize >= picks[i] - written
            boundary_terms.append(boundary.quantize_us * quantize)
        if writers.get(name) and boundary.dequantize_us > 0:
            dequantize = pulp.LpVariable(f"d{number}", 0, 1)
            if boundary.is_output:
                model += dequantize >= written
            for i in readers_float.get(name, []):
                model += dequantize >= picks[i] + written - 1
            boundary_terms.append(boundary.dequantize_us * dequantize)
        touching = {*readers_u8.get(name, []), *writers.get(name, [])}
        if touching and boundary.distortion > 0:
            rounded = pulp.LpVariable(f"r{number}", 0, 1)
            for i in sorted(touching):
                model += rounded >= picks[i]
            rounded_terms.append((boundary.distortion, rounded))
    options = problem.options
    latency = (
        pulp.lpSum(o.latency_us * x for o, x in zip(options, picks, strict=True))
        + pulp.lpSum(boundary_terms)
        + problem.fixed_us
    )
    # distortions span many orders of magnitude: scaled so that the limit is 1 (or the total is)
    total = sum(o.distortion for o in options) + sum(d for d, _ in rounded_terms)
    unit = max_distortion if 0 < max_distortion < math.inf else max(total, 1e-30)
    distortion = pulp.lpSum(
        (o.distortion / unit) * x for o, x in zip(options, picks, strict=True)
    ) + pulp.lpSum((d / unit) * variable for d, variable in rounded_terms)
    size = pulp.lpSum((o.bytes / 2**20) * x for o, x in zip(options, picks, strict=True))
    if max_distortion < math.inf:
        model += distortion <= max_distortion / unit
    if max_latency_us < math.inf:
        model += latency <= max_latency_us
    if max_bytes < math.inf:
        model += size <= (max_bytes - problem.fixed_bytes) / 2**20
    goals = {"latency": latency, "distortion": distortion, "size": size}
    ties = 1e-6 * (latency / 1000 + distortion + size)
    model += goals[objective] + ties
    solver = pulp.HiGHS(msg=False, timeLimit=TIME_LIMIT_S, threads=1, gapRel=0.0)
    try:
        model.solve(solver)
    except Exception as error:
        raise DeviceError(f"the integer programming solver failed: {error}") from error
    seconds = time.perf_counter() - started
    chosen = tuple(i for i, x in enumerate(picks) if x.varValue is not None and x.varValue > 0.5)
    covered_once = sum(len(options[i].layers) for i in chosen) == len(by_layer)
    if model.status != pulp.LpStatusOptimal and not (chosen and covered_once):
        return Selection((), math.inf, 0, math.inf, math.inf, "infeasible", seconds)
    latency_us, total_bytes, total_distortion = evaluate_choice(problem, chosen)
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


def frontier(
    problem: Problem, *, points: int = FRONTIER_POINTS, max_bytes: float = math.inf
) -> list[Selection]:
    """Latency-distortion trade-offs, fastest first: each is optimal for its own distortion.

    Distortion limits are spaced geometrically between that of the fastest choice and that of the
    most faithful one; choices that another one beats in both respects are left out.
    """
    fastest = select(problem, max_bytes=max_bytes)
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
                selection = select(problem, max_distortion=limit, max_bytes=max_bytes)
                if selection.status != "infeasible":
                    found.append(selection)
    return pareto([*found, faithful])


def pareto(selections: Sequence[Selection]) -> list[Selection]:
    """Those that no other one beats in both latency and distortion, fastest first."""
    result: list[Selection] = []
    for candidate in sorted(selections, key=lambda s: (s.latency_us, s.distortion)):
        if not result or candidate.distortion < result[-1].distortion * (1 - 1e-12):
            result.append(candidate)
    return result
