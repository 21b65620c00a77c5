"""The selector's whole frontier by Pareto labels, where few decisions are open at a time.

Of each state that decisions leave open (`compress.passes.states`), only the labels (latency,
distortion) are kept that no other one beats in both, and that may still become points of the
frontier (`compress.passes.supported`). The labels after the last layer are the frontier: every
budget is a lookup in it. Where too many states are open, or too many labels, the problem is left to
the integer program (`compress.passes.select`), which solves for one budget at a time.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from compress.passes.pareto import ROUNDING, Floats, Integers, undominated, undominated_within
from compress.passes.select import Problem, Selection, evaluate_choice, pareto
from compress.passes.states import NOTHING, Arcs, state_graph
from compress.passes.supported import Triangles, choices_of, find_supported, find_triangles

MOST_STATES = 2_000
MOST_LABELS = 100_000
"""After any layer. Beyond either, the integer program is the better way."""

MOST_SIZED_LABELS = 30_000
"""The same for labels with a size, which are sorted out one by one."""


@dataclasses.dataclass(frozen=True)
class _Labels:
    """Labels of all states after one layer, state after state: (n,) each.

    `previous` holds the label that each continues, `arcs` what was decided.
    """

    latencies: Floats
    distortions: Floats
    sizes: Floats
    previous: Integers
    arcs: Integers

    def take(self, indices: Integers) -> _Labels:
        fields = dataclasses.fields(self)
        return _Labels(*(getattr(self, field.name)[indices] for field in fields))


_Keep = Callable[[int, int, _Labels], _Labels]
"""(layer, state after it, labels that arrive there) -> those of them that stay."""


def frontier_by_labels(
    problem: Problem,
    *,
    max_bytes: float = math.inf,
    max_states: int = MOST_STATES,
    max_labels: int | None = None,
) -> list[Selection] | None:
    """Every latency-distortion trade-off, fastest first.

    No choice within `max_bytes` beats any of them in both; all are "optimal" for their latency and
    for their distortion. The seconds of the run are divided among them.

    Args:
        max_bytes: if it can bind at all, sizes become a third figure of the labels, which takes
            longer.
        max_states, max_labels: after any layer.

    Returns:
        Empty if there is no choice within `max_bytes`. None beyond `max_states` or `max_labels`.
    """
    started = time.perf_counter()
    graph = state_graph(problem, max_states)
    if graph is None:
        return None
    if not problem.options:
        return _selections(problem, [[]] if problem.fixed_bytes <= max_bytes else [], started)
    room = max_bytes - problem.fixed_bytes
    shares = _shares(problem)
    # shares round: one byte is more than they can be wrong by
    sized = sum(most for _, most in shares) + 1 > room
    if sized:
        keep, most = _within(graph, shares, math.floor(room)), MOST_SIZED_LABELS
        history = _all_labels(graph, keep, max_labels or most)
    elif graph:
        keep, most = _of_use(find_triangles(graph, find_supported(graph))), MOST_LABELS
        history = _all_labels(graph, keep, max_labels or most)
    else:
        history = []
    if history is None:
        return None
    return _selections(problem, _choices(graph, history), started)


def hull_by_labels(problem: Problem, *, max_states: int = MOST_STATES) -> list[Selection] | None:
    """The trade-offs on the lower convex hull of the latency-distortion frontier, fastest first.

    Each is "optimal" for its own latency and for its own distortion. There may be better ones in
    between for limits in between, but finding these takes a fraction of a second for hundreds of
    layers, however many labels the whole frontier has.

    Returns:
        Empty if there is no choice. None beyond `max_states` after any layer.
    """
    started = time.perf_counter()
    graph = state_graph(problem, max_states)
    if graph is None:
        return None
    if not graph:
        return [] if problem.options else _selections(problem, [[]], started)
    return _selections(problem, choices_of(graph, find_supported(graph)).tolist(), started)


def _all_labels(graph: Sequence[Arcs], keep: _Keep, max_labels: int) -> list[_Labels] | None:
    """After each layer; None beyond `max_labels`."""
    labels, slices = _begin()
    history: list[_Labels] = []
    for number, arcs in enumerate(graph):
        merged: list[_Labels] = []
        following: list[slice] = []
        count = 0
        for state, into in enumerate(_by_target(arcs)):
            found = keep(number, state, _arrivals(labels, slices, arcs, into))
            merged.append(found)
            following.append(slice(count, count + len(found.arcs)))
            count += len(found.arcs)
            if count > max_labels:
                return None
        labels, slices = _concatenate(merged), following
        history.append(labels)
    return history


def _of_use(triangles: Triangles) -> _Keep:
    """Keeps labels that no other one beats and that may still become points of the frontier."""

    def keep(number: int, state: int, found: _Labels) -> _Labels:
        found = found.take(undominated(found.latencies, found.distortions, ROUNDING))
        useful = triangles.of_use(number, state, found.latencies, found.distortions)
        return found.take(np.flatnonzero(useful))

    return keep


def _within(graph: Sequence[Arcs], shares: Sequence[tuple[float, float]], room: int) -> _Keep:
    """Keeps labels that are within `room` together with the least of what remains, and that no
    other one beats in size as well."""

    def keep(number: int, state: int, found: _Labels) -> _Labels:
        rest = enumerate(shares[number + 1 :], start=number + 1)
        ahead = graph[number].ahead[state]
        least = sum(share for n, (share, _) in rest if not ahead >> n & 1)
        # half a byte is more than shares can be wrong by
        found = found.take(np.flatnonzero(found.sizes <= room - least + 0.5))
        return found.take(
            undominated_within(found.latencies, found.distortions, found.sizes, ROUNDING)
        )

    return keep


def _begin() -> tuple[_Labels, list[slice]]:
    """The only label before the first layer, and where each state's labels are."""
    zero, none = np.zeros(1), np.zeros(1, dtype=np.int64)
    return _Labels(zero, zero, zero, none, none), [slice(0, 1)]


def _by_target(arcs: Arcs) -> list[Integers]:
    """By target state, the arcs that lead there."""
    order = np.argsort(arcs.targets, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(arcs.targets[order])) + 1)


def _arrivals(labels: _Labels, slices: Sequence[slice], arcs: Arcs, into: Integers) -> _Labels:
    """The labels of one state before any is left out."""
    where = [slices[source] for source in arcs.sources[into].tolist()]
    counts = [each.stop - each.start for each in where]
    own = np.repeat(into, counts)
    previous = np.concatenate([np.arange(each.start, each.stop) for each in where])
    return _Labels(
        labels.latencies[previous] + arcs.latencies[own],
        labels.distortions[previous] + arcs.distortions[own],
        labels.sizes[previous] + arcs.sizes[own],
        previous,
        own,
    )


def _concatenate(parts: Sequence[_Labels]) -> _Labels:
    fields = dataclasses.fields(_Labels)
    return _Labels(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields))


def _shares(problem: Problem) -> list[tuple[float, float]]:
    """Per layer, the least and the most bytes that an option spends on it, if those that cover
    several layers spend the same on each. No choice needs less or more than the sums."""
    shares: dict[str, tuple[float, float]] = {}
    for option in problem.options:
        share = option.bytes / len(option.layers)
        for layer in option.layers:
            least, most = shares.get(layer, (share, share))
            shares[layer] = min(least, share), max(most, share)
    return [shares[layer] for layer in problem.layers()]


def _choices(graph: Sequence[Arcs], history: Sequence[_Labels]) -> list[list[int]]:
    """The options, or NOTHING, of each label after the last layer."""
    if not history:
        return []
    # labels that only a small size has kept are no trade-offs of latency and distortion
    where = undominated(history[-1].latencies, history[-1].distortions, ROUNDING)
    columns = []
    for arcs, labels in zip(reversed(graph), reversed(history), strict=True):
        columns.append(arcs.options[labels.arcs[where]])
        where = labels.previous[where]
    choices: list[list[int]] = np.array(columns).T.tolist()
    return choices


def _selections(
    problem: Problem, choices: Sequence[Sequence[int]], started: float
) -> list[Selection]:
    """Choices evaluated from the definition, those on the frontier."""
    found = []
    for row in choices:
        chosen = tuple(sorted(option for option in row if option != NOTHING))
        latency, size, distortion = evaluate_choice(problem, chosen)
        found.append(Selection(chosen, latency, size, distortion, latency, "optimal", 0.0))
    seconds = (time.perf_counter() - started) / max(len(found), 1)
    return pareto([dataclasses.replace(selection, seconds=seconds) for selection in found])
