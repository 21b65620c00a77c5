"""Any ONNX model -> the canonical `Model` that the whole project works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes import common

from compress.graph.upgrade_opset import SUPPORTED_OPSET, upgrade_opset

__all__ = ["SUPPORTED_OPSET", "canonicalize"]


def canonicalize(
    model: ir.Model,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    fixed_inputs: Mapping[str, object] | None = None,
) -> ir.Model:
    """The canonical form of `model`; the argument is left as it is."""
    model = model.clone()
    for value in [v for v in model.graph.inputs if v.is_initializer()]:
        model.graph.inputs.remove(value)
    model = upgrade_opset(model)
    common.InlinePass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.IdentityEliminationPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.NameFixPass()(model)
    common.ShapeInferencePass(strict_mode=False, check_type=False)(model)
    return model
