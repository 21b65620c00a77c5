"""The network as it was, whose answers are what others learn."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.execute.session import Runner, with_outputs
from compress.passes.recover.pool import Batch, Pool

Array = npt.NDArray[Any]

REMEMBERED_BYTES = 1 << 30
"""Answers of all samples of a pool are kept if they take less, and computed once."""


class Original:
    """Values of a network for batches of a pool."""

    def __init__(
        self, model: ir.Model, pool: Pool, *, inner: Sequence[str] = (), threads: int = 1
    ) -> None:
        """Opens the network in onnxruntime.

        Args:
            inner: values besides the outputs that are asked for, too.
            threads: of the runtime.
        """
        self.model, self.pool, self.threads = model, pool, threads
        self.outputs = tuple(str(v.name) for v in model.graph.outputs)
        self.names = self._with(inner)
        self._memory = _Memory(pool)

    def _with(self, inner: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.outputs, *inner)))

    @functools.cached_property
    def _runner(self) -> Runner:
        return Runner(with_outputs(self.model, self.names), threads=self.threads)

    def with_inner(self, inner: Sequence[str]) -> Original:
        """The same network, asked for these values besides its outputs; it remembers together with
        this one."""
        names = self._with(inner)
        if names == self.names:
            return self
        other = copy.copy(self)
        other.names = names
        other.__dict__.pop("_runner", None)
        return other

    def __call__(self, batch: Batch) -> dict[str, Array]:
        """All values for a batch; each sample is computed once if there is room to remember."""
        known = self._memory.recall(batch, self.names)
        if known is not None:
            return known
        found = self._runner(self.pool.feeds(batch))
        self._memory.keep(batch, found)
        return found


class _Memory:
    """Values of samples by name, as far as there is room and they have one row a sample."""

    def __init__(self, pool: Pool) -> None:
        self._kept: dict[str, Array] = {}
        self._known: dict[str, npt.NDArray[np.bool_]] = {}
        self._samples = len(pool)
        self._refused: set[str] = set()
        self._remember = pool.joinable and len(pool.groups) == 1

    def recall(self, batch: Batch, names: Sequence[str]) -> dict[str, Array] | None:
        """None if any of them is not known for all of the samples."""
        numbers = batch.numbers
        if not all(name in self._known and self._known[name][numbers].all() for name in names):
            return None
        return {name: self._kept[name][numbers] for name in names}

    def keep(self, batch: Batch, found: Mapping[str, Array]) -> None:
        for name, array in found.items():
            if self._remember and name not in self._refused and self._fits(batch, name, array):
                self._kept[name][batch.numbers] = array
                self._known[name][batch.numbers] = True

    def _fits(self, batch: Batch, name: str, array: Array) -> bool:
        """Whether there is a place for the value; there never is again if there is none now."""
        if name not in self._kept:
            rows = array.ndim > 0 and len(array) == len(batch)
            held = sum(kept.nbytes for kept in self._kept.values())
            if rows and held + array.nbytes / len(batch) * self._samples <= REMEMBERED_BYTES:
                self._kept[name] = np.zeros((self._samples, *array.shape[1:]), array.dtype)
                self._known[name] = np.zeros(self._samples, bool)
        if name in self._kept and self._kept[name].shape[1:] == array.shape[1:]:
            return True
        self._kept.pop(name, None)
        self._known.pop(name, None)
        self._refused.add(name)
        return False
