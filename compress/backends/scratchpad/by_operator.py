"""Networks of integers compared operator by operator: ties may be rounded either way, no more.

onnxruntime has several kernels for one operator and chooses by shape: a crop of one row can run in
another one than the whole. They add up floats in another order, so a value that lies halfway
between two levels may be rounded to either. One such element changes all that is computed from
it; the outputs of the network then say little about the plan. So each operator is compared on its
own, on the very inputs that it had.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.backends.scratchpad.operators import ROW_AXIS, submodel
from compress.execute.runtime import Array, Feeds, Session, session_options
from compress.graph.traversal import constant, is_op, static_shape
from compress.passes.schedule.extract import Extracted
from compress.passes.schedule.kernels import Kernel

TIE = 1e-3
"""How far from halfway between two levels a tie may lie, in levels. Sums of floats in another order
differ by about 1e-7 of their largest part, which is some thousand levels at most."""

MOST_TIES = 1e-4
"""Share of the integers of a network that may be rounded the other way. Ties among real sums are
rarer by far (one in some million elements was seen); a row that was read wrongly changes more, as
few tensors have thousands of rows."""

FLOATS = 1e-5
"""Largest difference of floats, relative to the largest magnitude of the tensor."""


class Recorder:
    """What operators wrote during an execution, put together from its stripes."""

    def __init__(self, extracted: Extracted) -> None:
        self.values = {str(value.name): value for value in extracted.values}
        self.arrays: dict[str, Array] = {}
        self.made: dict[str, npt.NDArray[np.bool_]] = {}
        """By tensor, whether there is each row of it; one that has no rows is row 0."""
        self.consistent = True
        """Whether what was computed twice was the same both times."""

    def __call__(self, tensor: str, rows: tuple[int, int] | None, array: Array) -> None:
        """Takes in rows (None: all) of what an operator computed."""
        shape = static_shape(self.values[tensor]) or ()
        by_rows = len(shape) == 4
        height = shape[ROW_AXIS] if by_rows else 1
        whole = self.arrays.setdefault(tensor, np.zeros(shape, array.dtype))
        made = self.made.setdefault(tensor, np.zeros(height, np.bool_))
        first, stop = rows or (0, height)
        place = whole[:, :, first:stop] if by_rows else whole
        known = made[first:stop]
        before, now = (place[:, :, known], array[:, :, known]) if by_rows else (place, array)
        if known.any() and before.tobytes() != now.tobytes():
            self.consistent = False
        place[...] = array.reshape(place.shape)
        known[...] = True


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How an execution compares with onnxruntime, operator by operator.

    Attributes:
        holds: all that differs are ties, and they are few.
        differing: integers that differ by one level.
    """

    holds: bool
    differing: int


def has_integers(extracted: Extracted) -> bool:
    """Whether operators of the network write quantized values."""
    return any(_quantization(kernel) is not None for kernel in extracted.kernels)


def compare_operators(
    extracted: Extracted, feeds: Feeds, found: Feeds, recorded: Recorder
) -> Agreement:
    """Whether an execution did what the network says, up to ties.

    1. The outputs are, bit by bit, what the operators that make them wrote.
    2. Each row that an operator wrote is what onnxruntime gives where it runs that operator as a
       whole on what the execution wrote to its inputs: integers are the same, or one level away
       where the value before rounding lies within `TIE` of halfway between the two; floats agree up
       to `FLOATS`.
    3. At most a share of `MOST_TIES` of all integers differ (or one of them, in small networks).

    Args:
        feeds: inputs of the network.
        found: outputs of the execution.
        recorded: what its operators wrote.
    """
    values: dict[str, Array] = {**feeds, **recorded.arrays}
    differing = compared = 0
    holds = recorded.consistent and _same_outputs(extracted, found, values, recorded)
    for kernel in extracted.kernels:
        if not holds:
            break
        names = [str(value.name) for value in kernel.outputs]
        if not all(name in recorded.arrays for name in names):
            return Agreement(holds=False, differing=differing)
        wanted = _run(kernel, extracted, values)
        for name in names:
            rows = recorded.made[name]
            ours, theirs = (_only(array, rows) for array in (values[name], wanted[name]))
            if ours.dtype.kind == "f":
                holds &= _close(ours, theirs)
                continue
            compared += ours.size
            wrong = ours != theirs
            if wrong.any():
                differing += int(wrong.sum())
                exact = _before_rounding(kernel, extracted, values)
                holds &= exact is not None and _ties(ours, theirs, _only(exact, rows), wrong)
    few = differing <= max(1, MOST_TIES * compared)
    return Agreement(holds and few, differing)


def _only(array: Array, rows: npt.NDArray[np.bool_]) -> Array:
    """The rows that there are."""
    return array if rows.all() else array[:, :, rows]


def _same_outputs(extracted: Extracted, found: Feeds, values: Feeds, recorded: Recorder) -> bool:
    for output in extracted.model.graph.outputs:
        name = str(output.name)
        wanted = constant(extracted.constants.get(name))
        if wanted is None:
            source = str(extracted.values[extracted.results[name]].name)
            if source not in values or not recorded.made.get(source, np.ones(1, np.bool_)).all():
                return False
            wanted = values[source]
        if found[name].dtype != wanted.dtype or found[name].tobytes() != wanted.tobytes():
            return False
    return True


def _close(ours: Array, theirs: Array) -> bool:
    """Whether floats agree; not a number and infinity at the same places."""
    finite = np.isfinite(theirs)
    scale = float(np.max(np.abs(theirs), where=finite, initial=0.0))
    return bool(np.allclose(ours, theirs, rtol=0.0, atol=FLOATS * scale, equal_nan=True))


def _ties(ours: Array, theirs: Array, exact: Array, wrong: npt.NDArray[np.bool_]) -> bool:
    """Whether integers that differ are neighbours with the exact value halfway between them."""
    one, other = ours[wrong].astype(np.int64), theirs[wrong].astype(np.int64)
    halfway = (one + other) / 2
    near = np.abs(exact[wrong] - halfway) <= TIE
    return bool(np.all(np.abs(one - other) == 1) and np.all(near))


def _run(kernel: Kernel, extracted: Extracted, values: Feeds) -> dict[str, Array]:
    session = Session(submodel(kernel, extracted.model, {}), session_options())
    return session({name: values[name] for name in session.inputs})


def _quantization(kernel: Kernel) -> ir.Node | None:
    """The last node of a kernel, where that rounds."""
    last = kernel.nodes[-1]
    return last if is_op(last, "QuantizeLinear") else None


def _before_rounding(kernel: Kernel, extracted: Extracted, values: Feeds) -> Array | None:
    """What a kernel rounds, in levels (float64); None where it does not say."""
    last = _quantization(kernel)
    if last is None:
        return None
    source = last.inputs[0]
    scale = constant(last.inputs[1])
    zero = constant(last.inputs[2]) if len(last.inputs) > 2 else np.zeros(1)
    if source is None or scale is None or zero is None or scale.size != 1:
        return None
    if len(kernel.nodes) == 1:
        exact = values[str(source.name)]
    else:
        open_end = dataclasses.replace(kernel, nodes=kernel.nodes[:-1], outputs=(source,))
        exact = _run(open_end, extracted, values)[str(source.name)]
    levels: Array = exact.astype(np.float64) / float(scale.item()) + float(zero.item())
    return levels
