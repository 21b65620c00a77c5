"""Running a Model in torch, where gradients are needed. Importing this imports torch.

`TorchModel` turns a canonical Model into a module; `unsupported` lists the nodes that keep a model
from it. The operators are in the modules beside, one small function each; see `registry`.
"""

from __future__ import annotations

from compress.execute.differentiable import (
    activations,
    arithmetic,
    convolution,
    creation,
    indexing,
    linear,
    normalization,
    pooling,
    recurrent,
    reduction,
    resize,
    shapes,
)
from compress.execute.differentiable.module import TorchModel, unsupported

OPERATOR_MODULES = (
    activations,
    arithmetic,
    convolution,
    creation,
    indexing,
    linear,
    normalization,
    pooling,
    recurrent,
    reduction,
    resize,
    shapes,
)
"""Imported for what they register."""

__all__ = ["TorchModel", "unsupported"]
