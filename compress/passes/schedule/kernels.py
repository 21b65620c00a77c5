"""The operators that a schedule speaks about, in the model's terms: nodes that run as one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator

import onnx_ir as ir

from compress.errors import ModelError
from compress.graph.layers import SATURABLE, SATURATING, SMOOTH, WEIGHTED, find_layers
from compress.graph.order import node_label, shown, subgraphs
from compress.graph.traversal import (
    attribute_int,
    is_constant,
    is_op,
    sole_consumer,
    static_shape,
)

VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
"""Operators whose output is their input's bytes under another shape."""

CODE_BYTES = 64
"""Constants up to this size (shapes, axes, pads, bounds: eight int64) are part of the program."""


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """Nodes that run as one operator, and what they exchange with memory.

    Attributes:
        name: the root's name.
        root: the node that decides what the operator is.
        nodes: all of them, in an order that runs. Views and dequantizations of inputs come first,
            and stand in each kernel that reads their result.
        inputs: stored values that are read, each once, in the order of use.
        outputs: stored values that are written, in the root's order.
        weights: large constants that are read: see `is_code` for those that are not listed.
    """

    name: str
    root: ir.Node
    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]
    weights: tuple[ir.Value, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Kernels:
    """A model as kernels, in its order.

    Attributes:
        stored: values that have a place in memory: network inputs, then what kernels write.
        results: network output -> the stored value that has its bytes; they differ for views.
    """

    kernels: tuple[Kernel, ...]
    stored: tuple[ir.Value, ...]
    results: dict[str, ir.Value]


def find_kernels(model: ir.Model) -> Kernels:
    """The kernels of a canonical model.

    1. A layer (an operator with the bias and activation that fuse into it) is one kernel, in float
       or between Quantize- and DequantizeLinear.
    2. A QuantizeLinear that alone reads a kernel's output belongs to it: the integers are stored.
    3. DequantizeLinear and views (see `VIEWS`) are nobody's own: each kernel that reads their
       result takes them in and reads what they read. Only a DequantizeLinear (or a view of one)
       whose result is a network output is a kernel itself.

    Raises:
        ModelError: control flow, or values that have no fixed shape.
    """
    for node in model.graph:
        if any(True for _ in subgraphs(node)):
            raise ModelError(
                f"{node_label(node)} is control flow, which cannot be scheduled ahead: export the "
                "model without it, or fix the input that decides with --set"
            )
    finder = _Finder(model)
    return finder.kernels()


def is_code(value: ir.Value) -> bool:
    """Whether a constant is part of the program instead of being loaded.

    Those of up to `CODE_BYTES` bytes are, and the scales and zero points of quantizations. So are
    tables that rows are looked up in: they stay off chip, and only those rows cross the border.
    """
    if value.const_value is None:
        return False
    if value.const_value.nbytes <= CODE_BYTES or _is_table(value):
        return True
    return all(
        is_op(use.node, "QuantizeLinear", "DequantizeLinear") and use.idx > 0
        for use in value.uses()
    )


def _is_table(value: ir.Value) -> bool:
    """Whether rows are looked up in a value, dequantized or not, and nothing else is done to it."""
    return bool(value.uses()) and all(
        use.idx == 0
        and (
            (is_op(use.node, "Gather") and attribute_int(use.node, "axis", 0) == 0)
            or (is_op(use.node, "DequantizeLinear") and _is_table(use.node.outputs[0]))
        )
        for use in value.uses()
    )


def looked_up_bytes(kernel: Kernel) -> int:
    """Bytes of the rows that a kernel reads of a large table that stays off chip, as it runs."""
    if not is_op(kernel.root, "Gather"):
        return 0
    table = kernel.root.inputs[0]
    producer = None if table is None else table.producer()
    if producer is not None and is_op(producer, "DequantizeLinear"):
        table = producer.inputs[0]
    if table is None or not is_constant(table) or table.const_value is None:
        return 0
    if table.const_value.nbytes <= CODE_BYTES or not _is_table(table):
        return 0
    elements = math.prod(static_shape(kernel.root.outputs[0]) or ())
    return -(-elements * int(table.const_value.dtype.bitwidth) // 8)


def value_bytes(value: ir.Value) -> int:
    """Bytes of a value with a fixed shape.

    Raises:
        ModelError: its shape is not fixed, or it holds no numbers.
    """
    if value.const_value is not None and not value.is_graph_input():
        return int(value.const_value.nbytes)
    shape, dtype = static_shape(value), value.dtype
    if shape is None:
        raise ModelError(
            f"the size of {shown(value.name)} depends on the data: it cannot be scheduled ahead"
        )
    if dtype is None or dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED):
        raise ModelError(f"{shown(value.name)} holds no numbers: it cannot be scheduled")
    return -(-math.prod(shape) * int(dtype.bitwidth) // 8)


class _Finder:
    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph
        self.position = {id(node): number for number, node in enumerate(model.graph)}
        self.members: dict[int, tuple[ir.Node, ...]] = {}
        """By root, the nodes from it to what the kernel writes."""
        taken: set[int] = set()
        layers = {id(layer.node): layer.members for layer in find_layers(model)}
        for node in model.graph:
            if id(node) in taken or self.folds(node):
                continue
            self.members[id(node)] = self._chain(layers.get(id(node), (node,)))
            taken.update(id(member) for member in self.members[id(node)])

    def folds(self, node: ir.Node) -> bool:
        """Whether readers take the node in."""
        if is_op(node, "DequantizeLinear"):
            return not node.outputs[0].is_graph_output()
        if not is_op(node, *VIEWS) or any(v and not is_constant(v) for v in node.inputs[1:]):
            return False
        source = self.origin(node.inputs[0])
        dequantized = source is not None and is_op(source.producer(), "DequantizeLinear")
        return not (dequantized and node.outputs[0].is_graph_output())

    def origin(self, value: ir.Value | None) -> ir.Value | None:
        """What a value is a view of; itself if it is none."""
        while value is not None and (node := value.producer()) is not None:
            if not is_op(node, *VIEWS) or not self.folds(node):
                break
            value = node.inputs[0]
        return value

    def _chain(self, layer: tuple[ir.Node, ...]) -> tuple[ir.Node, ...]:
        """A layer with the bias, the activation and the quantization that alone read it."""
        nodes = list(layer)
        if len(layer) == 1 and layer[0].op_type in WEIGHTED | SATURABLE and not layer[0].domain:
            if (bias := self._bias_after(layer[0])) is not None:
                nodes.append(bias)
            after = self._reader(nodes[-1])
            others = [v for v in after.inputs[1:] if v is not None] if after else []
            if is_op(after, *SATURATING, *SMOOTH) and all(map(is_constant, others)):
                assert after is not None
                nodes.append(after)
        after = self._reader(nodes[-1])
        if after is not None and is_op(after, "QuantizeLinear"):
            nodes.append(after)
        return tuple(nodes)

    @staticmethod
    def _bias_after(node: ir.Node) -> ir.Node | None:
        """The addition of a constant, dequantized or not, that alone reads a MatMul's output."""
        reader = sole_consumer(node.outputs[0])
        if not is_op(node, "MatMul") or reader is None or not is_op(reader, "Add"):
            return None
        others = [v for v in reader.inputs if v is not None and v is not node.outputs[0]]
        shape = static_shape(node.outputs[0])
        if len(others) != 1 or shape is None or static_shape(reader.outputs[0]) != shape:
            return None
        producer = others[0].producer()
        if is_op(producer, "DequantizeLinear") and producer is not None:
            return reader if is_constant(producer.inputs[0]) else None
        return reader if is_constant(others[0]) else None

    @staticmethod
    def _reader(node: ir.Node) -> ir.Node | None:
        """The node that alone reads the only output of `node`, as its first input."""
        if len(node.outputs) != 1:
            return None
        reader = sole_consumer(node.outputs[0])
        return reader if reader is not None and reader.inputs[0] is node.outputs[0] else None

    def kernels(self) -> Kernels:
        found = []
        stored: dict[ir.Value, None] = dict.fromkeys(
            v for v in self.graph.inputs if not v.is_initializer()
        )
        for node in self.graph:
            if id(node) not in self.members:
                continue
            kernel = self._kernel(node, self.members[id(node)])
            found.append(kernel)
            stored.update(dict.fromkeys(kernel.outputs))
        results: dict[str, ir.Value] = {}
        for output in self.graph.outputs:
            source = self.origin(output)
            assert source is not None
            results[str(output.name)] = source
        return Kernels(tuple(found), tuple(stored), results)

    def _kernel(self, root: ir.Node, members: tuple[ir.Node, ...]) -> Kernel:
        inside = {id(value) for node in members for value in node.outputs}
        before: dict[int, ir.Node] = {}
        inputs: dict[ir.Value, None] = {}
        weights: dict[ir.Value, None] = {}
        waiting = [v for node in reversed(members) for v in reversed(_reads(node))]
        while waiting:
            value = waiting.pop()
            producer = value.producer()
            if id(value) in inside:
                continue
            if is_constant(value):
                if not is_code(value):
                    weights[value] = None
            elif producer is not None and self.folds(producer):
                before[id(producer)] = producer
                waiting.extend(reversed(_reads(producer)))
            else:
                inputs[value] = None
        first = sorted(before.values(), key=lambda node: self.position[id(node)])
        outputs = tuple(v for v in members[-1].outputs if v.name)
        return Kernel(
            str(root.name), root, (*first, *members), tuple(inputs), outputs, tuple(weights)
        )


def _reads(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None]


def order_nodes(kernels: Iterable[Kernel], nodes: Iterable[ir.Node]) -> Iterator[ir.Node]:
    """The nodes of a graph so that kernels run in the given order.

    Args:
        kernels: all of them, in their new order.
        nodes: of the graph, in an order that runs.
    """
    done: set[int] = set()
    for kernel in kernels:
        for node in kernel.nodes:
            if id(node) not in done:
                done.add(id(node))
                yield node
    for node in nodes:
        if id(node) not in done:
            yield node
