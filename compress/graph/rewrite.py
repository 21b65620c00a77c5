"""The few edits that every rewrite is made of, with the traps of onnx_ir closed.

Replacing a value must keep the names of graph outputs; new values need names that nothing in any
graph of the model has; and setting `Value.name` also renames the tensor behind it, which a clone
shares with the model it was cloned from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.graph.order import all_graphs, all_nodes, subgraphs


class Names:
    """Every name in use in a model, and fresh ones beside them."""

    def __init__(self, model: ir.Model) -> None:
        self.values: set[str] = set()
        self.nodes: set[str] = set()
        for graph in all_graphs(model.graph):
            self.values.update(v.name for v in graph.inputs if v.name)
            self.values.update(graph.initializers)
            for node in graph:
                self.values.update(v.name for v in node.outputs if v.name)
                if node.name:
                    self.nodes.add(node.name)

    def value(self, hint: str) -> str:
        """`hint`, or `hint_1`, `hint_2`...: a name no value has; it is taken from now on."""
        return _fresh(hint, self.values)

    def node(self, hint: str) -> str:
        """As `value`, among the names of nodes."""
        return _fresh(hint, self.nodes)


def _fresh(hint: str, taken: set[str]) -> str:
    name, count = hint, 0
    while name in taken:
        count += 1
        name = f"{hint}_{count}"
    taken.add(name)
    return name


def rename(value: ir.Value, name: str) -> None:
    """Name `value` without renaming its tensor, which other models may share."""
    tensor = value.const_value
    value.const_value = None
    try:
        value.name = name
    finally:
        value.const_value = tensor


def add_initializer(
    graph: ir.Graph, name: str, data: npt.NDArray[np.generic] | ir.TensorProtocol
) -> ir.Value:
    """A new initialiser of `graph` named `name`, which must be unused, holding `data`."""
    tensor = ir.tensor(data, name=name) if isinstance(data, np.ndarray) else data
    value = ir.Value(
        name=name,
        shape=ir.Shape(tensor.shape.numpy()),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def initializer_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of `value` where it is an initialiser that nobody can feed; None otherwise."""
    if value is None or not value.is_initializer() or value.is_graph_input():
        return None
    return value.const_value


def small_constant(value: ir.Value | None, limit: int = 4096) -> npt.NDArray[np.generic] | None:
    """The elements of an initialiser of at most `limit` elements; None where it is not one."""
    tensor = initializer_tensor(value)
    if tensor is None or tensor.size > limit:
        return None
    return np.asarray(tensor.numpy())


def small_integers(value: ir.Value | None, limit: int = 4096) -> npt.NDArray[np.int64] | None:
    """The elements of an integer initialiser of at most `limit` elements; None for others."""
    array = small_constant(value, limit)
    return None if array is None or array.dtype.kind not in "iu" else array.astype(np.int64)


def input_of(node: ir.Node, index: int) -> ir.Value | None:
    """Input `index` of `node`; None where it is missing or left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def can_take_name(old: ir.Value, new: ir.Value) -> bool:
    """Whether `new` may stand in for the graph output `old` under its name, without an Identity.

    It must be made by a node of the same graph and not be an output already.
    """
    return (
        new.graph is old.graph
        and new.producer() is not None
        and not new.is_graph_output()
        and old.graph is not None
        and list(old.graph.outputs).count(old) == 1
    )


def replace_value(old: ir.Value, new: ir.Value, before: ir.Node) -> None:
    """Let every reader of `old`, an output of `before`, read `new` instead.

    A graph output keeps its name: `new` takes it over where it can, otherwise an Identity placed
    before `before` carries it. What `before` produced is then unread, and `before` may be removed.
    """
    if not old.is_graph_output():
        old.replace_all_uses_with(new)
        return
    name = old.name or ""
    if not can_take_name(old, new):
        assert old.graph is not None
        for user, index in old.uses():
            user.replace_input_with(index, new)
        carrier = ir.Node("", "Identity", [new], num_outputs=1, name=f"{name}/Identity")
        carrier.outputs[0].name = name
        old.graph.insert_before(before, carrier)
        new = carrier.outputs[0]
    old.name = None
    new.name = name
    if old.type is not None:
        new.type = old.type
    if old.shape is not None:
        new.shape = old.shape
    new.metadata_props.update(old.metadata_props)
    new.doc_string = old.doc_string or new.doc_string
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def remove_nodes(nodes: Iterable[ir.Node]) -> None:
    """Take `nodes`, which nothing reads any more, out of the graphs that hold them.

    What their subgraphs read from outside is released too.
    """
    by_graph: dict[ir.Graph, list[ir.Node]] = {}
    for node in nodes:
        if node.graph is not None:
            by_graph.setdefault(node.graph, []).append(node)
            for graph in subgraphs(node):
                for inner in all_nodes(graph):
                    for index in range(len(inner.inputs)):
                        inner.replace_input_with(index, None)
    for graph, held in by_graph.items():
        graph.remove(held, safe=True)


def new_node(
    op_type: str,
    inputs: Sequence[ir.Value | None],
    *,
    before: ir.Node,
    names: Names,
    hint: str,
    attributes: dict[str, ir.Attr] | None = None,
    num_outputs: int = 1,
) -> ir.Node:
    """A node of the standard operator set, placed before `before`, with fresh names from `hint`."""
    node = ir.Node(
        "",
        op_type,
        inputs,
        list((attributes or {}).values()),
        num_outputs=num_outputs,
        name=names.node(hint),
    )
    for index, output in enumerate(node.outputs):
        output.name = names.value(hint if index == 0 else f"{hint}_{index}")
    graph = before.graph
    assert graph is not None
    graph.insert_before(before, node)
    return node
