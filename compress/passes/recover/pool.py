"""Samples for training: all in memory, drawn in batches of equal shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Batch = dict[str, Array]

MOST_BYTES = 2 << 30
"""Samples beyond this many bytes are left out: training draws from the others."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """Batches of samples that were joined by shape, and what a draw of them is.

    Attributes:
        groups: arrays by input name, the first axis counts the samples; one group a shape.
        joinable: whether samples of a group may be joined to larger batches than one.
        fingerprint: content hash.
    """

    groups: tuple[Batch, ...]
    joinable: bool
    fingerprint: str

    @property
    def count(self) -> int:
        return sum(_length(group) for group in self.groups)

    def split(self, share: float, seed: int) -> tuple[Pool, Pool]:
        """(training, held back): the same ones for the same seed; at least one sample each."""
        generator = np.random.default_rng([seed, 1])
        kept: list[Batch] = []
        held: list[Batch] = []
        for group in self.groups:
            order = generator.permutation(_length(group))
            size = round(share * len(order))
            if len(self.groups) == 1:
                size = min(max(1, size), max(1, len(order) - 1))
            first, rest = order[:size], order[size:]
            if len(order) == 1 and len(self.groups) == 1:
                first = rest = order
            held += [_pick(group, first)] if len(first) else []
            kept += [_pick(group, rest)] if len(rest) else []
        if not held:
            held = [_pick(kept[0], np.arange(1))]
        if not kept:
            kept = held
        return (
            dataclasses.replace(self, groups=tuple(kept)),
            dataclasses.replace(self, groups=tuple(held)),
        )

    def batches(self, size: int) -> Iterator[Batch]:
        """Every sample once, in order."""
        step = size if self.joinable else 1
        for group in self.groups:
            for start in range(0, _length(group), step):
                yield _pick(group, slice(start, start + step))

    def draws(self, size: int, seed: int, *, start: int = 0) -> Iterator[Batch]:
        """Endless shuffled batches; `start` leaves out as many, without reading them."""
        step = size if self.joinable else 1
        epoch = position = 0
        while True:
            order = self._epoch(step, seed, epoch)
            if position + len(order) <= start:
                position, epoch = position + len(order), epoch + 1
                continue
            for number, places in order[start - position :]:
                yield _pick(self.groups[number], places)
            position = start = position + len(order)
            epoch += 1

    def steps(self, size: int) -> int:
        """Batches in an epoch."""
        return len(self._epoch(size if self.joinable else 1, 0, 0))

    def _epoch(self, step: int, seed: int, epoch: int) -> list[tuple[int, npt.NDArray[np.int64]]]:
        generator = np.random.default_rng([seed, 2, epoch])
        drawn = []
        for number, group in enumerate(self.groups):
            order = generator.permutation(_length(group))
            drawn += [(number, order[i : i + step]) for i in range(0, len(order), step)]
        return [drawn[i] for i in generator.permutation(len(drawn))]


def make_pool(samples: Iterable[Mapping[str, Array]], *, joinable: bool, fingerprint: str) -> Pool:
    """Joins samples (batch axis first) by shape."""
    waiting: dict[object, list[Mapping[str, Array]]] = {}
    size = 0
    for sample in samples:
        size += sum(array.nbytes for array in sample.values())
        if size > MOST_BYTES:
            break
        waiting.setdefault(tuple(a.shape for a in sample.values()), []).append(sample)
    groups = []
    for group in waiting.values():
        if joinable:
            groups.append({k: np.concatenate([s[k] for s in group]) for k in group[0]})
        else:
            groups.append({k: np.stack([s[k] for s in group]) for k in group[0]})
    return Pool(tuple(groups), joinable, fingerprint)


def feeds_of(batch: Batch, joinable: bool) -> Batch:
    """The batch as the network takes it."""
    return batch if joinable else {name: array[0] for name, array in batch.items()}


def _length(group: Batch) -> int:
    return len(next(iter(group.values())))


def _pick(group: Batch, places: Any) -> Batch:
    return {name: array[places] for name, array in group.items()}
