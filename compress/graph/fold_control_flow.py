"""Put in place of an If the branch that is known to be taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from compress.graph.base import Pass
from compress.graph.order import all_graphs, subgraphs
from compress.graph.rewrite import (
    Names,
    input_of,
    remove_nodes,
    rename,
    replace_value,
    small_constant,
)
from compress.graph.traversal import is_op


@dataclass(frozen=True)
class FoldControlFlow(Pass):
    """An If whose condition is known becomes the nodes of its branch.

    Given:  `init %c {True}`, `%y = If(%c)` with `then_branch: %t = Relu(%x)`, output `%t`
    Result: `%t = Relu(%x)`, and what read `%y` reads `%t`

    1. The condition is an initialiser, or the If is nested in a branch that the same condition
       decides.
    2. Nested Ifs likewise, at any depth. Values of the branch keep their names where nothing
       around has them, and the outputs of the model keep theirs always.
    3. Other Ifs, Loop and Scan stay as they are.
    """

    name: ClassVar[str] = "fold-control-flow"

    def run(self, model: ir.Model) -> bool:
        """Fold in every graph, outer graphs first."""
        if not any(is_op(n, "If") for g in all_graphs(model.graph) for n in g):
            return False
        names = Names(model)
        changed = False
        work: list[tuple[ir.Graph, dict[ir.Value, bool]]] = [(model.graph, {})]
        while work:
            graph, assumed = work.pop()
            # A branch may bring further Ifs, so the list grows while it is walked.
            nodes = list(graph)
            for node in nodes:
                taken = _taken_branch(node, assumed)
                if taken is not None:
                    nodes.extend(_inline(node, taken, names))
                    changed = True
                    continue
                for inner in subgraphs(node):
                    work.append((inner, assumed | _assumption(node, inner)))
        return changed


def _taken_branch(node: ir.Node, assumed: dict[ir.Value, bool]) -> ir.Graph | None:
    if not is_op(node, "If"):
        return None
    condition = input_of(node, 0)
    array = small_constant(condition, 1)
    if array is not None and array.size == 1:
        truth = bool(array.reshape(()))
    elif condition in assumed:
        truth = assumed[condition]
    else:
        return None
    branch = node.attributes.get("then_branch" if truth else "else_branch")
    if branch is None or branch.is_ref() or branch.type != ir.AttributeType.GRAPH:
        return None
    graph = branch.as_graph()
    return graph if len(graph.outputs) == len(node.outputs) and not graph.inputs else None


def _assumption(node: ir.Node, branch: ir.Graph) -> dict[ir.Value, bool]:
    condition = input_of(node, 0)
    then_branch = node.attributes.get("then_branch")
    if not is_op(node, "If") or condition is None or then_branch is None or then_branch.is_ref():
        return {}
    return {condition: branch is then_branch.as_graph()}


def _inline(node: ir.Node, branch: ir.Graph, names: Names) -> list[ir.Node]:
    """Move the contents of `branch` before `node`, and drop `node`; the nodes that moved."""
    graph = node.graph
    assert graph is not None
    results = list(branch.outputs)
    branch.outputs.clear()
    for value in list(branch.initializers.values()):
        # Names are unique in the whole model once `NameValues` ran; a model fresh from a file may
        # use one in both branches.
        del branch.initializers[value.name or ""]
        if value.name in graph.initializers:
            rename(value, names.value(value.name or "value"))
        graph.register_initializer(value)
    moved = list(branch)
    branch.remove(moved)
    graph.insert_before(node, moved)
    for old, new in zip(node.outputs, results, strict=True):
        if old.uses() or old.is_graph_output():
            replace_value(old, new, node)
    remove_nodes([node])
    return moved
