"""Lossless rewrites beyond the canonical form: what makes the float model itself faster."""

from __future__ import annotations

import onnx_ir as ir

from compress.graph.activations import FuseHardActivations
from compress.graph.affine import FoldAffine
from compress.graph.base import Pass
from compress.graph.canonical import REWRITES
from compress.graph.infer_shapes import InferShapes
from compress.graph.name_values import NameValues
from compress.graph.normalization import FuseLayerNormalization
from compress.graph.pooling import MeanToPooling

SIMPLIFICATIONS: tuple[Pass, ...] = (
    FuseHardActivations(),
    FuseLayerNormalization(),
    MeanToPooling(),
    FoldAffine(),
)

MOST_ROUNDS = 10


def simplify(model: ir.Model) -> ir.Model:
    """A copy of a canonical model that computes the same with fewer passes over memory.

    Results differ from the original's by rounding only: constants are multiplied into weights.
    """
    result = model.clone()
    for _ in range(MOST_ROUNDS):
        # no short cut: each pass may open the way for the next
        changed = [rewrite.run(result) for rewrite in SIMPLIFICATIONS]
        if not any(changed):
            break
        NameValues().run(result)
        for rewrite in REWRITES:
            rewrite.run(result)
        InferShapes().run(result)
    return result
