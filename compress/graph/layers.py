"""What techniques and the selector speak about: operators with the neighbours that fuse."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import onnx_ir as ir

from compress.graph.traversal import (
    attribute_int,
    constant,
    is_constant,
    is_op,
    rank,
    scalar,
    sole_consumer,
)

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that carry weights when their second input is a constant."""


SATURATING = frozenset({"Relu", "Clip"})
"""Activations that an integer range enforces for free."""

SATURABLE = frozenset({"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool"})
"""Operators without weights whose integer kernels write a range, and so saturate as well."""

SMOOTH = frozenset({"HardSigmoid", "HardSwish", "LeakyRelu", "Sigmoid", "Tanh"})
"""Activations that onnxruntime fuses into a float convolution, but not into an integer one."""


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """One operator of the main graph with what the runtime fuses into it.

    `inputs` are the variable inputs (activations) in the operator's order; `output` is the value
    after the fused bias and activation; `members` are the nodes covered, the operator first.
    Operators without weights (Add, Concat, pooling...) are layers too, with `weight` None: they
    decide whether a chain can stay in int8.
    """

    name: str
    op: str
    node: ir.Node
    inputs: tuple[ir.Value, ...]
    output: ir.Value
    members: tuple[ir.Node, ...]
    weight: ir.Value | None = None
    bias: ir.Value | None = None
    activation: ir.Node | None = None

    @property
    def depthwise(self) -> bool:
        """A convolution with one input channel per group and as many groups as channels."""
        if self.op != "Conv" or self.weight is None or self.weight.shape is None:
            return False
        group = attribute_int(self.node, "group", 1)
        dims = self.weight.shape.dims
        return group > 1 and dims[1] == 1 and dims[0] == group

    @property
    def smooth(self) -> bool:
        """Whether the fused activation has to be computed in float even in an integer form."""
        return self.activation is not None and self.activation.op_type in SMOOTH

    @property
    def saturating(self) -> bool:
        """Whether the fused activation only cuts off, which an integer range does by itself."""
        return self.activation is not None and self.activation.op_type in SATURATING

    @property
    def kind(self) -> str:
        """The operator's name as tables show it; depthwise convolutions by their own name."""
        return "DepthwiseConv" if self.depthwise else self.op

    @property
    def weight_bytes(self) -> int:
        return self.weight.const_value.nbytes if self.weight and self.weight.const_value else 0

    def macs(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Multiply-accumulates of one inference at these value shapes; 0 without weights."""
        out = shapes.get(str(self.output.name)) or shapes.get(str(self.node.outputs[0].name))
        if out is None or self.weight is None or self.weight.shape is None:
            return 0
        weight = [int(d) for d in self.weight.shape.dims if isinstance(d, int)]
        elements = 1
        for size in out:
            elements *= size
        if self.op == "Conv":
            taps = weight[1]
            for size in weight[2:]:
                taps *= size
            return elements * taps
        if self.op == "ConvTranspose":
            source = shapes.get(str(self.inputs[0].name), ())
            elements = 1
            for size in source:
                elements *= size
            taps = weight[1]
            for size in weight[2:]:
                taps *= size
            return elements * taps
        transposed = self.op == "Gemm" and attribute_int(self.node, "transB", 0)
        # a stack of matrices has its rows on the last axis but one
        return elements * (weight[1] if transposed else weight[-2:][0])


def _activation_after(value: ir.Value) -> ir.Node | None:
    """The activation that alone reads `value`; a Clip only if its bounds are constants."""
    reader = sole_consumer(value)
    if is_op(reader, "Relu", *SMOOTH):
        return reader
    if reader is not None and is_op(reader, "Clip") and reader.inputs[0] is value:
        bounds = [v for v in reader.inputs[1:] if v is not None]
        if all(scalar(v) is not None for v in bounds):
            return reader
    return None


def _bias_after(node: ir.Node) -> tuple[ir.Node, ir.Value] | None:
    """The Add of a constant vector along the last axis that alone reads a MatMul's output."""
    reader = sole_consumer(node.outputs[0])
    if reader is None or not is_op(reader, "Add"):
        return None
    weight = constant(node.inputs[1])
    for value in reader.inputs:
        if value is None or value is node.outputs[0] or not is_constant(value):
            continue
        array = constant(value)
        ndim = rank(node.outputs[0])
        fits = array is not None and weight is not None and array.shape[-1:] == weight.shape[-1:]
        vector = fits and array is not None and array.size == array.shape[-1]
        if vector and array is not None and ndim is not None and array.ndim <= ndim:
            return reader, value
    return None


def _weighted(node: ir.Node) -> Layer:
    members = [node]
    output = node.outputs[0]
    bias = node.inputs[2] if node.op_type != "MatMul" and len(node.inputs) > 2 else None
    if node.op_type == "MatMul" and (found := _bias_after(node)) is not None:
        members.append(found[0])
        bias, output = found[1], found[0].outputs[0]
    activation = _activation_after(output)
    if activation is not None:
        members.append(activation)
        output = activation.outputs[0]
    assert node.inputs[0] is not None
    return Layer(
        name=str(node.name),
        op=node.op_type,
        node=node,
        inputs=(node.inputs[0],),
        output=output,
        members=tuple(members),
        weight=node.inputs[1],
        bias=bias,
        activation=activation,
    )


def find_layers(model: ir.Model) -> list[Layer]:
    """The layers of the main graph, in its order; every node belongs to exactly one.

    Nodes of the main graph only: what stays inside an If or a Loop passes through untouched.
    """
    layers: list[Layer] = []
    covered: set[int] = set()
    for node in model.graph:
        if id(node) in covered:
            continue
        weighted = (
            node.domain == ""
            and node.op_type in WEIGHTED
            and is_constant(node.inputs[1])
            and not is_constant(node.inputs[0])
        )
        if weighted:
            layer = _weighted(node)
        else:
            if not node.outputs:
                continue
            variable = tuple(v for v in node.inputs if v is not None and not is_constant(v))
            activation = None
            if not node.domain and node.op_type in SATURABLE:
                activation = _activation_after(node.outputs[0])
                if activation is not None and activation.op_type not in SATURATING:
                    activation = None
            layer = Layer(
                name=str(node.name),
                op=node.op_type if not node.domain else f"{node.domain}.{node.op_type}",
                node=node,
                inputs=variable,
                output=node.outputs[0] if activation is None else activation.outputs[0],
                members=(node,) if activation is None else (node, activation),
                activation=activation,
            )
        covered.update(id(member) for member in layer.members)
        layers.append(layer)
    return layers
