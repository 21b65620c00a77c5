"""Any ONNX model -> the canonical `Model` that the whole project works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes import PreconditionError
from onnx_ir.passes import common as library

from compress.errors import CompressError, ModelError
from compress.graph.base import Pass
from compress.graph.eliminate_dead import EliminateDead
from compress.graph.eliminate_noops import EliminateNoOps
from compress.graph.fix_inputs import FixInputs
from compress.graph.fold_batch_norm import FoldBatchNorm
from compress.graph.fold_constants import FoldConstants
from compress.graph.fold_control_flow import FoldControlFlow
from compress.graph.fold_shapes import FoldShapes
from compress.graph.infer_shapes import InferShapes
from compress.graph.lift_constants import LiftConstants
from compress.graph.merge_duplicates import MergeDuplicates
from compress.graph.merge_layout import MergeLayout
from compress.graph.name_values import NameValues
from compress.graph.order import all_graphs, sort_graphs, topological_order
from compress.graph.upgrade_opset import SUPPORTED_OPSET, UpgradeOpset, is_outdated
from compress.graph.validate import validate

__all__ = ["SUPPORTED_OPSET", "canonicalize"]

REWRITES: tuple[Pass, ...] = (
    EliminateNoOps(),
    FoldShapes(),
    FoldConstants(),
    FoldControlFlow(),
    FoldBatchNorm(),
    MergeLayout(),
    MergeDuplicates(),
    EliminateDead(),
)
"""Repeated until none of them changes anything, with fresh shapes each time."""

MOST_ROUNDS = 20


def canonicalize(
    model: ir.Model,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    fixed_inputs: Mapping[str, object] | None = None,
    keep_batch_norm: bool = False,
) -> ir.Model:
    """The canonical form of `model`, which computes the same; the argument is left as it is.

    Tensors are shared with the argument, not copied. Metadata, names of inputs, outputs and
    initialisers survive; dynamic dimensions stay dynamic unless `shapes` fixes them. The result
    depends on the arguments alone, and canonicalising it again changes nothing.

    Args:
        model: any ONNX model of opset 7 or newer.
        shapes: input name -> dimensions to fix; -1 leaves one dynamic.
        fixed_inputs: input name -> value that it always has; it is no input of the result.
        keep_batch_norm: leave batch normalisations as they are, to train them; canonicalising or
            simplifying the result folds them.

    Raises:
        ModelError: the model is not sound, or not supported; see `validate`.
        UsageError: `shapes` or `fixed_inputs` do not fit the model's inputs.
    """
    validate(model)
    model = _clone(model)
    _apply(model, FixInputs(shapes or {}, fixed_inputs or {}))
    # Before version 4 of the file format every initialiser was an input as well.
    library.RemoveInitializersFromInputsPass()(model)
    _apply(model, NameValues(), LiftConstants())
    # Ranks decide how some operators are upgraded, and shape arithmetic decides ranks.
    for _ in range(MOST_ROUNDS if is_outdated(model) else 0):
        _apply(model, InferShapes())
        if not _apply(model, FoldShapes(), FoldConstants()):
            break
    _apply(model, UpgradeOpset())
    _inline_functions(model)
    _apply(model, NameValues(), LiftConstants())
    rewrites = [r for r in REWRITES if not (keep_batch_norm and isinstance(r, FoldBatchNorm))]
    for _ in range(MOST_ROUNDS):
        _apply(model, InferShapes())
        if not _apply(model, *rewrites):
            break
        _apply(model, NameValues())
    return model


def _apply(model: ir.Model, *passes: Pass) -> bool:
    """Run all of `passes`; whether any changed something.

    Raises:
        ModelError: also where a pass trips over what `validate` lets through.
    """
    changed = False
    for rewrite in passes:
        try:
            changed |= rewrite.run(model)
        except CompressError:
            raise
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise ModelError(
                f"the model cannot be rewritten ({rewrite.name}: {reason}): check it with "
                "onnx.checker, or export it again"
            ) from error
    return changed


def _clone(model: ir.Model) -> ir.Model:
    """A copy that shares the tensors; nodes are in topological order."""
    orders = {graph: list(graph) for graph in all_graphs(model.graph)}
    unsorted = {g: nodes for g, nodes in orders.items() if topological_order(g) != nodes}
    try:
        # onnx_ir clones sorted graphs only; the order is put back below.
        if unsorted:
            sort_graphs(model.graph)
        copy = model.clone()
    finally:
        for graph, nodes in unsorted.items():
            graph.extend(nodes)
    copy.meta.update(model.meta)
    for value in (*copy.graph.inputs, *copy.graph.outputs):
        # The type objects are shared, and setting a dtype writes into them.
        if value.type is not None and isinstance(value.type, ir.TensorType):
            value.type = ir.TensorType(value.type.dtype, denotation=value.type.denotation)
    return copy


def _inline_functions(model: ir.Model) -> None:
    if not model.functions:
        return
    try:
        library.InlinePass()(model)
    except PreconditionError as error:
        raise ModelError(f"the model's functions call each other in a circle: {error}") from error
    except (ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"a function of the model cannot be inlined: {reason}") from error
    sort_graphs(model.graph)
