"""The network as it was, whose answers are what others learn."""

from __future__ import annotations

from collections.abc import Sequence
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
        more = [name for name in inner if name not in self.outputs]
        self._runner = Runner(with_outputs(model, [*self.outputs, *more]), threads=threads)
        self._kept: dict[str, Array] = {}
        self._known = np.zeros(len(pool), bool)
        self._remember = pool.joinable and len(pool.groups) == 1

    def with_inner(self, inner: Sequence[str]) -> Original:
        """The same network, asked for more; itself if there is nothing more."""
        if not inner:
            return self
        return Original(self.model, self.pool, inner=inner, threads=self.threads)

    def __call__(self, batch: Batch) -> dict[str, Array]:
        """All values for a batch; each sample is computed once if there is room to remember."""
        if self._remember and self._known[batch.numbers].all():
            return {name: kept[batch.numbers] for name, kept in self._kept.items()}
        found = self._runner(self.pool.feeds(batch))
        if self._remember:
            self._keep(batch, found)
        return found

    def _keep(self, batch: Batch, found: dict[str, Array]) -> None:
        if not self._kept:
            rows = all(len(array) == len(batch) for array in found.values() if array.ndim)
            size = sum(array.nbytes for array in found.values()) / len(batch) * len(self._known)
            if not rows or size > REMEMBERED_BYTES or any(not a.ndim for a in found.values()):
                self._remember = False
                return
            self._kept = {
                name: np.zeros((len(self._known), *array.shape[1:]), array.dtype)
                for name, array in found.items()
            }
        if any(self._kept[n].shape[1:] != a.shape[1:] for n, a in found.items()):
            self._remember = False
            return
        for name, array in found.items():
            self._kept[name][batch.numbers] = array
        self._known[batch.numbers] = True
