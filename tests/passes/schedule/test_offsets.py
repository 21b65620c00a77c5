"""Packings are right, complete where they claim to be, and as good as exhaustive search finds."""

from __future__ import annotations

import csv
import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compress.passes.schedule import offsets, offsets_search, offsets_solver
from compress.passes.schedule.offsets import (
    Block,
    Part,
    greedy,
    hill_climb,
    overlaps,
    pack,
    smallest,
)
from compress.passes.schedule.offsets_problem import Layout

DATA = Path(__file__).parents[2] / "data" / "offset_packing"
MIB = 1 << 20

parts = st.builds(
    lambda lower, length, size, offset: Part(lower, lower + length, size, offset),
    st.integers(0, 5),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 3),
)
simple_blocks = st.builds(
    lambda lower, length, size: Block((Part(lower, lower + length, size),)),
    st.integers(0, 6),
    st.integers(1, 5),
    st.integers(1, 6),
)
any_blocks = st.lists(parts, min_size=1, max_size=3).map(lambda p: Block(tuple(p)))
few = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def simple(*lifetimes_and_sizes: tuple[int, int, int]) -> list[Block]:
    return [Block((Part(*each),)) for each in lifetimes_and_sizes]


def read(path: Path) -> list[Block]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return simple(*((int(r["lower"]), int(r["upper"]), int(r["size"])) for r in rows))


def sliced(seed: int, blocks: int, capacity: int, times: int) -> list[Block]:
    """A full rectangle of capacity x times cut into blocks: packable without a single gap."""
    draw = random.Random(seed)
    pieces = [(0, times, 0, capacity)]
    while len(pieces) < blocks:
        pieces.sort(key=lambda p: (p[1] - p[0]) * (p[3] - p[2]))
        first, end, low, high = pieces.pop()
        if end - first > 1 and (draw.random() < 0.5 or high - low < 2):
            cut = draw.randint(first + 1, end - 1)
            pieces += [(first, cut, low, high), (cut, end, low, high)]
        else:
            cut = draw.randint(low + 1, high - 1)
            pieces += [(first, end, low, cut), (first, end, cut, high)]
    draw.shuffle(pieces)
    return simple(*((first, end, high - low) for first, end, low, high in pieces))


def overlaps_byte_by_byte(blocks: Sequence[Block], bases: Sequence[int], capacity: int) -> bool:
    owner: dict[tuple[int, int], int] = {}
    for index, (block, base) in enumerate(zip(blocks, bases, strict=True)):
        for part in block.parts:
            start = base + part.offset
            for byte in range(start, start + part.size):
                if not 0 <= byte < capacity:
                    return True
                for time in range(part.lower, part.upper):
                    if owner.setdefault((time, byte), index) != index:
                        return True
    return False


def packable(blocks: Sequence[Block], capacity: int) -> bool:
    """Tries all bases of all blocks."""
    rooms = [range(capacity - block.height + 1) for block in blocks]
    return any(
        not overlaps_byte_by_byte(blocks, bases, capacity) for bases in itertools.product(*rooms)
    )


def least_peak(blocks: Sequence[Block]) -> int:
    """Of simple blocks. Each as low as those before it allow, in any order: some order is that of
    the best packing's bases, and gives none that is higher."""
    rectangles = [(b.parts[0].lower, b.parts[0].upper, b.parts[0].size) for b in blocks]
    return min(_peak(order) for order in itertools.permutations(rectangles))


def _peak(order: Sequence[tuple[int, int, int]]) -> int:
    placed: list[tuple[int, int, int, int]] = []
    for lower, upper, size in order:
        near = [(low, high) for first, end, low, high in placed if first < upper and lower < end]
        base = min(
            base
            for base in (0, *(high for _, high in near))
            if all(base >= high or base + size <= low for low, high in near)
        )
        placed.append((lower, upper, base, base + size))
    return max((high for *_, high in placed), default=0)


@given(st.lists(any_blocks, max_size=4), st.lists(st.integers(0, 8), min_size=4, max_size=4))
@settings(deadline=None)
def test_the_checker_agrees_with_every_byte(blocks: list[Block], bases: list[int]) -> None:
    bases = bases[: len(blocks)]
    found = overlaps(blocks, bases, capacity=10)
    assert bool(found) == overlaps_byte_by_byte(blocks, bases, 10), found


def test_the_checker_says_what_is_wrong() -> None:
    blocks = simple((0, 2, 4), (1, 3, 4), (2, 3, 2))
    assert overlaps(blocks, (0, 4, 0), 8) == []
    assert overlaps(blocks, (0, 2, 0)) == ["blocks 0 and 1 share 2 bytes at time 1"]
    assert overlaps(blocks, (0, 5, 0), 8) == ["block 1 ends 1 bytes above the capacity"]
    assert overlaps(blocks, (-1, 4, 0)) == ["block 0 lies at -1"]
    assert overlaps(blocks, (0, 4)) == ["3 blocks have 2 offsets"]


@given(st.lists(simple_blocks, min_size=1, max_size=6), st.integers(-2, 1))
@settings(deadline=None, max_examples=100)
def test_the_search_packs_what_can_be_packed_and_proves_the_rest(
    blocks: list[Block], more: int
) -> None:
    least = least_peak(blocks)
    layout = Layout.of(blocks)
    room = (least + more) // layout.unit
    status, bases, _ = offsets_search.search(layout, room, deadline=float("inf"))
    assert status == ("packed" if room * layout.unit >= least else "infeasible")
    if bases is not None:
        assert overlaps(blocks, [b * layout.unit for b in bases], least + more) == []


def test_the_search_proves_what_the_load_alone_does_not() -> None:
    """Blocks that change their size, at the least capacity that their load allows."""
    pytest.importorskip("ortools")
    draw = random.Random(0)
    statuses = []
    for _ in range(40):
        blocks = []
        for _ in range(5):
            starts = [draw.randrange(5) for _ in range(3)]
            sizes = [draw.randint(1, 6) for _ in range(3)]
            changes = zip(starts, sizes, strict=True)
            blocks.append(Block(tuple(Part(s, s + draw.randint(1, 3), n) for s, n in changes)))
        layout = Layout.of(blocks)
        status, _, _ = offsets_search.search(layout, layout.bound, deadline=float("inf"))
        assert status == offsets_solver.solve(layout, layout.bound, seconds=10)[0]
        statuses.append(status)
    assert min(statuses.count("packed"), statuses.count("infeasible")) >= 3


@given(st.lists(simple_blocks, max_size=6))
@settings(deadline=None, max_examples=60)
def test_the_smallest_packing_is_proven(blocks: list[Block]) -> None:
    packing = smallest(blocks, seconds=10)
    assert packing.offsets is not None
    assert overlaps(blocks, packing.offsets, packing.peak) == []
    assert packing.peak == packing.bound == least_peak(blocks)


@pytest.mark.parametrize("solver", [True, False])
@given(st.lists(any_blocks, min_size=1, max_size=4), st.integers(1, 10))
@settings(few, max_examples=40)
def test_blocks_of_several_parts(solver: bool, blocks: list[Block], capacity: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if not solver:
            patch.setattr(offsets_solver, "available", lambda: False)
            patch.setattr(offsets, "CLIMB_STEPS", 50)
        else:
            pytest.importorskip("ortools")
        packing = pack(blocks, capacity, seconds=10 if solver else 0.05)
    if packing.offsets is not None:
        assert packing.status == "packed"
        assert overlaps(blocks, packing.offsets, capacity) == []
        assert packing.peak <= capacity
    elif solver or packing.status == "infeasible":
        assert packing.status == "infeasible"
        assert not packable(blocks, capacity)


growing = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=3
).map(lambda each: Block(tuple(Part(lower, lower + length, size) for lower, length, size in each)))


@given(st.lists(growing, min_size=1, max_size=4), st.integers(1, 10))
@settings(deadline=None, max_examples=100)
def test_the_search_is_complete_for_blocks_without_overhangs(
    blocks: list[Block], capacity: int
) -> None:
    layout = Layout.of(blocks)
    assert layout.ordered
    room = capacity // layout.unit
    status, bases, _ = offsets_search.search(layout, room, deadline=float("inf"))
    fits = all(b.height <= capacity for b in blocks) and packable(blocks, capacity)
    assert status == ("packed" if fits else "infeasible")
    if bases is not None:
        assert overlaps(blocks, [b * layout.unit for b in bases], capacity) == []


@pytest.mark.parametrize("seed", range(4))
def test_what_was_cut_from_a_full_rectangle_is_packed(seed: int) -> None:
    blocks = sliced(seed, blocks=30, capacity=64, times=20)
    packing = pack(blocks, 64, seconds=20)
    assert packing.status == "packed"
    assert packing.offsets is not None
    assert overlaps(blocks, packing.offsets, 64) == []
    assert packing.peak == packing.bound == 64


@pytest.mark.parametrize("name", ["A", "C", "E", "F", "G", "H"])
def test_hard_instances_are_packed_by_the_search_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offsets_solver, "available", lambda: False)
    blocks = read(DATA / f"{name}.{MIB}.csv")
    packing = pack(blocks, MIB, seconds=20)
    assert packing.status == "packed"
    assert packing.offsets is not None
    assert overlaps(blocks, packing.offsets, MIB) == []
    assert packing.method.startswith("search")
    assert greedy(blocks).peak > 1.2 * MIB


def test_a_hill_climb_is_better_than_greedy_and_no_better_than_the_bound() -> None:
    blocks = read(DATA / f"A.{MIB}.csv")
    climbed, largest_first = hill_climb(blocks, iterations=60), greedy(blocks)
    for packing in (climbed, largest_first):
        assert packing.offsets is not None
        assert overlaps(blocks, packing.offsets, packing.peak) == []
        assert packing.peak > packing.bound
    assert climbed.peak < largest_first.peak


def test_runs_are_reproducible() -> None:
    blocks = read(DATA / f"E.{MIB}.csv")
    assert pack(blocks, MIB, seconds=20).offsets == pack(blocks, MIB, seconds=20).offsets


def test_without_time_nothing_is_called_infeasible() -> None:
    blocks = read(DATA / f"A.{MIB}.csv")
    packing = pack(blocks, MIB, seconds=0)
    assert (packing.status, packing.offsets, packing.peak) == ("unknown", None, 0)
    assert packing.bound == MIB
    assert smallest(blocks, seconds=0).status == "packed"


def test_too_little_capacity_is_told_at_once() -> None:
    packing = pack(simple((0, 2, 40), (1, 3, 24)), 60, seconds=0)
    assert (packing.status, packing.bound, packing.method) == ("infeasible", 64, "load")


def test_a_gap_that_cannot_be_avoided_is_proven() -> None:
    """Loads of 4 everywhere, but the block of 2 in the middle has a wrong neighbour on one side."""
    blocks = simple((0, 2, 1), (0, 1, 2), (0, 3, 1), (1, 3, 2), (2, 3, 1))
    assert pack(blocks, 4, seconds=5).status == "packed"
    blocks = simple((0, 4, 2), (0, 2, 1), (0, 1, 1), (1, 3, 1), (2, 4, 1), (3, 4, 1))
    assert max(Layout.of(blocks).loads) == 4
    least = least_peak(blocks)
    assert pack(blocks, least - 1, seconds=5).status == "infeasible"
    assert pack(blocks, least, seconds=5).status == "packed"


def test_parts_that_change_hands_in_place_count_once() -> None:
    """In place: two lifetimes at one address that meet, and a concatenation's two halves."""
    in_place = Block((Part(0, 3, 8), Part(2, 5, 8)))
    halves = Block((Part(5, 8, 4), Part(6, 8, 4, 4), Part(7, 9, 8)))
    beside = Block((Part(0, 9, 4),))
    packing = pack([in_place, halves, beside], 12, seconds=5)
    assert packing.status == "packed"
    assert packing.bound == 12


def test_nothing_to_pack() -> None:
    assert pack([], 0, seconds=1).offsets == ()
    assert smallest([], seconds=1).peak == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: Part(3, 3, 1),
        lambda: Part(0, 1, 0),
        lambda: Part(0, 1, 1, -1),
        lambda: Block(()),
    ],
)
def test_buffers_that_cannot_be(make: object) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=r"block|buffer"):
        make()
