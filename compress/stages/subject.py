"""First stage: what the user handed in becomes a file that runs and a float Model to work on."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from compress.backends.onnxruntime import Artifact, describe, lower
from compress.errors import ModelError
from compress.evidence.data import InputSpec
from compress.evidence.distortion import OutputKind, output_kinds
from compress.execute.isolate import ProbeReport, RunRefused, probe
from compress.frontends import load
from compress.graph.canonical import canonicalize
from compress.graph.identity import model_hash
from compress.graph.simplify import simplify
from compress.graph.validate import quantized_nodes, unknown_operators


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """The model that a run is about.

    Attributes:
        name: as the user called it.
        source: as loaded, batch norms and all.
        given: its ONNX file, as the baseline of every comparison.
        given_model: what that file holds: `source` with dimensions and inputs fixed as asked.
        model: the canonical, simplified float model that techniques work on.
        key: content hash of `model`.
        inputs: what calibration samples must look like.
        outputs: names, in order.
        kinds: what the outputs mean.
        rewritten: layer name -> what was done to it in float, in words.
    """

    name: str
    source: ir.Model
    given: Artifact
    given_model: ir.Model
    model: ir.Model
    key: str
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    kinds: Mapping[str, OutputKind]
    warnings: tuple[str, ...] = ()
    rewritten: Mapping[str, str] = dataclasses.field(default_factory=dict)


def open_subject(
    model: Any,
    folder: Path,
    *,
    factory: str | None = None,
    example_inputs: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    fixed_inputs: Mapping[str, object] | None = None,
    trust_pickle: bool = False,
    allow_quantized: bool = False,
) -> Subject:
    """Loads, checks and canonicalises; files go into `folder`.

    Raises:
        UsageError, ModelError: see `load` and `canonicalize`; or the model is quantized already.
    """
    source = load(
        model,
        factory=factory,
        example_inputs=example_inputs,
        shapes=shapes,
        trust_pickle=trust_pickle,
    )
    quantized = quantized_nodes(source)
    if quantized and not allow_quantized:
        raise ModelError(
            f"the model is quantized already (node {quantized[0].name or quantized[0].op_type}): "
            "give the float model that it was made from"
        )
    canonical = canonicalize(source, shapes=shapes, fixed_inputs=fixed_inputs)
    if not len(canonical.graph):
        raise ModelError(
            "the model computes nothing once constants are folded: nothing to compress"
        )
    fixed = bool(fixed_inputs) or _fixes_more(source, canonical)
    given_model = canonical if fixed else source
    given = _given_file(model, given_model, folder, changed=fixed)
    simplified = simplify(canonical)
    unknown = unknown_operators(simplified)
    warnings = []
    if unknown:
        names = ", ".join(sorted({f"{n.domain}.{n.op_type}" for n in unknown}))
        warnings.append(f"operators that are not known pass through untouched: {names}")
    return Subject(
        name=_name(model, factory),
        source=source,
        given=given,
        given_model=given_model,
        model=simplified,
        key=model_hash(simplified),
        inputs=tuple(_spec(value) for value in simplified.graph.inputs),
        outputs=tuple(str(value.name) for value in simplified.graph.outputs),
        kinds=output_kinds(simplified),
        warnings=tuple(warnings),
    )


def check_loads(subject: Subject) -> None:
    """Loads the given file in a process of its own, where it may crash, and tries to run it.

    Raises:
        ModelError: it does not load, or crashes on inputs of any size; one line says how.
    """
    # inputs are made up here, and their sizes may well not fit: that alone says nothing
    with contextlib.suppress(RunRefused):
        probe(subject.given.path)


def check_runs(subject: Subject, inputs: Path) -> ProbeReport:
    """Runs the given file once in a process of its own, where it may crash.

    Raises:
        ModelError: it does not run; one line says how it failed.
    """
    return probe(subject.given.path, inputs=inputs)


def _fixes_more(source: ir.Model, canonical: ir.Model) -> bool:
    """Whether dimensions that were dynamic in the source are numbers now, on the user's word."""
    before = {str(v.name): v.shape for v in source.graph.inputs if not v.is_initializer()}
    for value in canonical.graph.inputs:
        old = before.get(str(value.name))
        if old is None or value.shape is None:
            continue
        pairs = zip(old.dims, value.shape.dims, strict=False)
        if any(isinstance(now, int) and not _is_number(then) for then, now in pairs):
            return True
    return False


def _is_number(dimension: object) -> bool:
    """Whether a dimension is fixed; some exporters write -1 for those that are not."""
    return isinstance(dimension, int) and dimension >= 0


def _given_file(model: Any, loaded: ir.Model, folder: Path, *, changed: bool) -> Artifact:
    """The user's own file where it is ONNX and unchanged, else one written here."""
    if not changed and isinstance(model, (str, os.PathLike)):
        path = Path(model)
        if path.suffix.lower() == ".onnx" and path.is_file():
            return describe(path, loaded)
    return lower(loaded, folder / "given")


def _name(model: Any, factory: str | None) -> str:
    if isinstance(model, (str, os.PathLike)):
        return f"{os.fspath(model)}" + (f" ({factory})" if factory else "")
    return type(model).__name__


def _spec(value: ir.Value) -> InputSpec:
    if value.dtype is None:
        raise ModelError(f"input {value.name} has no element type: export the model with types")
    shape = None
    if value.shape is not None:
        shape = tuple(
            d if isinstance(d, int) else (str(d.value) if d.value is not None else None)
            for d in value.shape.dims
        )
    return InputSpec(str(value.name), np.dtype(value.dtype.numpy()), shape)
