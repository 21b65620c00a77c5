"""Which channels to remove: greedily those that reconstruction makes up for best."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

RIDGE = 1e-3
"""Share of the mean variance that is added to every input's, so that none is trusted blindly."""


PENDING = 128
"""Columns of updates that are put off, so that large products take the place of many small ones."""


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """The part of one consumer that reads a coupling group's channels.

    Attributes:
        weight: (d, outputs) float64: its whole input, one column per output.
        covariance: (d, d) float64, of its input; second moments if it has no bias to shift.
        rows: (units, rows per unit): which of the d inputs go with a unit.
        energy: what errors are taken as a share of; that of the outputs here if None.
    """

    weight: Array
    covariance: Array
    rows: Array
    energy: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Removal:
    """Units in the order in which they are removed.

    Attributes:
        order: (removed,) int64, the first one goes first.
        error: (removed + 1,) float64: after n removals, the share of the consumers' output energy
            that is lost if their weights are solved anew, summed over consumers; error[0] = 0.
    """

    order: Array
    error: Array

    def kept(self, count: int, channels: int) -> list[int]:
        """The sorted units that are left when `count` of all `channels` units stay."""
        return sorted(set(range(channels)) - set(self.order[: channels - count].tolist()))


def output_energy(weight: Array, covariance: Array) -> float:
    """E|x W|^2, for (d, outputs) and (d, d)."""
    return float(np.sum(weight * (covariance @ weight)))


def regularised(covariance: Array, ridge: float = RIDGE) -> Array:
    """With `ridge` times the mean of the diagonal added to the diagonal; (d, d)."""
    mean = float(np.trace(covariance)) / len(covariance)
    return covariance + np.eye(len(covariance)) * (ridge * mean + 1e-12)


def removal_order(
    problems: Sequence[Problem],
    *,
    fewest: int = 1,
    at_once: int = 1,
    ridge: float = RIDGE,
) -> Removal:
    """Units by greedy backward elimination: always the one whose loss costs least.

    With the weights of what is left solved anew after every removal, removing the rows c costs
    tr(W_c^T ((H^-1)_cc)^-1 W_c), as in Optimal Brain Surgeon; ZipLM and OSSCAR use it for
    structures. Instead of W we carry A = W W^T, which the cost only depends on, so that a step
    takes O(d^2 rows) however many outputs there are.

    Args:
        problems: one per consumer (and group of its convolution), with equally many units.
        fewest: units that stay.
        at_once: units removed per step; more is faster and a little worse.
    """
    units = len(problems[0].rows)
    states = [_State(p, ridge) for p in problems]
    left = np.arange(units)
    order: list[int] = []
    error = [0.0]
    while len(left) > fewest:
        costs = np.sum([s.costs(left) for s in states], axis=0)
        count = min(at_once, len(left) - fewest)
        picked = left[np.argsort(costs, kind="stable")[:count]]
        paid = sum(s.remove(picked) for s in states)
        # several at once cost what they cost together; in between it is shared out
        error.extend([error[-1] + paid * (i + 1) / count for i in range(count)])
        order.extend(picked.tolist())
        left = np.setdiff1d(left, picked)
    return Removal(np.array(order, np.int64), np.maximum.accumulate(np.array(error)))


class _State:
    """P = H^-1 and A = W W^T of what is left of one problem.

    Both are kept as a matrix and a product that is still to be subtracted: P = P0 - G R and
    A = A0 - G Z - (G Z)^T, with G (d, m) and R, Z (m, d); their blocks on the diagonal are
    up to date.
    """

    def __init__(self, problem: Problem, ridge: float) -> None:
        self._rows = problem.rows
        self._inverse = np.linalg.inv(regularised(problem.covariance, ridge))
        self._outer = problem.weight @ problem.weight.T
        energy = problem.energy
        if energy is None:
            energy = output_energy(problem.weight, problem.covariance)
        self._scale = 1.0 / max(energy, 1e-30)
        self._pending: list[tuple[Array, Array, Array]] = []
        self._inverse_blocks = self._blocks(self._inverse)
        self._outer_blocks = self._blocks(self._outer)

    def _blocks(self, matrix: Array) -> Array:
        """(units, rows per unit, rows per unit): each unit's block of a (d, d) matrix."""
        return np.asarray(matrix[self._rows[:, :, None], self._rows[:, None, :]])

    def costs(self, left: Array) -> Array:
        """What removing each of the units alone costs."""
        blocks = np.linalg.inv(self._inverse_blocks[left])
        return np.asarray(np.einsum("uij,uji->u", blocks, self._outer_blocks[left]) * self._scale)

    def remove(self, picked: Array) -> float:
        """Takes units out, at the cost that is returned."""
        rows = self._rows[picked].reshape(-1)
        inverse, outer = self._inverse[rows], self._outer[rows]
        for gain, right, side in self._pending:
            inverse -= gain[rows] @ right
            outer -= gain[rows] @ side + side[:, rows].T @ gain.T
        block = np.linalg.inv(inverse[:, rows])
        cost = float(np.sum(block * outer[:, rows])) * self._scale
        gain = inverse.T @ block
        side = outer - 0.5 * outer[:, rows] @ gain.T
        self._pending.append((gain, inverse, side))
        parts, rights, sides = gain[self._rows], inverse[:, self._rows], side[:, self._rows]
        self._inverse_blocks -= np.einsum("uir,ruj->uij", parts, rights, optimize=True)
        change = np.einsum("uir,ruj->uij", parts, sides, optimize=True)
        self._outer_blocks -= change + change.transpose(0, 2, 1)
        if sum(g.shape[1] for g, _, _ in self._pending) >= PENDING:
            self._settle()
        return cost

    def _settle(self) -> None:
        gains = np.concatenate([g for g, _, _ in self._pending], axis=1)
        self._inverse -= gains @ np.concatenate([r for _, r, _ in self._pending])
        product = gains @ np.concatenate([z for _, _, z in self._pending])
        self._outer -= product
        self._outer -= product.T
        self._pending.clear()
