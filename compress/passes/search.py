"""Which candidates of a frontier to build: decisions only, the trying is done by callbacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from compress.passes.select import Selection

T = TypeVar("T")


def fastest_acceptable(
    frontier: Sequence[Selection], acceptable: Callable[[Selection], bool]
) -> Selection | None:
    """The fastest selection whose measured quality is within the budget, by bisection.

    Distortion falls along the frontier, and quality follows it closely enough for bisection; the
    fastest is tried first because often it is good enough. Nothing is returned that was not tried.

    Args:
        frontier: fastest first.
        acceptable: builds and evaluates a selection.
    """
    if not frontier:
        return None
    if acceptable(frontier[0]):
        return frontier[0]
    low, high = 0, len(frontier)
    found: Selection | None = None
    while high - low > 1:
        middle = (low + high) // 2
        if acceptable(frontier[middle]):
            found, high = frontier[middle], middle
        else:
            low = middle
    return found


def bisected(order: Sequence[T], acceptable: Callable[[T], bool | None], tries: int) -> T | None:
    """The first acceptable one of `order` as far as so many tries tell; from the middle outwards.

    Where a try is dear, the middle tells most. Acceptability is taken to grow along the order;
    nothing is returned that was not tried.

    Args:
        acceptable: None for what is not worth a try and no better than what comes after it.
        tries: answers that are yes or no.
    """
    low, high = -1, len(order)
    found: T | None = None
    while tries > 0 and high - low > 1:
        middle = (low + high) // 2
        answer = acceptable(order[middle])
        if answer is None:
            high = middle
            continue
        tries -= 1
        if answer:
            found, high = order[middle], middle
        else:
            low = middle
    return found


def most_faithful_within(
    frontier: Sequence[Selection], limit_us: float, fast_enough: Callable[[Selection], bool]
) -> Selection | None:
    """The least distorted selection that meets a latency limit when it is measured.

    Selections that miss it by prediction are not tried; of the others the most faithful come first.

    Args:
        limit_us: on the predictions' scale.
        fast_enough: builds and times a selection.
    """
    fitting = [s for s in frontier if s.latency_us <= limit_us]
    for selection in sorted(fitting, key=lambda s: s.distortion):
        if fast_enough(selection):
            return selection
    return None
