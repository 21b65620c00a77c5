"""Small selection problems, and their best choices by trying every one."""

from __future__ import annotations

import math
from collections.abc import Iterator

from hypothesis import strategies as st

from compress.passes.base import Option
from compress.passes.select import Boundary, Problem, evaluate_choice

MOST_CHOICES = 3000
"""Problems with more choices than this are not drawn."""

QUARTERS = st.integers(0, 400).map(lambda n: n / 4)
BYTES = st.integers(0, 5_000_000)
DYADIC = st.integers(0, 64).map(lambda n: n / 2**12)


def choices(problem: Problem) -> Iterator[tuple[int, ...]]:
    """Every choice that covers each layer exactly once."""
    layers = problem.layers()

    def extend(chosen: tuple[int, ...], covered: frozenset[str]) -> Iterator[tuple[int, ...]]:
        missing = next((layer for layer in layers if layer not in covered), None)
        if missing is None:
            yield tuple(sorted(chosen))
            return
        for index, option in enumerate(problem.options):
            if missing in option.layers and not covered.intersection(option.layers):
                yield from extend((*chosen, index), covered.union(option.layers))

    return extend((), frozenset())


def figures(problem: Problem) -> list[tuple[float, int, float]]:
    """(latency, bytes, distortion) of every choice."""
    return [evaluate_choice(problem, choice) for choice in choices(problem)]


def best(
    found: list[tuple[float, int, float]],
    objective: str,
    *,
    max_distortion: float = math.inf,
    max_latency_us: float = math.inf,
    max_bytes: float = math.inf,
) -> float | None:
    """The least value of the objective under the limits, None if no choice meets them."""
    index = {"latency": 0, "size": 1, "distortion": 2}[objective]
    values = [
        f[index]
        for f in found
        if f[0] <= max_latency_us and f[1] <= max_bytes and f[2] <= max_distortion
    ]
    return min(values, default=None)


def _subset(draw: st.DrawFn, names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(name for name in names if draw(st.booleans()))


@st.composite
def problems(
    draw: st.DrawFn,
    *,
    latencies: st.SearchStrategy[float] = QUARTERS,
    sizes: st.SearchStrategy[int] = BYTES,
    distortions: st.SearchStrategy[float] = DYADIC,
) -> Problem:
    """3 to 7 layers that read one or two earlier values, options over up to three layers each.

    The figures are dyadic by default, so that sums and comparisons with limits are exact.
    """
    count = draw(st.integers(3, 7))
    reads = []
    for position in range(count):
        earlier = [f"v{i}" for i in range(position + 1)]
        reads.append(tuple(draw(st.lists(st.sampled_from(earlier[-3:]), min_size=1, max_size=2))))
    options: list[Option] = []

    def propose(first: int, last: int, form: str) -> None:
        covered = tuple(f"layer{i}" for i in range(first, last + 1))
        outside = tuple(
            dict.fromkeys(
                name
                for i in range(first, last + 1)
                for name in reads[i]
                if not first < int(name[1:]) <= last
            )
        )
        uint8 = _subset(draw, outside) if form != "float" else frozenset()
        writes = frozenset({f"v{last + 1}"}) if form != "float" and draw(st.booleans()) else ()
        options.append(
            Option(
                "float" if form == "float" else "quantize",
                form,
                covered,
                draw(latencies),
                draw(sizes),
                0.0 if form == "float" else draw(distortions),
                reads_uint8=uint8,
                reads_float=frozenset(outside) - uint8,
                writes_uint8=frozenset(writes),
            )
        )

    total = 1
    for position in range(count):
        forms = ["float", "int8", "int8-dynamic", "int8-block"][: draw(st.integers(1, 4))]
        if total * len(forms) > MOST_CHOICES // 4:
            forms = forms[:1]
        total *= len(forms)
        # sometimes there is no float form at all
        for form in forms if draw(st.integers(0, 9)) else [f"{f}'" for f in forms]:
            propose(position, position, form)
    for _ in range(draw(st.integers(0, 2))):
        first = draw(st.integers(0, count - 2))
        propose(first, draw(st.integers(first + 1, min(first + 2, count - 1))), "merged")
    boundaries = {
        name: Boundary(
            name,
            quantize_us=draw(latencies),
            dequantize_us=draw(latencies),
            distortion=draw(distortions),
            is_output=draw(st.booleans()),
        )
        for name in (f"v{i}" for i in range(count + 1))
        if draw(st.integers(0, 4))
    }
    return Problem(tuple(options), boundaries, draw(latencies), draw(sizes))
