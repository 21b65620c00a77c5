"""Whether an executed program gives what onnxruntime gives."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from compress.backends.scratchpad.by_operator import Recorder, compare_operators, has_integers
from compress.backends.scratchpad.execute import execute
from compress.backends.scratchpad.operators import submodel
from compress.execute.runtime import Array, Feeds, Session, session_options
from compress.execute.session import Runner
from compress.graph.traversal import constant, static_shape
from compress.passes.schedule.extract import Extracted
from compress.passes.schedule.program import Program

TOLERANCE = 1e-5
"""Of float outputs, relative to the largest magnitude of each."""

WHOLE = "onnxruntime on the whole model"
ONE_BY_ONE = "onnxruntime, one operator at a time"
SAME_INPUTS = "onnxruntime, each operator on the inputs that the execution gave it"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How the outputs compare.

    Attributes:
        holds: they are equal, up to `TOLERANCE` where they are floats computed from floats, and up
            to ties where they are made of integers.
        exact: they are equal bit by bit.
        largest_error: see `largest_error`. Where operators were compared on the same inputs, it
            is what their ties add up to in the outputs.
        reference: what they were compared with.
        differing: integers, of all that operators write, that were rounded to the next level.
    """

    holds: bool
    exact: bool
    largest_error: float
    reference: str
    differing: int = 0


def prove(program: Program, extracted: Extracted, feeds: Feeds) -> Comparison:
    """Execute a program and compare its outputs with those of onnxruntime.

    They are compared with the whole model's at first, at the level of optimisation that everything
    else runs with. onnxruntime fuses across operators there, and rounds floats elsewhere: where a
    network magnifies that beyond the tolerance (runs at other levels differ as much), the
    reference are its operators one at a time on whole tensors, which leaves only what the plan
    does. Where integers still differ, each operator is compared on the inputs that it had, and
    ties may be rounded either way (see `by_operator`).
    """
    recorder = Recorder(extracted) if has_integers(extracted) else None
    found = execute(program, extracted, feeds, recorder)
    error = largest_error(found, Runner(extracted.model)(feeds))
    if error <= TOLERANCE:
        return Comparison(True, error == 0.0, error, WHOLE)
    error = largest_error(found, one_by_one(extracted, feeds))
    if error <= TOLERANCE or recorder is None:
        return Comparison(error <= TOLERANCE, error == 0.0, error, ONE_BY_ONE)
    agreement = compare_operators(extracted, feeds, found, recorder)
    return Comparison(agreement.holds, False, error, SAME_INPUTS, agreement.differing)


def one_by_one(extracted: Extracted, feeds: Feeds) -> dict[str, Array]:
    """The network's outputs, each operator run alone on whole tensors kept apart."""
    values: dict[str, Array] = dict(feeds)
    for kernel in extracted.kernels:
        session = Session(submodel(kernel, extracted.model, {}), session_options())
        values.update(session({name: values[name] for name in session.inputs}))
    results: dict[str, Array] = {}
    for output in extracted.model.graph.outputs:
        name = str(output.name)
        array = constant(extracted.constants.get(name))
        if array is None:
            array = values[str(extracted.values[extracted.results[name]].name)]
        results[name] = array.reshape(static_shape(output) or ())
    return results


def largest_error(result: Mapping[str, Array], expected: Mapping[str, Array]) -> float:
    """The largest difference of an output, relative to its largest magnitude; 0.0 if all agree.

    Infinite where shapes or dtypes differ, or one has NaN where the other has not.
    """
    worst = 0.0
    for name, wanted in expected.items():
        found = result[name]
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            return math.inf
        if np.array_equal(found, wanted, equal_nan=wanted.dtype.kind == "f"):
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            exact = wanted.astype(np.float64)
            error = float(np.max(np.abs(found.astype(np.float64) - exact)))
            scale = float(np.max(np.abs(exact)))
        if not math.isfinite(error):
            return math.inf
        worst = max(worst, error / scale if scale else math.inf)
    return worst
