"""Samples for training: all in memory, drawn in batches of equal shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MOST_BYTES = 2 << 30
"""Samples beyond this many bytes are left out: training draws from the others."""


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Samples of equal shapes.

    Attributes:
        arrays: by input name; the first axis counts the samples.
        numbers: of the samples in the whole pool, by which what is known of them is remembered.
    """

    arrays: dict[str, Array]
    numbers: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    def pick(self, places: Any) -> Batch:
        picked = {name: array[places] for name, array in self.arrays.items()}
        return Batch(picked, self.numbers[places])


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """Samples joined by shape, and how batches are drawn from them.

    Attributes:
        groups: one for each combination of input shapes.
        joinable: whether a network takes more than one sample of a group at once.
        fingerprint: content hash.
        labels: right class of each sample, by its number; None where they are not to be used.
    """

    groups: tuple[Batch, ...]
    joinable: bool
    fingerprint: str
    labels: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return sum(map(len, self.groups))

    def feeds(self, batch: Batch) -> dict[str, Array]:
        """The batch as the network takes it."""
        if self.joinable:
            return batch.arrays
        return {name: array[0] for name, array in batch.arrays.items()}

    def split(self, share: float, seed: int) -> tuple[Pool, Pool]:
        """(training, held back): the same ones for the same seed.

        A single sample is in both.
        """
        generator = np.random.default_rng([seed, 1])
        order = generator.permutation(len(self))
        size = min(max(1, round(share * len(order))), max(1, len(order) - 1))
        chosen = np.zeros(len(self), bool)
        chosen[order[:size]] = True
        kept, held, start = [], [], 0
        for group in self.groups:
            own = chosen[start : start + len(group)]
            start += len(group)
            kept += [group.pick(~own)] if not own.all() else []
            held += [group.pick(own)] if own.any() else []
        return (
            dataclasses.replace(self, groups=tuple(kept or held)),
            dataclasses.replace(self, groups=tuple(held)),
        )

    def batches(self, size: int) -> Iterator[Batch]:
        """Every sample once, in order."""
        step = size if self.joinable else 1
        for group in self.groups:
            for start in range(0, len(group), step):
                yield group.pick(slice(start, start + step))

    def draws(self, size: int, seed: int, *, start: int = 0) -> Iterator[Batch]:
        """Endless shuffled batches; `start` leaves out as many, without reading them."""
        position = epoch = 0
        while True:
            order = self._epoch(size, seed, epoch)
            for number, places in order[max(0, start - position) :]:
                yield self.groups[number].pick(places)
            position, epoch = position + len(order), epoch + 1

    def steps(self, size: int) -> int:
        """Batches in an epoch."""
        return len(self._epoch(size, 0, 0))

    def _epoch(self, size: int, seed: int, epoch: int) -> list[tuple[int, npt.NDArray[np.int64]]]:
        generator = np.random.default_rng([seed, 2, epoch])
        step = size if self.joinable else 1
        drawn = []
        for number, group in enumerate(self.groups):
            order = generator.permutation(len(group))
            drawn += [(number, order[i : i + step]) for i in range(0, len(order), step)]
        return [drawn[i] for i in generator.permutation(len(drawn))]


def make_pool(
    samples: Iterable[Mapping[str, Array]],
    *,
    joinable: bool,
    fingerprint: str,
    labels: npt.NDArray[np.int64] | None = None,
) -> Pool:
    """Joins samples by shape.

    Args:
        labels: of the samples in their order, if they are to be learned.
        joinable: whether the batch axis is free: then samples lie behind one another on it, else
            on a new axis, and are drawn one by one.
    """
    waiting: dict[object, list[Mapping[str, Array]]] = {}
    places: dict[object, list[int]] = {}
    size = 0
    for place, sample in enumerate(samples):
        size += sum(array.nbytes for array in sample.values())
        if size > MOST_BYTES and waiting:
            break
        shapes = tuple(a.shape for a in sample.values())
        waiting.setdefault(shapes, []).append(sample)
        places.setdefault(shapes, []).append(place)
    groups, start = [], 0
    for group in waiting.values():
        join = np.concatenate if joinable else np.stack
        arrays = {name: join([s[name] for s in group]) for name in group[0]}
        count = len(next(iter(arrays.values())))
        groups.append(Batch(arrays, np.arange(start, start + count)))
        start += count
    order = [place for group in places.values() for place in group]
    return Pool(tuple(groups), joinable, fingerprint, None if labels is None else labels[order])
