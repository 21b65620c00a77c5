"""Which weights stay: compared with all choices."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from compress.passes.schedule.tiling.weights import WeightItem, choose_weights

ITEMS = st.lists(
    st.builds(
        lambda size, share, runs: WeightItem(size, size, size * share // 4, runs),
        st.integers(0, 40),
        st.integers(1, 4),
        st.integers(1, 5),
    ),
    min_size=1,
    max_size=6,
).map(tuple)


@given(ITEMS, st.integers(0, 120))
def test_no_choice_loads_less(items: tuple[WeightItem, ...], room: int) -> None:
    costs = []
    for pinned in itertools.product((False, True), repeat=len(items)):
        pairs = list(zip(items, pinned, strict=True))
        stream = max((item.stream_bytes for item, stays in pairs if not stays), default=0)
        if stream + sum(item.bytes for item, stays in pairs if stays) <= room:
            costs.append(sum(item.reloaded for item, stays in pairs if not stays))
    choice = choose_weights(items, room)
    if choice is None:
        assert not costs
        return
    assert choice.reloaded == min(costs)
    assert choice.bytes <= room
    pairs = list(zip(items, choice.pinned, strict=True))
    assert choice.pinned_bytes == sum(item.bytes for item, stays in pairs if stays)
    assert choice.reloaded == sum(item.reloaded for item, stays in pairs if not stays)


def test_sixteen_operators_take_no_time() -> None:
    items = tuple(WeightItem(1000 + 37 * n * n, 1000 + 37 * n * n, 100, 7) for n in range(16))
    choice = choose_weights(items, 30_000)
    assert choice is not None
    assert 29_900 < choice.bytes <= 30_000
