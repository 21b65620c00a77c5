"""Residency and addresses of one order together, by CP-SAT.

Residency alone may ask for what cannot be placed: where the scratchpad is just large enough for one
operator, or where inputs lie inside outputs, addresses decide what has to leave. Time by address is
a rectangle to be filled:

- Each tensor has an address at the step that makes it and at each step that uses it: a rectangle
  one step wide. Between two of these steps it stays, at one address, as a rectangle that fills the
  gap, or leaves and is loaded again.
- An input that is used for the last time may lie inside an output, at its offset: it then has no
  rectangle of its own at that step. Two inputs never lie on the same bytes.
- No two rectangles overlap; the sum of heights never exceeds the capacity (implied, but it is what
  gives the bound).
- The cost is one transfer per return, and one per tensor that is stored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from compress.passes.schedule.presolve import Instance, conflict
from compress.passes.schedule.problem import Plan, Share, Stay, extra_bytes


@dataclasses.dataclass(frozen=True)
class Placed:
    """What was found.

    Attributes:
        plan: with addresses; None if nothing was found in time.
        bound: in units, of plans with this order and addresses.
        status: "optimal", "feasible", "infeasible" or "unknown".
    """

    plan: Plan | None
    bound: int
    status: str


@dataclasses.dataclass
class _Tensor:
    """Variables of one tensor: its address at each of `steps`, whether it stays between two."""

    tensor: int
    steps: list[int]
    made: bool
    addresses: list[Any]
    stays: list[Any]


def best_placed(
    instance: Instance,
    order: Sequence[int],
    *,
    seconds: float,
    threads: int = 1,
    seed: int = 0,
    hint: Plan | None = None,
) -> Placed:
    """The cheapest plan with addresses of an order.

    Args:
        hint: a plan of the same order to begin with. One with addresses is an upper bound.
    """
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    position = {operator: step for step, operator in enumerate(order)}
    sharing = _sharing(model, instance, position)
    tensors = [_variables(model, instance, t, position) for t in _used(instance)]
    wide, high, heights = [], [], []

    def rectangle(start: int, width: int, bottom: Any, height: int, present: Any) -> None:
        wide.append(model.new_optional_fixed_size_interval_var(start, width, present, ""))
        high.append(model.new_optional_fixed_size_interval_var(bottom, height, present, ""))
        heights.append(height)

    costs: list[tuple[int, Any]] = []
    where: dict[tuple[int, int], Any] = {}
    for each in tensors:
        size = instance.sizes[each.tensor]
        for step, address in zip(each.steps, each.addresses, strict=True):
            inside = [literal for _, literal in sharing.get((each.tensor, step), ())]
            present: Any = True
            if inside:
                present = model.new_bool_var("")
                model.add_exactly_one([present, *inside])
            rectangle(step, 1, address, size, present)
            where[each.tensor, step] = address
        for number, stays in enumerate(each.stays):
            before, after = each.steps[number : number + 2]
            addresses = each.addresses[number : number + 2]
            model.add(addresses[0] == addresses[1]).only_enforce_if(stays)
            if after - before > 1:
                rectangle(before + 1, after - before - 1, addresses[0], size, stays)
            costs.append((size, ~stays))
        if each.stays and instance.store_costs[each.tensor]:
            stored = model.new_bool_var("")
            for stays in each.stays:
                model.add_implication(~stays, stored)
            costs.append((instance.store_costs[each.tensor], stored))
    workspaces: list[Any] = [None] * instance.operators
    for operator, step in position.items():
        size = instance.workspaces[operator]
        if size:
            workspaces[operator] = model.new_int_var(0, instance.capacity - size, "")
            rectangle(step, 1, workspaces[operator], size, True)
    for (tensor, step), options in sharing.items():
        for share, literal in options:
            bottom = where[share.output, step] + share.offset // instance.unit
            model.add(where[tensor, step] == bottom).only_enforce_if(literal)
    model.add_no_overlap_2d(wide, high)
    model.add_cumulative(wide, heights, instance.capacity)
    model.minimize(sum(cost * literal for cost, literal in costs))
    if hint is not None:
        _hint(model, instance, tensors, hint)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = max(0.01, seconds)
    solver.parameters.num_workers = threads
    solver.parameters.random_seed = seed
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        return Placed(None, 0, "infeasible")
    bound = max(0, round(solver.best_objective_bound)) if costs else 0
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Placed(None, bound, "unknown")
    stays = tuple(s for each in tensors for s in _stays(solver, instance, each))
    ends = [(s.address or 0) + instance.graph.tensors[s.tensor].bytes for s in stays]
    placed = tuple(None if w is None else solver.value(w) * instance.unit for w in workspaces)
    ends += [
        address + instance.graph.operators[o].workspace
        for o, address in enumerate(placed)
        if address is not None
    ]
    plan = Plan(
        tuple(order),
        stays,
        # Where time ran out a literal may say "stored" of what is not.
        extra_bytes(instance.graph, stays),
        method="residency with addresses",
        peak=max(ends, default=0),
        workspaces=placed,
    )
    return Placed(plan, bound, "optimal" if status == cp_model.OPTIMAL else "feasible")


def _used(instance: Instance) -> Iterator[int]:
    """Tensors that ever enter the scratchpad."""
    for tensor, readers in enumerate(instance.consumers):
        if readers or instance.producers[tensor] is not None:
            yield tensor


def _variables(model: Any, instance: Instance, tensor: int, position: dict[int, int]) -> _Tensor:
    producer = instance.producers[tensor]
    steps = sorted(position[reader] for reader in instance.consumers[tensor])
    if producer is not None:
        steps.insert(0, position[producer])
    top = instance.capacity - instance.sizes[tensor]
    return _Tensor(
        tensor,
        steps,
        producer is not None,
        [model.new_int_var(0, top, "") for _ in steps],
        [model.new_bool_var("") for _ in steps[1:]],
    )


def _sharing(
    model: Any, instance: Instance, position: dict[int, int]
) -> dict[tuple[int, int], list[tuple[Share, Any]]]:
    """By input and step of its last use, the shares that are possible, each with its literal."""
    found: dict[tuple[int, int], list[tuple[Share, Any]]] = {}
    for operator, step in position.items():
        options = [
            (share, model.new_bool_var(""))
            for share in instance.shares[operator]
            if max(position[r] for r in instance.consumers[share.input]) == step
            and share.offset % instance.unit == 0
        ]
        for number, (share, literal) in enumerate(options):
            for other, taken in options[:number]:
                if conflict(instance.graph, share, other):
                    model.add_bool_or([~literal, ~taken])
            found.setdefault((share.input, step), []).append((share, literal))
    return found


def _hint(model: Any, instance: Instance, tensors: Sequence[_Tensor], plan: Plan) -> None:
    by_tensor: dict[int, list[Stay]] = {}
    for stay in plan.stays:
        by_tensor.setdefault(stay.tensor, []).append(stay)
    for each in tensors:
        own = [
            next(s for s in by_tensor[each.tensor] if s.first <= step <= s.last)
            for step in each.steps
        ]
        for stay, address in zip(own, each.addresses, strict=True):
            if stay.address is not None:
                model.add_hint(address, stay.address // instance.unit)
        for number, literal in enumerate(each.stays):
            model.add_hint(literal, own[number] is own[number + 1])


def _stays(solver: Any, instance: Instance, each: _Tensor) -> Iterator[Stay]:
    begin = 0
    for number, step in enumerate(each.steps):
        if number < len(each.stays) and solver.value(each.stays[number]):
            continue
        yield Stay(
            each.tensor,
            each.steps[begin],
            step,
            begin > 0 or not each.made,
            solver.value(each.addresses[begin]) * instance.unit,
        )
        begin = number + 1
