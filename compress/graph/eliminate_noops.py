"""Remove nodes that hand on what they read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from compress.graph.base import Pass
from compress.graph.order import all_graphs
from compress.graph.rewrite import (
    can_take_name,
    input_of,
    remove_nodes,
    replace_value,
    small_constant,
    small_integers,
)
from compress.graph.traversal import attribute_int, attribute_ints, is_op, rank, static_shape


@dataclass(frozen=True)
class EliminateNoOps(Pass):
    """Nodes whose output equals their first input, whatever the data, are gone.

    Given:  `%a = Identity(%x)`, `%b = Cast(%a) {to=FLOAT}` of a float, `%y = Relu(%b)`
    Result: `%y = Relu(%x)`

    1. Always: Identity; Dropout and a Clip without bounds; Concat, Sum, Mean, Max, Min of one
       input; Split into one part.
    2. Where dtypes, shapes and constants prove it: Cast, CastLike, Reshape, Flatten, Expand, Tile,
       Transpose, Pad, Slice, Resize, Squeeze and Unsqueeze without axes.
    3. Names of graph outputs survive: an Identity from an input, an initialiser, an outer value or
       another output to an output is the only one that stays, and replaces the others there.
    """

    name: ClassVar[str] = "eliminate-no-ops"

    def run(self, model: ir.Model) -> bool:
        """Remove the no-ops of every graph."""
        changed = False
        for graph in all_graphs(model.graph):
            for node in list(graph):
                source = passed_through(node)
                if source is None:
                    continue
                output = node.outputs[0]
                is_carrier = is_op(node, "Identity") and output.is_graph_output()
                if is_carrier and not can_take_name(output, source):
                    continue
                replace_value(output, source, node)
                remove_nodes([node])
                changed = True
        return changed


def passed_through(node: ir.Node) -> ir.Value | None:
    """The input that the first output of `node` always equals, if it is the only one read."""
    rule = _RULES.get(node.op_type)
    if rule is None or not is_op(node, node.op_type) or not node.inputs or node.inputs[0] is None:
        return None
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]) or not rule(node):
        return None
    return node.inputs[0]


def _always(node: ir.Node) -> bool:
    return True


def _has_one_input(node: ir.Node) -> bool:
    return len(node.inputs) == 1


def _has_one_output(node: ir.Node) -> bool:
    return len(node.outputs) == 1


def _is_inference(node: ir.Node) -> bool:
    training = input_of(node, 2)
    known = small_constant(training)
    return training is None or (known is not None and not known.any())


def _has_no_bounds(node: ir.Node) -> bool:
    return input_of(node, 1) is None and input_of(node, 2) is None


def _casts_to_same(node: ir.Node) -> bool:
    x = node.inputs[0]
    return x is not None and x.dtype is not None and attribute_int(node, "to", 0) == x.dtype.value


def _casts_like_same(node: ir.Node) -> bool:
    x, like = node.inputs[0], input_of(node, 1)
    if x is None or like is None or x.dtype is None:
        return False
    return x.dtype == like.dtype


def _keeps_order(node: ir.Node) -> bool:
    permutation = attribute_ints(node, "perm")
    if permutation is None:
        dims = rank(node.inputs[0])
        return dims is not None and dims < 2
    return list(permutation) == list(range(len(permutation)))


def _keeps_shape(node: ir.Node) -> bool:
    """Reshape to what the shape already is; one -1 stands for whatever is left over."""
    x = node.inputs[0]
    before = static_shape(x)
    if before is not None and before == static_shape(node.outputs[0]):
        return True
    target = small_integers(input_of(node, 1))
    if x is None or x.shape is None or target is None or target.size != len(x.shape):
        return False
    copies_zero = not attribute_int(node, "allowzero", 0)
    open_ends = 0
    for wanted, dim in zip(target.ravel().tolist(), x.shape, strict=True):
        if wanted == -1:
            open_ends += 1
        elif not (wanted == dim or (wanted == 0 and copies_zero)):
            return False
    return open_ends <= 1


def _same_static_shape(node: ir.Node) -> bool:
    before = static_shape(node.inputs[0])
    return before is not None and before == static_shape(node.outputs[0])


def _is_matrix(node: ir.Node) -> bool:
    return rank(node.inputs[0]) == 2 and attribute_int(node, "axis", 1) in (1, -1)


def _expands_nothing(node: ir.Node) -> bool:
    x, target = node.inputs[0], small_integers(input_of(node, 1))
    if x is None or x.shape is None or target is None or target.size > len(x.shape):
        return _same_static_shape(node)
    dims = list(x.shape)[len(x.shape) - target.size :]
    return all(w in (1, d) for w, d in zip(target.ravel().tolist(), dims, strict=True))


def _all_equal(index: int, wanted: float) -> Callable[[ir.Node], bool]:
    def rule(node: ir.Node) -> bool:
        known = small_constant(input_of(node, index))
        return known is not None and known.size > 0 and bool(np.all(known == wanted))

    return rule


def _takes_everything(node: ir.Node) -> bool:
    """Slice from 0 in steps of 1 to at least the end of every axis it names."""
    starts, ends = (small_integers(input_of(node, i)) for i in (1, 2))
    x = node.inputs[0]
    if starts is None or ends is None or x is None or x.shape is None:
        return False
    steps = input_of(node, 4)
    if steps is not None and not _all_equal(4, 1)(node):
        return False
    axes = small_integers(input_of(node, 3))
    if axes is None and input_of(node, 3) is not None:
        return False
    axis_list = range(starts.size) if axes is None else axes.ravel().tolist()
    bounds = zip(axis_list, starts.ravel().tolist(), ends.ravel().tolist(), strict=False)
    for axis, start, end in bounds:
        dim = x.shape[axis] if -len(x.shape) <= axis < len(x.shape) else None
        far = end >= dim if isinstance(dim, int) else end >= 2**31 - 1
        if start != 0 or not far:
            return False
    return True


def _keeps_size(node: ir.Node) -> bool:
    if input_of(node, 2) is not None and input_of(node, 1) is None:
        return _all_equal(2, 1)(node)
    return False


def _has_no_axes(node: ir.Node) -> bool:
    axes = small_integers(input_of(node, 1))
    return axes is not None and axes.size == 0


_RULES: Mapping[str, Callable[[ir.Node], bool]] = {
    "Cast": _casts_to_same,
    "CastLike": _casts_like_same,
    "Clip": _has_no_bounds,
    "Concat": _has_one_input,
    "Dropout": _is_inference,
    "Expand": _expands_nothing,
    "Flatten": _is_matrix,
    "Identity": _always,
    "Max": _has_one_input,
    "Mean": _has_one_input,
    "Min": _has_one_input,
    "Pad": _all_equal(1, 0),
    "Reshape": _keeps_shape,
    "Resize": _keeps_size,
    "Slice": _takes_everything,
    "Split": _has_one_output,
    "Squeeze": _same_static_shape,
    "Sum": _has_one_input,
    "Tile": _all_equal(1, 1),
    "Transpose": _keeps_order,
    "Unsqueeze": _has_no_axes,
}
