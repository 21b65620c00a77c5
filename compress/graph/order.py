"""Topological order without recursion, and the one line that names a cycle."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import onnx_ir as ir

from compress.errors import ModelError

DEFAULT_DOMAINS = ("", "ai.onnx")
"""The two spellings of the standard operator set's domain."""


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs held directly by the attributes of `node`, in the order of its attributes."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS and not attribute.is_ref():
            yield from attribute.as_graphs()


def all_graphs(root: ir.Graph) -> list[ir.Graph]:
    """`root` and every graph nested in it at any depth, outer before inner."""
    graphs = [root]
    for graph in graphs:
        for node in graph:
            if node.attributes:
                graphs.extend(subgraphs(node))
    return graphs


def all_nodes(root: ir.Graph) -> Iterator[ir.Node]:
    """Every node of `root` and of the graphs nested in it; the nodes of one graph are adjacent."""
    for graph in all_graphs(root):
        yield from graph


def captured_values(node: ir.Node) -> list[ir.Value]:
    """Values that the subgraphs of `node` read from outside themselves, each once."""
    inner = [nested for graph in subgraphs(node) for nested in all_graphs(graph)]
    owned = {id(graph) for graph in inner}
    found: dict[ir.Value, None] = {}
    for graph in inner:
        for user in graph:
            for value in user.inputs:
                if value is not None and id(value.graph) not in owned:
                    found[value] = None
        for value in graph.outputs:
            if id(value.graph) not in owned:
                found[value] = None
    return list(found)


def shown(name: str | None) -> str:
    """`name` in quotes, fit for a message of one line: control characters and long middles go."""
    text = "".join(c if c.isprintable() else "?" for c in name or "unnamed")
    return f"'{text}'" if len(text) <= 100 else f"'{text[:60]}...{text[-30:]}'"


def node_label(node: ir.Node) -> str:
    """How messages name a node: its operator, and its own or its first output's name."""
    name = node.name or next((v.name for v in node.outputs if v.name), None)
    operator = f"{node.domain + '.' if node.domain else ''}{node.op_type}"
    return f"{shown(operator)[1:-1]} node {shown(name)}"


def topological_order(graph: ir.Graph | ir.Function) -> list[ir.Node]:
    """Nodes of `graph` (not of its subgraphs) so that producers precede consumers.

    Keeps the present order as far as dependencies allow, so a sorted graph is returned as it is.

    Raises:
        ModelError: the graph has a cycle.
    """
    nodes = list(graph)
    position = {node: index for index, node in enumerate(nodes)}
    waiting = [0] * len(nodes)
    successors: list[list[int]] = [[] for _ in nodes]
    for index, node in enumerate(nodes):
        reads = [value for value in node.inputs if value is not None]
        if any(True for _ in subgraphs(node)):
            reads.extend(captured_values(node))
        for producer in {value.producer() for value in reads}:
            if producer is not None and producer in position:
                successors[position[producer]].append(index)
                waiting[index] += 1
    ready = [index for index, count in enumerate(waiting) if count == 0]
    heapq.heapify(ready)
    order: list[ir.Node] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(nodes[index])
        for successor in successors[index]:
            waiting[successor] -= 1
            if waiting[successor] == 0:
                heapq.heappush(ready, successor)
    if len(order) != len(nodes):
        stuck = nodes[next(index for index, count in enumerate(waiting) if count)]
        raise ModelError(f"the graph has a cycle through {node_label(stuck)}: export it again")
    return order


def sort_graphs(root: ir.Graph) -> bool:
    """Bring `root` and its subgraphs into topological order in place; whether any moved."""
    moved = False
    for graph in all_graphs(root):
        order = topological_order(graph)
        if order != list(graph):
            graph.extend(order)
            moved = True
    return moved
