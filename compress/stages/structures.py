"""After the first search: networks with fewer and smaller layers, recovered, and searched anew."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from typing import Any

import onnx_ir as ir

from compress.evidence.data import CalibrationData, open_calibration
from compress.evidence.digest import digest
from compress.evidence.labels import labels_of
from compress.execute.torch_threads import let_threads_sleep
from compress.passes.frontiers import undominated
from compress.passes.merge.technique import Merge
from compress.passes.prune.technique import Prune
from compress.passes.recover.original import Original
from compress.passes.recover.pool import Pool, make_pool
from compress.passes.select import evaluate_choice
from compress.report import schema
from compress.stages.exploring import ROUNDS, Explorer, Found
from compress.stages.gather import Evidence, without_integers
from compress.stages.run_context import Context
from compress.stages.search import Outcome
from compress.stages.subject import Subject

FIT_SAMPLES = 160
"""Samples that operators are fitted on, at most."""

MOMENT_SAMPLES = 32
"""Samples that second moments are gathered on, at most."""

POOL_SAMPLES = 20_000
"""Samples that a network is recovered with, at most."""


def restructure(
    context: Context,
    subject: Subject,
    evidence: Evidence,
    first: Outcome,
    source: Any,
) -> Found:
    """Tries structures from the joint frontier of all techniques; keeps what beats `first`.

    Where a structure was found, the same is done once more with the recovered network: what was
    merged can be pruned, and merged again.

    Args:
        context: budget, store, progress and the like.
        subject, evidence, first: of the search among numeric forms alone.
        source: the user's calibration data (None: what was made up is all there is).
    """
    found = Found(subject, evidence, first)
    unready = _unready(subject.model)
    if unready:
        context.progress.note(f"no layers are merged or pruned: {unready}")
        return found
    pool = _pool(context, subject, source)
    records: list[schema.Recovery] = []
    original = Original(subject.model, pool, threads=context.cores)
    for number in range(1, len(ROUNDS) + 1):
        if context.late():
            break
        explorer = _explorer(context, found, original, source, number, records)
        found = explorer.explore(_latency_so_far(found.outcome))
        if not explorer.improved:
            break
    return dataclasses.replace(found, recoveries=tuple(records))


def _explorer(
    context: Context,
    found: Found,
    original: Original,
    source: Any,
    number: int,
    records: list[schema.Recovery],
) -> Explorer:
    """What tries the structures that all techniques together allow."""
    problem = found.outcome.problem
    merge = prune = None
    if "merge" in context.techniques:
        merge = _merge(context, found, source)
        with context.progress.step("fitting operators to spans of layers", None):
            proposal = merge.propose()
        problem = dataclasses.replace(problem, options=(*problem.options, *proposal.options))
    if "prune" in context.techniques:
        prune = _prune(context, found, source)
        with context.progress.step("measuring layers with fewer channels", None):
            problem = prune.joined(problem, prune.propose())
    if "quantize" not in context.techniques:
        problem = without_integers(problem)
    problem = undominated(problem)
    return Explorer(context, found, merge, prune, problem, original, number, records)


def _latency_so_far(first: Outcome) -> float:
    """Predicted, of what would be shipped without other layers."""
    if first.selection is not None:
        return first.selection.latency_us
    plain = [i for i, o in enumerate(first.problem.options) if o.form == "float"]
    return evaluate_choice(first.problem, plain)[0]


def _merge(context: Context, found: Found, source: Any) -> Merge:
    unmerged: dict[str, float] = {}
    for option in found.outcome.problem.options:
        name = option.layers[0]
        unmerged[name] = min(unmerged.get(name, math.inf), option.latency_us)
    return Merge(unmerged=unmerged, **_shared(context, found, source, FIT_SAMPLES))


def _prune(context: Context, found: Found, source: Any) -> Prune:
    problem = found.outcome.problem
    return Prune(problem=problem, **_shared(context, found, source, MOMENT_SAMPLES))


def _shared(context: Context, found: Found, source: Any, limit: int) -> dict[str, Any]:
    """What structural techniques know alike."""
    samples = _samples(context, found.subject, source, limit)
    return {
        "model": found.subject.model,
        "model_key": found.subject.key,
        "shapes": found.evidence.shapes,
        "reference": found.evidence.technique.reference,
        "samples": samples if samples.stable else tuple(samples),
        "samples_key": samples.fingerprint,
        "store": context.store,
        "host": context.host,
        "workers": context.cores,
    }


def _samples(context: Context, subject: Subject, source: Any, limit: int) -> CalibrationData:
    """The user's samples, more of them than statistics need; else those that were made up."""
    if source is None:
        return context.calibration.data
    return open_calibration(source, subject.inputs, limit=limit)


def _pool(context: Context, subject: Subject, source: Any) -> Pool:
    data = _samples(context, subject, source, POOL_SAMPLES)
    joinable = all(
        spec.shape is not None and spec.shape and not isinstance(spec.shape[0], int)
        for spec in subject.inputs
    )
    if not context.labels:
        return make_pool(data, joinable=joinable, fingerprint=data.fingerprint)
    labels = labels_of(source, data)
    return make_pool(
        data, joinable=joinable, fingerprint=digest(data.fingerprint, labels), labels=labels
    )


def _unready(model: ir.Model) -> str:
    """Why networks cannot be recovered here, or nothing."""
    if importlib.util.find_spec("torch") is None:
        return "recovering them takes torch (pip install 'compress[torch]')"
    let_threads_sleep()
    from compress.execute.differentiable import unsupported

    nodes = unsupported(model)
    if nodes:
        names = ", ".join(sorted({n.op_type for n in nodes}))
        return f"operators that cannot be differentiated here: {names}"
    return ""
