"""Means over all positions of an image are pooling, by whatever operator they are written."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from compress.graph.base import Pass
from compress.graph.traversal import (
    attribute_int,
    attribute_ints,
    constant,
    is_op,
    owner,
    rank,
    remove_dead,
    replace,
)


@dataclasses.dataclass(frozen=True)
class MeanToPooling(Pass):
    """A mean over the spatial axes of a batch of feature maps becomes global average pooling.

    Given:   y = ReduceMean<keepdims = 0>(x, axes = (2, 3))      x of rank 4
    Result:  y = Flatten<axis = 1>(GlobalAveragePool(x))

    Runtimes have integer kernels for the pooling, and none for the mean.
    """

    name: ClassVar[str] = "mean-to-pooling"

    def run(self, model: ir.Model) -> bool:
        changed = False
        for node in list(model.graph):
            if node.graph is not None and is_op(node, "ReduceMean"):
                changed |= _rewrite(node)
        return changed


def _rewrite(node: ir.Node) -> bool:
    source = node.inputs[0]
    ndim = rank(source)
    floats = source is not None and source.dtype == ir.DataType.FLOAT
    axes = attribute_ints(node, "axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        given = constant(node.inputs[1])
        axes = tuple(int(a) for a in given.reshape(-1)) if given is not None else None
    if source is None or not floats or ndim is None or ndim < 3 or axes is None:
        return False
    if {a % ndim for a in axes} != set(range(2, ndim)):
        return False
    graph = owner(node)
    keeps = bool(attribute_int(node, "keepdims", 1))
    pool = ir.node("GlobalAveragePool", [source], name=node.name if keeps else f"{node.name}.pool")
    pool.outputs[0].type = source.type
    last = pool
    graph.insert_before(node, pool)
    old, name = node.outputs[0], node.outputs[0].name
    if not keeps:
        pool.outputs[0].name = f"{name}.pooled"
        last = ir.node("Flatten", [pool.outputs[0]], {"axis": 1}, name=node.name)
        graph.insert_before(node, last)
    last.outputs[0].name = f"{name}.fused"
    replace(old, last.outputs[0])
    remove_dead([node])
    last.outputs[0].name = name
    return True
