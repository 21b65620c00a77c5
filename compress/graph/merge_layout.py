"""Make one move of data out of several that follow each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from compress.graph.base import Pass
from compress.graph.fold_shapes import dimensions, reshape_target
from compress.graph.order import all_graphs
from compress.graph.rewrite import Names, add_initializer, small_integers
from compress.graph.traversal import attribute_int, attribute_ints, is_op, rank

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class MergeLayout(Pass):
    """Chains of reshapes, and chains of transposes, become one node each.

    Given:  `%a = Unsqueeze(%x, {1})`, `%y = Reshape(%a, {0, 128})`, `%b = Transpose(%y)`,
            `%z = Transpose(%b)`
    Result: `%y = Reshape(%x, {0, 128})`, `%z = Transpose(%y) {perm=[0,1]}`

    1. Reshape, Flatten, Squeeze, Unsqueeze behind one of these become a Reshape of what the first
       one reads, where the dimensions of input and output say its target. The first one stays if
       others read it. Pairs of Squeeze and Unsqueeze stay: onnxruntime looks for those of masks.
    2. A -1 in a Reshape's target that always is the input's dimension of the same position is
       written as 0, which shape inference follows. `allowzero` goes where it means nothing.
    3. A Transpose behind a Transpose takes both permutations.
    """

    name: ClassVar[str] = "merge-layout"

    def run(self, model: ir.Model) -> bool:
        """Merge in every graph; shapes are inferred and the graphs in topological order."""
        changed = False
        names: Names | None = None
        for graph in all_graphs(model.graph):
            for node in graph:
                if is_op(node, "Transpose"):
                    changed |= _merge_transposes(node)
                elif is_op(node, *_RESHAPES):
                    names = names or Names(model)
                    changed |= _merge_reshapes(node, names)
                    changed |= _copy_dimension(node, names)
        return changed


def _merge_transposes(node: ir.Node) -> bool:
    first = node.inputs[0].producer() if node.inputs[0] is not None else None
    if first is None or not is_op(first, "Transpose") or first.graph is not node.graph:
        return False
    length = rank(node.inputs[0])
    if length is None:
        return False
    backwards = tuple(reversed(range(length)))
    inner = attribute_ints(first, "perm") or backwards
    outer = attribute_ints(node, "perm") or backwards
    if any(sorted(order) != list(range(length)) for order in (inner, outer)):
        return False
    node.attributes["perm"] = ir.AttrInt64s("perm", [inner[axis] for axis in outer])
    node.replace_input_with(0, first.inputs[0])
    return True


def _merge_reshapes(node: ir.Node, names: Names) -> bool:
    first = node.inputs[0].producer() if node.inputs[0] is not None else None
    if first is None or not is_op(first, *_RESHAPES) or first.graph is not node.graph:
        return False
    source, graph = first.inputs[0], node.graph
    before, after = dimensions(source), dimensions(node.outputs[0])
    if before is None or after is None or source is None or graph is None or 0 in after:
        return False
    target = reshape_target(after, before)
    if target is None or (not is_op(first, "Reshape", "Flatten") and not is_op(node, "Reshape")):
        return False
    if -1 in target and after[target.index(-1)] in before:
        # Inference would no longer know which dimension that is.
        return False
    node.op_type = "Reshape"
    node.attributes.clear()
    node.resize_inputs(2)
    node.replace_input_with(0, source)
    name = names.value(f"{node.outputs[0].name}/shape")
    node.replace_input_with(1, add_initializer(graph, name, np.asarray(target, np.int64)))
    return True


def _copy_dimension(node: ir.Node, names: Names) -> bool:
    """Write the -1 of a Reshape as 0 where it stands for the input's dimension there."""
    if not is_op(node, "Reshape") or node.graph is None:
        return False
    given = small_integers(node.inputs[1], 64)
    dims = dimensions(node.inputs[0])
    if given is None or dims is None or given.ndim != 1:
        return False
    target = [int(d) for d in given.tolist()]
    if attribute_int(node, "allowzero", 0) and 0 in target:
        return False
    if target.count(-1) != 1:
        return node.attributes.pop("allowzero", None) is not None
    at = target.index(-1)
    if at >= len(dims) or any(d == 0 and i >= len(dims) for i, d in enumerate(target)):
        return False
    resolved = [dims[i] if d == 0 else d for i, d in enumerate(target) if i != at]
    others = [d for i, d in enumerate(dims) if i != at]
    if dims[at] is None or None in resolved or None in others or 0 in others:
        return False
    if _product(resolved) != _product(others):
        return False
    target[at] = 0
    node.attributes.pop("allowzero", None)
    name = names.value(f"{node.outputs[0].name}/shape")
    node.replace_input_with(1, add_initializer(node.graph, name, np.asarray(target, np.int64)))
    return True


def _product(dims: list[int | str | None]) -> tuple[int, list[str]]:
    number = 1
    for dim in dims:
        number *= dim if isinstance(dim, int) else 1
    return number, sorted(d for d in dims if isinstance(d, str))
