"""Small questions about a graph that every pass asks, and the edits that every rewrite needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


def constant(value: ir.Value | None) -> npt.NDArray[np.generic] | None:
    """The value's array if it is an initialiser (or otherwise known), else None. May be a view."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """The number held by a constant with one element, else None."""
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    array = constant(value)
    return None if array is None else float(array.reshape(()))


def is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and not value.is_graph_input()


def sole_consumer(value: ir.Value) -> ir.Node | None:
    """The only node that reads `value`, if there is exactly one and it is not a graph output.

    None as well if that node stands in a subgraph: it may never run, or more than once.
    """
    if value.is_graph_output():
        return None
    consumers = {id(usage.node): usage.node for usage in value.uses()}
    reader = next(iter(consumers.values())) if len(consumers) == 1 else None
    producer = value.producer()
    inside = reader is not None and producer is not None and reader.graph is not producer.graph
    return None if inside else reader


def consumers(value: ir.Value) -> list[ir.Node]:
    """The distinct nodes that read `value`, in order of use."""
    return list({id(usage.node): usage.node for usage in value.uses()}.values())


def is_op(node: ir.Node | None, *op_types: str, domain: str = "") -> bool:
    return node is not None and node.domain == domain and node.op_type in op_types


def attribute_int(node: ir.Node, name: str, default: int) -> int:
    attr = node.attributes.get(name)
    return default if attr is None else int(attr.as_int())


def attribute_float(node: ir.Node, name: str, default: float) -> float:
    attr = node.attributes.get(name)
    return default if attr is None else float(attr.as_float())


def attribute_ints(node: ir.Node, name: str) -> tuple[int, ...] | None:
    attr = node.attributes.get(name)
    return None if attr is None else tuple(int(i) for i in attr.as_ints())


def owner(node: ir.Node) -> ir.Graph:
    graph = node.graph
    if not isinstance(graph, ir.Graph):
        raise TypeError(f"node {node.name} belongs to no graph")
    return graph


def new_initializer(graph: ir.Graph, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """Registers `array` under a name not yet used in the graph (numbered if it is taken)."""
    unique, number = name, 1
    while unique in graph.initializers:
        unique, number = f"{name}_{number}", number + 1
    # onnx stores arrays C-contiguous; a view would otherwise be copied at every access
    tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=unique)
    value = ir.Value(
        name=unique,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def replace(old: ir.Value, new: ir.Value) -> None:
    """Every reader of `old`, graph outputs included, reads `new`; `new` takes over the type.

    A graph output keeps its name: `new` is renamed to it, and `old` gets a name of its own.
    """
    if new.shape is None:
        new.shape = old.shape
    if new.type is None:
        new.type = old.type
    if old.is_graph_output():
        name = old.name
        old.name = f"{name}_replaced"
        new.name = name
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    else:
        ir.convenience.replace_all_uses_with(old, new)


def remove_dead(nodes: Iterable[ir.Node]) -> None:
    """Removes those of `nodes` that nobody reads, then what only they read, upwards."""
    stack: list[ir.Node] = list(nodes)
    while stack:
        node = stack.pop()
        if node.graph is None or any(o.uses() or o.is_graph_output() for o in node.outputs):
            continue
        producers = [p for p in (v.producer() for v in node.inputs if v is not None) if p]
        owner(node).remove(node, safe=True)
        stack.extend(producers)


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape if every dimension is a number."""
    if value is None or value.shape is None:
        return None
    dims: Sequence[object] = value.shape.dims
    return tuple(d for d in dims if isinstance(d, int)) if value.shape.is_static() else None


def rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)
