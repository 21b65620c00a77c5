"""Plans that cannot be placed, made so that they can: more leaves where addresses are short."""

from __future__ import annotations

from compress.passes.schedule.candidates import Candidate, cost_of, everything_leaves, plan_of
from compress.passes.schedule.clock import Clock
from compress.passes.schedule.mend import mend
from compress.passes.schedule.offsets import greedy, pack
from compress.passes.schedule.placing import blocks_of
from compress.passes.schedule.presolve import Instance
from compress.passes.schedule.problem import Plan, Stay

MENDING_SHARE = 0.9
"""Of the time, for changes at single places."""

PACKING_SHARE = 0.03
"""Of the time left, for finding addresses after each change."""

FEW = 4
"""One in how many of the tensors that lie too high leaves at a time."""


def repair(instance: Instance, known: Candidate, capacity: int, *, seconds: float) -> Candidate:
    """A plan that has addresses, from one that may have none.

    Single places are mended (`compress.passes.schedule.mend`); if that takes too long, the rest is
    thinned out.

    Args:
        capacity: bytes.
    """
    mended, packed = mend(instance, known, capacity, seconds=MENDING_SHARE * seconds)
    if packed:
        return mended
    return thinned(instance, mended, capacity, seconds=(1 - MENDING_SHARE) * seconds)


def thinned(instance: Instance, known: Candidate, capacity: int, *, seconds: float) -> Candidate:
    """The same, sooner and worse.

    What a greedy layout puts above the capacity leaves for the longest time that it is not used;
    where it is used at every step, the cheapest neighbour does. In the end nothing stays between
    two steps, which can always be placed.

    Args:
        capacity: bytes.
    """
    clock = Clock(seconds)
    loads = set(known.loads)
    while True:
        chosen = tuple(sorted(loads))
        candidate = Candidate(
            cost_of(instance, known.order, chosen), known.order, chosen, "repaired"
        )
        plan = plan_of(instance, candidate, 0)
        blocks, owners = blocks_of(instance, plan)
        if pack(blocks, capacity, seconds=PACKING_SHARE * clock.left).offsets is not None:
            return candidate
        layout = greedy(blocks)
        high = [
            owner
            for block, owned, base in zip(blocks, owners, layout.offsets or (), strict=True)
            if base + block.height > capacity
            for owner in owned
        ]
        cuts = sorted(_cuts(instance, plan, high), key=lambda c: (instance.sizes[c[0]], c))
        if not cuts:
            return everything_leaves(instance, known.order)
        # few at a time disturb the plan least; all at once end soon
        loads.update(cuts if clock.left <= 0 else cuts[: -(-len(cuts) // FEW)])


def _cuts(instance: Instance, plan: Plan, high: list[Stay | int]) -> set[tuple[int, int]]:
    """Loads that shorten what lies too high, or something beside it."""
    position = {operator: place for place, operator in enumerate(plan.order)}
    cuts: set[tuple[int, int]] = set()
    for owner in high:
        first, last = (
            (owner.first, owner.last) if isinstance(owner, Stay) else (position[owner],) * 2
        )
        own = _cut(instance, plan, position, owner) if isinstance(owner, Stay) else None
        if own is not None:
            cuts.add(own)
            continue
        beside = [
            (instance.sizes[stay.tensor], cut)
            for stay in plan.stays
            if stay.first <= last
            and first <= stay.last
            and (cut := _cut(instance, plan, position, stay)) is not None
        ]
        if beside:
            cuts.add(min(beside)[1])
    return cuts


def _cut(
    instance: Instance, plan: Plan, position: dict[int, int], stay: Stay
) -> tuple[int, int] | None:
    """The load that ends the longest time that a tensor stays without being used."""
    uses = sorted(
        place
        for reader in instance.consumers[stay.tensor]
        if stay.first < (place := position[reader]) <= stay.last
    )
    if not uses:
        return None
    longest = max(range(len(uses)), key=lambda n: uses[n] - (uses[n - 1] if n else stay.first))
    return stay.tensor, plan.order[uses[longest]]
