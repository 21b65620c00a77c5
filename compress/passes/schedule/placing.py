"""Addresses for a plan: what has to lie together, and where it goes."""

from __future__ import annotations

import dataclasses

from compress.passes.schedule.offsets import Block, Part, pack
from compress.passes.schedule.presolve import Instance
from compress.passes.schedule.problem import Plan, Stay


def blocks_of(instance: Instance, plan: Plan) -> tuple[list[Block], list[list[Stay | int]]]:
    """What has to be placed: stays that share memory in one block, workspaces on their own.

    Returns:
        Blocks, and for each of them what its parts are: stays, or operators for workspaces.
    """
    graph = instance.graph
    last_stay = {stay.tensor: number for number, stay in enumerate(plan.stays)}
    first_stay: dict[int, int] = {}
    for number, stay in enumerate(plan.stays):
        first_stay.setdefault(stay.tensor, number)
    inside: dict[int, tuple[int, int]] = {}
    done = 0
    for operator in plan.order:
        done |= 1 << operator
        for share in instance.used_shares(operator, instance.dying(operator, done)):
            inside[last_stay[share.input]] = (first_stay[share.output], share.offset)
    grouped: dict[int, list[tuple[int, int]]] = {}
    for number in range(len(plan.stays)):
        root, offset = number, 0
        while root in inside:
            root, step = inside[root]
            offset += step
        grouped.setdefault(root, []).append((number, offset))
    blocks: list[Block] = []
    owners: list[list[Stay | int]] = []
    for group in grouped.values():
        blocks.append(
            Block(
                tuple(
                    _part(graph.tensors[plan.stays[n].tensor].bytes, plan.stays[n], offset)
                    for n, offset in group
                )
            )
        )
        owners.append([plan.stays[n] for n, _ in group])
    for step, operator in enumerate(plan.order):
        size = graph.operators[operator].workspace
        if size:
            blocks.append(Block((Part(step, step + 1, size),)))
            owners.append([operator])
    return blocks, owners


def _part(size: int, stay: Stay, offset: int) -> Part:
    return Part(stay.first, stay.last + 1, size, offset)


def place(
    instance: Instance,
    plan: Plan,
    capacity: int,
    *,
    seconds: float,
    threads: int = 1,
    seed: int = 0,
) -> Plan | None:
    """The plan with addresses; None if none were found in time."""
    blocks, owners = blocks_of(instance, plan)
    packing = pack(blocks, capacity, seconds=seconds, threads=threads, seed=seed)
    if packing.offsets is None:
        return None
    stays: list[Stay] = []
    workspaces: list[int | None] = [None] * instance.operators
    for block, owned, base in zip(blocks, owners, packing.offsets, strict=True):
        for part, owner in zip(block.parts, owned, strict=True):
            address = base + part.offset
            if isinstance(owner, Stay):
                stays.append(dataclasses.replace(owner, address=address))
            else:
                workspaces[owner] = address
    stays.sort(key=lambda stay: (stay.tensor, stay.first))
    return dataclasses.replace(
        plan, stays=tuple(stays), workspaces=tuple(workspaces), peak=packing.peak
    )
