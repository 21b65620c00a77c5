"""Give every value and every node a name that nothing else in the model has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from compress.graph.base import Pass
from compress.graph.order import all_graphs
from compress.graph.rewrite import rename


@dataclass(frozen=True)
class NameValues(Pass):
    """Unique names for all values and nodes, across subgraphs too.

    Given:  ` = Relu(%x)`, an If whose branches both produce `%y`, two nodes named `conv`
    Result: `%Relu_0 = Relu(%x)`, `%y` and `%y_1`, nodes `conv` and `conv_1`

    1. Inputs, initialisers and outputs of the main graph keep their names.
    2. The other values keep theirs unless an earlier one has it; outer graphs come before inner.
    3. A value without a name is named after its node, a node without one after its first output.
    4. An output that is left out (the empty name, and no reader) stays so.
    """

    name: ClassVar[str] = "name-values"

    def run(self, model: ir.Model) -> bool:
        """Name what has no name of its own; see the class."""
        taken: set[str] = set()
        for value in _signature(model.graph):
            taken.add(value.name or "")
        fixed = set(_signature(model.graph))
        changed = False
        for graph in all_graphs(model.graph):
            for value in [*_signature(graph), *(v for node in graph for v in node.outputs)]:
                if value in fixed or _is_left_out(value):
                    continue
                fixed.add(value)
                changed |= _settle_value(value, taken)
        return _name_nodes(model.graph) or changed


def _signature(graph: ir.Graph) -> list[ir.Value]:
    unique = dict.fromkeys([*graph.inputs, *graph.initializers.values(), *graph.outputs])
    return [value for value in unique if value.graph is graph]


def _is_left_out(value: ir.Value) -> bool:
    return not value.name and not value.uses() and not value.is_graph_output()


def _settle_value(value: ir.Value, taken: set[str]) -> bool:
    producer = value.producer()
    hint = value.name or (producer and (producer.name or producer.op_type)) or "value"
    name = _unused(hint, taken)
    if name == value.name:
        return False
    rename(value, name)
    return True


def _name_nodes(root: ir.Graph) -> bool:
    taken: set[str] = set()
    changed = False
    for graph in all_graphs(root):
        for node in graph:
            first = next((v.name for v in node.outputs if v.name), None)
            name = _unused(node.name or first or node.op_type, taken)
            if name != node.name:
                node.name = name
                changed = True
    return changed


def _unused(hint: str, taken: set[str]) -> str:
    name, count = hint, 0
    while name in taken:
        count += 1
        name = f"{hint}_{count}"
    taken.add(name)
    return name
