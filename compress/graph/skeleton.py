"""A ModelProto without the weights, for libraries that want one whatever the model's size."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from compress.graph.order import all_graphs

KEPT_ELEMENTS = 1024
"""Tensors up to this size stay: shapes, axes, scales and the like decide other values' shapes."""


def skeleton_proto(model: ir.Model) -> onnx.ModelProto:
    """`model` as a proto whose large initialisers have a dtype and a shape, but no content.

    They are written as references to external data that does not exist, which costs a few bytes
    each. `model` is changed while this runs and is as before when it returns.
    """
    stripped: list[tuple[ir.Value, ir.TensorProtocol]] = []
    try:
        for graph in all_graphs(model.graph):
            for value in graph.initializers.values():
                tensor = value.const_value
                if tensor is not None and tensor.size > KEPT_ELEMENTS:
                    stripped.append((value, tensor))
                    value.const_value = ir.ExternalTensor(
                        location="left-out",
                        offset=0,
                        length=0,
                        dtype=tensor.dtype,
                        shape=ir.Shape(tensor.shape.numpy()),
                        name=value.name or "",
                    )
        return ir.to_proto(model)
    finally:
        for value, tensor in stripped:
            value.const_value = tensor
