"""The replay finds every rule that a plan can break, and counts bytes."""

from __future__ import annotations

import dataclasses

import pytest

from compress.passes.schedule.problem import Graph, Operator, Plan, Share, Stay, Tensor
from compress.passes.schedule.replay import replay

GRAPH = Graph(
    (
        Operator("first", (0,), (1,), workspace=2),
        Operator("second", (1,), (2,)),
        Operator("third", (1, 2), (3,)),
    ),
    (Tensor("x", 4, external=True), Tensor("a", 3), Tensor("b", 5), Tensor("y", 3, kept=True)),
)
STAYS = (
    Stay(0, 0, 0, True, 0),
    Stay(1, 0, 2, False, 4),
    Stay(2, 1, 2, False, 7),
    Stay(3, 2, 2, False, 0),
)
PLAN = Plan((0, 1, 2), STAYS, 0, peak=12, workspaces=(7, None, None))


def changed(index, **fields):
    stays = list(STAYS)
    stays[index] = dataclasses.replace(stays[index], **fields)
    return dataclasses.replace(PLAN, stays=tuple(stays))


def test_a_valid_plan():
    checked = replay(GRAPH, PLAN, 12)
    assert checked.problems == ()
    assert (checked.extra_bytes, checked.peak) == (0, 12)


def test_without_addresses_sums_are_counted():
    stays = tuple(dataclasses.replace(s, address=None) for s in STAYS)
    checked = replay(GRAPH, dataclasses.replace(PLAN, stays=stays), 11)
    assert checked.problems == ()
    assert checked.peak == 11


@pytest.mark.parametrize(
    ("plan", "problem"),
    [
        (dataclasses.replace(PLAN, order=(0, 1)), "every operator once"),
        (dataclasses.replace(PLAN, order=(0, 2, 1)), "third runs before b is made"),
        (changed(0, tensor=9), "does not exist"),
        (changed(0, last=5), "stays from 0 to 5"),
        (changed(1, last=1), "a is not resident at step 2"),
        (changed(2, first=2), "b does not begin where it is made"),
        (changed(0, loaded=False), "nothing loaded it"),
        (changed(1, loaded=True), "a does not begin where it is made"),
        (changed(3, address=2), "y and a overlap at step 2"),
        (changed(2, address=9), "needs 14 bytes of 12"),
        (changed(1, address=-1), "lies at address -1"),
        (changed(1, address=None), "others have none"),
        (dataclasses.replace(PLAN, workspaces=(3, None, None)), "workspace of first"),
        (dataclasses.replace(PLAN, workspaces=()), "has no address"),
        (dataclasses.replace(PLAN, peak=11), "says a peak of 11 bytes, it is 12"),
        (dataclasses.replace(PLAN, stays=(*STAYS, Stay(0, 1, 1, True, 0))), "does not read it"),
        (dataclasses.replace(PLAN, stays=(*STAYS, Stay(1, 2, 2, True, 0))), "while it is resident"),
    ],
)
def test_every_broken_rule_is_found(plan, problem):
    assert any(problem in found for found in replay(GRAPH, plan, 12).problems)


def test_capacity():
    assert replay(GRAPH, PLAN, 11).problems == (
        "second needs 12 bytes of 11",
        "third needs 12 bytes of 11",
    )


def test_spilled_tensors_cost_a_store_and_their_loads():
    graph = Graph(
        (Operator("p", (), (0,)), Operator("q", (0,), (1,)), Operator("r", (0, 1), (2,))),
        (Tensor("a", 7), Tensor("b", 2), Tensor("c", 1)),
    )
    stays = (
        Stay(0, 0, 0, False),
        Stay(0, 1, 1, True),
        Stay(0, 2, 2, True),
        Stay(1, 1, 2, False),
        Stay(2, 2, 2, False),
    )
    plan = Plan((0, 1, 2), stays, 21, peak=10)
    assert replay(graph, plan, 10).extra_bytes == 21
    assert replay(graph, plan, 10).problems == ()
    kept = dataclasses.replace(graph, tensors=(Tensor("a", 7, kept=True), *graph.tensors[1:]))
    assert replay(kept, plan, 10).extra_bytes == 14
    boasting = dataclasses.replace(plan, extra_bytes=14)
    assert "there are 21" in replay(graph, boasting, 10).problems[0]


SHARING = Graph(
    (
        Operator("p", (), (0,)),
        Operator("q", (), (1,)),
        Operator("concat", (0, 1), (2,), shares=(Share(0, 2, 0), Share(1, 2, 4))),
    ),
    (Tensor("a", 4), Tensor("b", 2), Tensor("ab", 6)),
)
SHARED = Plan(
    (0, 1, 2),
    (Stay(0, 0, 2, False, 0), Stay(1, 1, 2, False, 4), Stay(2, 2, 2, False, 0)),
    0,
    peak=6,
)


def test_parts_of_a_concatenation_count_once():
    assert replay(SHARING, SHARED, 6).problems == ()
    stays = tuple(dataclasses.replace(s, address=None) for s in SHARED.stays)
    checked = replay(SHARING, dataclasses.replace(SHARED, stays=stays), 6)
    assert checked.problems == ()
    assert checked.peak == 6


def test_a_part_lies_exactly_at_its_offset():
    stays = (*SHARED.stays[:1], dataclasses.replace(SHARED.stays[1], address=3), SHARED.stays[2])
    plan = dataclasses.replace(SHARED, stays=stays)
    assert any("overlap" in p for p in replay(SHARING, plan, 6).problems)


def test_what_has_to_be_stored_is_not_written_over():
    tensors = (Tensor("a", 4, kept=True), *SHARING.tensors[1:])
    graph = dataclasses.replace(SHARING, tensors=tensors)
    assert "overlap" in replay(graph, SHARED, 6).problems[0]


def test_only_the_last_use_is_written_over():
    graph = Graph(
        (
            Operator("p", (), (0,)),
            Operator("relu", (0,), (1,), shares=(Share(0, 1),)),
            Operator("q", (0, 1), (2,)),
        ),
        (Tensor("a", 4), Tensor("b", 4), Tensor("c", 1)),
    )
    stays = (
        Stay(0, 0, 1, False, 0),
        Stay(0, 2, 2, True, 4),
        Stay(1, 1, 2, False, 0),
        Stay(2, 2, 2, False, 8),
    )
    plan = Plan((0, 1, 2), stays, 8, peak=9)
    assert replay(graph, plan, 9).problems == ("b and a overlap at step 1",)
