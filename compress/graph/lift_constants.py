"""Turn Constant nodes into initialisers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from compress.errors import ModelError
from compress.graph.base import Pass
from compress.graph.order import all_graphs, node_label
from compress.graph.rewrite import Names, add_initializer, remove_nodes, replace_value
from compress.graph.traversal import is_op


@dataclass(frozen=True)
class LiftConstants(Pass):
    """Every Constant node becomes an initialiser of the same name in the same graph.

    Given:  `%c:f32[2] = Constant() {value=...}`
    Result: `init %c:f32[2]`

    All forms of the attribute and all sizes are lifted. A constant that is a graph output, or that
    two constants of one name would collide on, keeps its output through an Identity.
    """

    name: ClassVar[str] = "lift-constants"

    def run(self, model: ir.Model) -> bool:
        """Lift every Constant node of every graph.

        Raises:
            ModelError: a Constant has no value, or a sparse one.
        """
        found = [
            node for graph in all_graphs(model.graph) for node in graph if is_op(node, "Constant")
        ]
        if not found:
            return False
        names = Names(model)
        for node in found:
            tensor = constant_tensor(node)
            graph, output = node.graph, node.outputs[0]
            assert graph is not None
            name = output.name or ""
            if output.is_graph_output() or not name:
                name = names.value(f"{name or 'constant'}_value")
            else:
                output.name = None
            value = add_initializer(graph, name, tensor)
            value.metadata_props.update(output.metadata_props)
            value.doc_string = output.doc_string
            replace_value(output, value, node)
        remove_nodes(found)
        return True


def constant_tensor(node: ir.Node) -> ir.TensorProtocol:
    """The tensor that a Constant node yields, whichever attribute holds it.

    Raises:
        ModelError: there is none, or a sparse one.
    """
    attributes = [a for a in node.attributes.values() if not a.is_ref()]
    if len(attributes) == 1:
        attribute = attributes[0]
        kinds = ir.AttributeType
        match attribute.type if attribute.name.startswith("value") else None:
            case kinds.TENSOR:
                return _view(attribute.value)
            case kinds.INT | kinds.INTS:
                return ir.tensor(np.asarray(attribute.value, dtype=np.int64))
            case kinds.FLOAT | kinds.FLOATS:
                return ir.tensor(np.asarray(attribute.value, dtype=np.float32))
            case kinds.STRING | kinds.STRINGS:
                texts = np.asarray(attribute.value, dtype=object)
                encoded = [t.encode() if isinstance(t, str) else t for t in texts.ravel()]
                data = np.empty(len(encoded), dtype=object)
                data[:] = encoded
                return ir.StringTensor(data.reshape(texts.shape), shape=ir.Shape(texts.shape))
    raise ModelError(f"{node_label(node)} holds no dense tensor: export the model again")


def _view(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """A tensor of its own name over the same content: other models may share the attribute."""
    shape = ir.Shape(tensor.shape.numpy())
    if tensor.dtype == ir.DataType.STRING:
        return ir.StringTensor(tensor.numpy(), shape=shape)
    return ir.Tensor(tensor, dtype=tensor.dtype, shape=shape)
