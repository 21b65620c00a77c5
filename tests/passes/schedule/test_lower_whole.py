"""Plans over whole tensors as programs."""

from __future__ import annotations

import dataclasses

import pytest
import scratchpad_networks as networks
from small_networks import floats

from compress.passes.schedule.extract import extract
from compress.passes.schedule.lower_whole import lower_whole
from compress.passes.schedule.problem import Plan, Stay
from compress.passes.schedule.program import Program

CHAIN = (
    "g (float[1,20] x) => (float[1,20] y, float[1,20] b) {"
    " a = Sqrt(x) b = MatMul(a, w) y = Add(a, b) }"
)


def shown(program: Program) -> list[str]:
    lines = []
    for step in program.steps:
        what = f" {step.operator}" if step.operator else ""
        places = [f"{name}@{program.by_name[name].address}" for name in step.inputs]
        made = [f"{name}@{program.by_name[name].address}" for name in step.outputs]
        moved = f" {step.bytes}{'' if step.compulsory else ' extra'}" if step.bytes else ""
        lines.append(f"{step.kind}{what}: {', '.join(places)} -> {', '.join(made)}{moved}")
    return lines


def test_steps_of_a_plan_that_reloads() -> None:
    found = networks.extracted(CHAIN, w=floats(20, 20))
    names = [tensor.name for tensor in found.graph.tensors]
    x, a, b, y = (names.index(name) for name in "xaby")
    stays = (
        Stay(x, 0, 0, loaded=True, address=0),
        Stay(a, 0, 1, loaded=False, address=80),
        Stay(a, 2, 2, loaded=True, address=0),
        Stay(b, 1, 2, loaded=False, address=160),
        Stay(y, 2, 2, loaded=False, address=0),
    )
    plan = Plan((0, 1, 2), stays, 160, workspaces=(None, 240, None))
    program = lower_whole(found, plan, 2000)
    assert shown(program) == [
        "load:  -> x@0 80",
        "compute a: x@0 -> a@80",
        "store: a@80 ->  80 extra",
        "load:  -> w@240 1600",
        "compute b: a@80, w@240 -> b@160",
        "store: b@160 ->  80",
        "load:  -> a@2@0 80 extra",
        "compute y: a@2@0, b@160 -> y@0",
        "store: y@0 ->  80",
    ]
    again, made = program.by_name["a@2"], program.by_name["y"]
    assert (again.first, again.last) == (6, 7)
    assert again.shares == ("y",)
    assert made.shares == ("a@2",)
    assert program.by_name["a"].last == 4
    assert program.peak == 240 + 1600
    assert program.off_chip_bytes == 80 * 5 + 1600


def test_shared_weights_are_loaded_as_tensors() -> None:
    found = networks.extracted(
        "g (float[1,20] x) => (float[1,20] y) { a = MatMul(x, w) y = MatMul(a, w) }",
        w=floats(20, 20),
    )
    program = lower_whole(found, networks.plain_plan(found.graph), 10_000)
    loads = [step.outputs[0] for step in program.steps if step.kind == "load"]
    assert loads == ["x", "w"]
    assert program.by_name["w"].last == 3


def test_inputs_and_outputs_share_only_at_the_step_between_them() -> None:
    found = extract(networks.cnn())
    plan = networks.plain_plan(found.graph)
    program = lower_whole(found, plan, plan.peak)
    assert all(not buffer.shares for buffer in program.buffers)


def test_a_plan_without_addresses_is_refused() -> None:
    found = networks.extracted(CHAIN, w=floats(20, 20))
    plan = networks.plain_plan(found.graph)
    bare = tuple(dataclasses.replace(stay, address=None) for stay in plan.stays)
    with pytest.raises(ValueError, match="no addresses"):
        lower_whole(found, dataclasses.replace(plan, stays=bare), 10_000)
    with pytest.raises(ValueError, match="no address for a workspace"):
        lower_whole(found, dataclasses.replace(plan, workspaces=()), 10_000)
