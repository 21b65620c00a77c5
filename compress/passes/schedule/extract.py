"""From a model to the scheduling problem: which bytes exist, who makes and who reads them."""

from __future__ import annotations

import dataclasses
import math

import onnx_ir as ir

from compress.errors import ModelError
from compress.graph.order import shown
from compress.graph.traversal import attribute_int, is_op, static_shape
from compress.passes.schedule.kernels import (
    VIEWS,
    Kernel,
    find_kernels,
    looked_up_bytes,
    value_bytes,
)
from compress.passes.schedule.problem import Graph, Operator, Share, Tensor

ELEMENTWISE = frozenset(
    {
        "Abs", "Add", "BatchNormalization", "Cast", "Ceil", "Clip", "Cos", "DequantizeLinear",
        "Div", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu",
        "Log", "Max", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "QuantizeLinear",
        "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign",
        "Sqrt", "Sub", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where",
    }
)  # fmt: skip
"""Element i of the output depends on element i of inputs of that shape, and on no other."""


@dataclasses.dataclass(frozen=True, eq=False)
class Extracted:
    """A scheduling problem and the model that it speaks of.

    Attributes:
        model: the canonical model.
        graph: the problem. Tensors are named after values of the model, operators after nodes.
        kernels: by operator, the nodes behind it.
        values: by tensor, the value behind it.
        streamed: by operator, the weights that it alone reads; their bytes are its workspace.
        results: network output -> tensor that has its bytes. They differ in name where the output
            is a view.
        constants: network output -> constant that it always is.
    """

    model: ir.Model
    graph: Graph
    kernels: tuple[Kernel, ...]
    values: tuple[ir.Value, ...]
    streamed: tuple[tuple[ir.Value, ...], ...]
    results: dict[str, int]
    constants: dict[str, ir.Value]


def extract(model: ir.Model) -> Extracted:
    """The scheduling problem of a canonical model, whose shapes are all fixed.

    - Nodes that run as one are one operator (see `find_kernels`): layers with their activation,
      and dequantize, operator, quantize of an integer model, whose tensors are the integers.
    - Network inputs are external tensors, network outputs kept ones. Views are their source.
    - Weights that one operator reads are its workspace, streamed in; those that several read are
      external tensors. Small constants are part of the program (see `is_code`), and of tables
      that rows are looked up in, those rows are streamed in.
    - Elementwise operators may write over an input of the same size; the parts of a
      concatenation may lie in it where they are contiguous there.

    Raises:
        ModelError: dimensions that are not fixed, control flow, or values without a size.
    """
    check_inputs(model)
    found = find_kernels(model)
    readers: dict[ir.Value, int] = {}
    for kernel in found.kernels:
        for weight in kernel.weights:
            readers[weight] = readers.get(weight, 0) + 1
    common = [weight for weight, count in readers.items() if count > 1]
    values = (*found.stored, *common)
    index = {value: number for number, value in enumerate(values)}
    results = {name: index[value] for name, value in found.results.items() if value in index}
    constants = {name: value for name, value in found.results.items() if value not in index}
    kept = frozenset(results.values())
    tensors = tuple(
        Tensor(
            str(value.name),
            _size(value),
            external=value.producer() is None,
            kept=number in kept,
        )
        for number, value in enumerate(values)
    )
    operators, streamed = [], []
    for kernel in found.kernels:
        shared = [weight for weight in kernel.weights if weight in index]
        own = tuple(weight for weight in kernel.weights if weight not in index)
        weight_bytes = sum(value_bytes(weight) for weight in own)
        operators.append(
            Operator(
                kernel.name,
                tuple(index[value] for value in (*kernel.inputs, *shared)),
                tuple(index[value] for value in kernel.outputs),
                workspace=weight_bytes,
                streamed=weight_bytes + looked_up_bytes(kernel),
                shares=tuple(_shares(kernel, index)),
            )
        )
        streamed.append(own)
    graph = Graph(tuple(operators), tensors)
    return Extracted(model, graph, found.kernels, values, tuple(streamed), results, constants)


def check_inputs(model: ir.Model) -> None:
    """
    Raises:
        ModelError: an input has dimensions that are not fixed.
    """
    for value in model.graph.inputs:
        if value.is_initializer() or static_shape(value) is not None:
            continue
        if value.shape is None:
            raise ModelError(
                f"input {shown(value.name)} has no shape: fix it as in --shape "
                f"{value.name}=1x3x224x224"
            )
        dims = [d if isinstance(d, int) else str(d.value or "?") for d in value.shape.dims]
        example = "x".join(str(d) if isinstance(d, int) else "1" for d in dims)
        raise ModelError(
            f"input {shown(value.name)} has dynamic dimensions ({' x '.join(map(str, dims))}): "
            f"fix them, as in --shape {value.name}={example}"
        )


def _size(value: ir.Value) -> int:
    count = value_bytes(value)
    if count < 1:
        raise ModelError(f"{shown(value.name)} has no elements: it cannot be scheduled")
    return count


def _shares(kernel: Kernel, index: dict[ir.Value, int]) -> list[Share]:
    if len(kernel.outputs) != 1:
        return []
    output = kernel.outputs[0]
    if is_op(kernel.root, "Concat"):
        return _concatenated(kernel, output, index)
    if not all(node.op_type in ELEMENTWISE | VIEWS and not node.domain for node in kernel.nodes):
        return []
    return [
        Share(index[value], index[output])
        for value in kernel.inputs
        if value_bytes(value) == value_bytes(output) and _elements(value) == _elements(output)
    ]


def _elements(value: ir.Value) -> int:
    return math.prod(static_shape(value) or (0,))


def _concatenated(kernel: Kernel, output: ir.Value, index: dict[ir.Value, int]) -> list[Share]:
    """Parts that are one piece of the result: all dimensions before the axis are 1."""
    shape = static_shape(kernel.root.outputs[0])
    tail = kernel.nodes[kernel.nodes.index(kernel.root) + 1 :]
    if shape is None or not shape or any(node.op_type not in ELEMENTWISE for node in tail):
        return []
    axis = attribute_int(kernel.root, "axis", 0) % len(shape)
    if math.prod(shape[:axis]) != 1:
        return []
    total = math.prod(shape)
    width = value_bytes(output) // total
    if width * total != value_bytes(output):
        return []
    shares: dict[ir.Value, Share] = {}
    twice: set[ir.Value] = set()
    offset = 0
    for part in kernel.root.inputs:
        if part is None:
            continue
        size = math.prod(static_shape(part) or (0,)) * width
        source = _source(kernel, part)
        if source in shares:
            twice.add(source)
        if source in index and value_bytes(source) == size:
            shares[source] = Share(index[source], index[output], offset)
        offset += size
    return [share for value, share in shares.items() if value not in twice]


def _source(kernel: Kernel, value: ir.Value) -> ir.Value:
    """The stored value that a value inside a kernel comes from, element by element."""
    while value not in kernel.inputs and (node := value.producer()) is not None:
        if node not in kernel.nodes or node.inputs[0] is None:
            break
        value = node.inputs[0]
    return value
