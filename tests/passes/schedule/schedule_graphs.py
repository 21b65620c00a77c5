"""Random graphs of operators for the scheduler's tests, and the instances with known optima."""

from __future__ import annotations

import json
import random
from pathlib import Path

from compress.passes.schedule.orders import exact_peak
from compress.passes.schedule.presolve import presolve
from compress.passes.schedule.problem import Graph, Operator, Share, Tensor

INSTANCES = Path(__file__).parents[2] / "data" / "schedule_dags"


def instance_of(name: str) -> tuple[Graph, int, int]:
    """(graph, capacity, proven optimum in bytes) of a file."""
    content = json.loads((INSTANCES / f"{name}.json").read_text(encoding="utf-8"))
    operators = tuple(
        Operator(f"o{i}", tuple(op["inputs"]), (i,)) for i, op in enumerate(content["ops"])
    )
    tensors = tuple(Tensor(f"t{i}", op["output_bytes"]) for i, op in enumerate(content["ops"]))
    return Graph(operators, tensors), content["capacity"], content["optimum_bytes"]


def random_graph(rng: random.Random, most: int = 9, *, plain: bool = False) -> Graph:
    """Up to `most` operators with up to three inputs and two outputs; external and kept tensors,
    workspaces, elementwise operators and concatenations; with `plain` none of these."""
    tensors: list[Tensor] = []
    operators: list[Operator] = []
    for number in range(0 if plain else rng.choice((0, 1, 1, 2))):
        tensors.append(Tensor(f"x{number}", rng.randint(1, 6), True, rng.random() < 0.1))
    for number in range(rng.randint(min(4, most), most)):
        fan_in = rng.choice((1, 1, 2, 2, 3)) if number else 0
        inputs = tuple(rng.sample(range(len(tensors)), min(fan_in, len(tensors))))
        kind = "plain" if plain else rng.choice(("plain", "plain", "elementwise", "concat", "two"))
        made = len(tensors)
        kept = not plain and rng.random() < 0.15
        shares: tuple[Share, ...] = ()
        size = rng.randint(1, 6)
        if inputs and kind == "elementwise":
            size = max(tensors[i].bytes for i in inputs)
            shares = tuple(Share(i, made) for i in inputs)
        elif inputs and kind == "concat":
            offsets = [sum(tensors[j].bytes for j in inputs[:i]) for i in range(len(inputs))]
            size = sum(tensors[i].bytes for i in inputs)
            shares = tuple(Share(i, made, at) for i, at in zip(inputs, offsets, strict=True))
        outputs: tuple[int, ...] = (made,)
        tensors.append(Tensor(f"t{made}", size, kept=kept))
        if kind == "two":
            outputs = (made, made + 1)
            tensors.append(Tensor(f"t{made + 1}", rng.randint(1, 6)))
        workspace = 0 if plain else rng.choice((0, 0, 0, 1, 3))
        operators.append(Operator(f"o{number}", inputs, outputs, workspace, 0, shares))
    return Graph(tuple(operators), tuple(tensors))


def random_order(graph: Graph, rng: random.Random) -> tuple[int, ...]:
    order: list[int] = []
    while len(order) < len(graph.operators):
        left = set(range(len(graph.operators))) - set(order)
        order.append(rng.choice([o for o in sorted(left) if graph.predecessors[o] <= set(order)]))
    return tuple(order)


def random_capacity(graph: Graph, rng: random.Random) -> int:
    """Where something has to leave, if there is such a capacity; seldom where nothing has to."""
    instance = presolve(graph, 10**6)
    low = max(instance.least_need(o) for o in range(instance.operators)) * instance.unit
    found = exact_peak(instance)
    high = low if found is None else int(found.value) * instance.unit
    return rng.randint(low, max(low, high - (rng.random() < 0.9)))
