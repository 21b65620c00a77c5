"""Remove what no output depends on."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import onnx
import onnx_ir as ir

from compress.graph.base import Pass
from compress.graph.order import all_graphs, all_nodes
from compress.graph.rewrite import remove_nodes
from compress.graph.traversal import is_op


@dataclass(frozen=True)
class EliminateDead(Pass):
    """Nodes, initialisers and functions that nothing reads are gone; inputs and outputs stay.

    Given:  `%y, %indices = MaxPool(%x)`, `%z = Relu(%y)`, `output %y`, `init %w`
    Result: `%y = MaxPool(%x)`, `output %y`

    1. Nodes without a read output, consumers first; what their subgraphs read is released too.
    2. Optional outputs at the end of a node that nothing reads, and left-out inputs there.
    3. Initialisers that nothing reads and that are no graph output; functions nobody calls;
       imports of operator sets nobody uses.
    """

    name: ClassVar[str] = "eliminate-dead"

    def run(self, model: ir.Model) -> bool:
        """Remove dead nodes from every graph; the graphs are in topological order."""
        changed = False
        version = model.opset_imports.get("", 0)
        for graph in reversed(all_graphs(model.graph)):
            for node in reversed(list(graph)):
                if not any(_is_read(v) for v in node.outputs):
                    remove_nodes([node])
                    changed = True
                else:
                    changed |= _trim(node, version)
            for name, value in list(graph.initializers.items()):
                if not _is_read(value) and not value.is_graph_input():
                    del graph.initializers[name]
                    changed = True
        changed |= _drop_functions(model)
        return _drop_imports(model) or changed


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _trim(node: ir.Node, version: int) -> bool:
    inputs = len(node.inputs)
    while inputs and node.inputs[inputs - 1] is None:
        inputs -= 1
    outputs = len(node.outputs)
    if outputs > 1 and is_op(node, node.op_type):
        required = _required_outputs(node.op_type, version)
        while outputs > required and not _is_read(node.outputs[outputs - 1]):
            outputs -= 1
    if inputs == len(node.inputs) and outputs == len(node.outputs):
        return False
    node.resize_inputs(inputs)
    node.resize_outputs(outputs)
    return True


@functools.cache
def _required_outputs(op_type: str, version: int) -> int:
    """How many leading outputs a node must have; all of them where that is not known."""
    try:
        outputs = onnx.defs.get_schema(op_type, version).outputs
    except onnx.defs.SchemaError:
        return 1 << 30
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    if any(o.option == onnx.defs.OpSchema.FormalParameterOption.Variadic for o in outputs):
        return 1 << 30
    return sum(o.option != optional for o in outputs)


def _drop_functions(model: ir.Model) -> bool:
    if not model.functions:
        return False
    reached: set[ir.OperatorIdentifier] = set()
    graphs = [model.graph]
    for graph in graphs:
        for node in all_nodes(graph):
            identifier = node.op_identifier()
            if identifier in model.functions and identifier not in reached:
                reached.add(identifier)
                graphs.append(model.functions[identifier].graph)
    unused = [identifier for identifier in model.functions if identifier not in reached]
    for identifier in unused:
        del model.functions[identifier]
    return bool(unused)


def _drop_imports(model: ir.Model) -> bool:
    if model.functions:
        return False
    used = {"", *(node.domain for node in all_nodes(model.graph))}
    unused = [domain for domain in model.opset_imports if domain not in used]
    for domain in unused:
        del model.opset_imports[domain]
    return bool(unused)
