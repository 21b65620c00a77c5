"""Compute and store the same thing once."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from compress.graph.base import Pass
from compress.graph.order import all_graphs
from compress.graph.printer import content_hash
from compress.graph.rewrite import remove_nodes, replace_value
from compress.graph.traversal import is_op

RANDOM_OPS = (
    "Bernoulli", "Dropout", "Multinomial",
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
)  # fmt: skip
"""Operators that may give another result each time they run."""

_SAMPLE = 256


@dataclass(frozen=True)
class MergeDuplicates(Pass):
    """Equal initialisers become one, and equal nodes of one graph become one.

    Given:  `init %a {1}`, `init %b {1}`, `%y = Add(%x, %a)`, `%z = Add(%x, %b)`
    Result: `init %a {1}`, `%y = Add(%x, %a)`, where `%z` was read now `%y`

    1. Initialisers of the same dtype, shape and content; the first one's name stays.
    2. Nodes of the same operator, inputs and attributes; the first one stays.
    3. Operators with subgraphs, random ones, and those of domains nobody knows stay.
    """

    name: ClassVar[str] = "merge-duplicates"

    def run(self, model: ir.Model) -> bool:
        """Merge within every graph; the graphs are in topological order."""
        changed = False
        for graph in all_graphs(model.graph):
            changed |= _merge_initializers(graph)
            changed |= _merge_nodes(graph)
        return changed


def _merge_initializers(graph: ir.Graph) -> bool:
    groups: dict[Hashable, list[ir.Value]] = {}
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and not value.is_graph_input() and not value.is_graph_output():
            key = (tensor.dtype, tuple(tensor.shape.numpy()))
            groups.setdefault(key, []).append(value)
    changed = False
    for group in groups.values():
        if len(group) < 2:
            continue
        # Whole contents are compared only where samples of them agree.
        by_sample: dict[bytes, list[ir.Value]] = {}
        for value in group:
            by_sample.setdefault(_sample(value), []).append(value)
        for alike in by_sample.values():
            if len(alike) > 1:
                changed |= _merge_alike(graph, alike)
    return changed


def _sample(value: ir.Value) -> bytes:
    assert value.const_value is not None
    flat = value.const_value.numpy().reshape(-1)
    step = max(1, flat.size // _SAMPLE)
    return repr(flat[::step].tolist()).encode() if flat.dtype == object else flat[::step].tobytes()


def _merge_alike(graph: ir.Graph, alike: list[ir.Value]) -> bool:
    kept: dict[str, ir.Value] = {}
    changed = False
    for value in alike:
        assert value.const_value is not None
        assert value.name is not None
        first = kept.setdefault(content_hash(value.const_value), value)
        if first is not value:
            value.replace_all_uses_with(first)
            del graph.initializers[value.name]
            changed = True
    return changed


def _merge_nodes(graph: ir.Graph) -> bool:
    kept: dict[Hashable, ir.Node] = {}
    changed = False
    for node in list(graph):
        key = _node_key(node)
        if key is None:
            continue
        first = kept.setdefault(key, node)
        if first is node:
            continue
        for old, new in zip(node.outputs, first.outputs, strict=True):
            if not new.name and not old.is_graph_output():
                # Left out so far; it is about to be read.
                name, old.name = old.name, None
                new.name, new.type, new.shape = name, old.type, old.shape
            if old.uses() or old.is_graph_output():
                replace_value(old, new, node)
        remove_nodes([node])
        changed = True
    return changed


def _node_key(node: ir.Node) -> Hashable | None:
    """What two nodes must share to compute the same; None where equal nodes may differ."""
    known = node.domain in ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
    is_carrier = is_op(node, "Identity") and node.outputs[0].is_graph_output()
    if not known or node.op_type in RANDOM_OPS or is_carrier:
        return None
    attributes = []
    for name, attribute in sorted(node.attributes.items()):
        value = _attribute_key(attribute)
        if value is None:
            return None
        attributes.append((name, attribute.type, value))
    inputs = tuple(None if v is None else id(v) for v in node.inputs)
    return (node.op_identifier(), inputs, tuple(attributes), len(node.outputs))


def _attribute_key(attribute: ir.Attr) -> Hashable | None:
    if attribute.is_ref():
        return None
    match attribute.type:
        case ir.AttributeType.FLOAT | ir.AttributeType.FLOATS:
            return np.asarray(attribute.value, dtype=np.float32).tobytes()
        case ir.AttributeType.INTS | ir.AttributeType.STRINGS:
            return tuple(attribute.value)
        case ir.AttributeType.INT | ir.AttributeType.STRING:
            return (attribute.value,)
        case ir.AttributeType.TENSOR:
            return content_hash(attribute.as_tensor())
    return None
