"""Refuse what is no model, in one line that names the culprit."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from compress.errors import ModelError
from compress.graph.order import (
    all_graphs,
    all_nodes,
    node_label,
    shown,
    subgraphs,
    topological_order,
)

DEEPEST_NESTING = 32
"""Subgraphs within subgraphs; the file format itself cannot hold deeper ones."""

MOST_NODES = 1_000_000

_SCANNED_BYTES = 32 << 20
"""How much of a tensor is looked at, and at most copied, at a time."""

_WEIGHTED = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "ConvInteger": (1,), "Gemm": (0, 1, 2),
    "MatMul": (0, 1), "BatchNormalization": (1, 2, 3, 4), "LSTM": (1, 2, 3), "GRU": (1, 2, 3),
    "RNN": (1, 2, 3), "InstanceNormalization": (1, 2), "LayerNormalization": (1, 2),
}  # fmt: skip
"""operator -> which of its inputs are weights, when they are initialisers."""

_STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")


def validate(model: ir.Model) -> None:
    """Check that `model` is sound enough to be rewritten.

    Raises:
        ModelError: it is empty, has a cycle, undefined or twice defined values, inputs or outputs
            that are no tensors, weights that are NaN, infinite, empty or cannot be read, a standard
            operator that its opset does not have or that is used wrongly, or it nests too deep.
    """
    _check_ends(model)
    _check_opsets(model)
    _check_graphs(model)
    _check_weights(model)


def unknown_operators(model: ir.Model) -> list[ir.Node]:
    """Nodes of domains that are neither standard nor onnxruntime's nor the model's own functions.

    They pass through every rewrite untouched; whether the model runs is for the runtime to say.
    """
    return [
        node
        for node in all_nodes(model.graph)
        if node.domain not in _STANDARD_DOMAINS and node.op_identifier() not in model.functions
    ]


def quantized_nodes(model: ir.Model) -> list[ir.Node]:
    """Nodes that only a quantised model has: Quantize/DequantizeLinear, QLinear..., ...Integer."""
    return [node for node in all_nodes(model.graph) if _is_quantized(node)]


def _is_quantized(node: ir.Node) -> bool:
    name = node.op_type
    if node.domain not in _STANDARD_DOMAINS:
        return False
    return (
        name in ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulNBits")
        or name.startswith(("QLinear", "QGemm", "QAttention", "DynamicQuantize"))
        or name.endswith(("Integer", "IntegerToFloat"))
    )


def _check_ends(model: ir.Model) -> None:
    graph = model.graph
    if not len(graph):
        raise ModelError("the model has no nodes: there is nothing to compress")
    if not graph.outputs:
        raise ModelError("the model has no outputs: export it again with its outputs")
    for kind, values in (("input", graph.inputs), ("output", graph.outputs)):
        for value in values:
            if not value.name:
                raise ModelError(f"an {kind} of the model has no name")
            if value.type is not None and not isinstance(value.type, ir.TensorType):
                what = type(value.type).__name__.removesuffix("Type").lower()
                raise ModelError(
                    f"{kind} {shown(value.name)} is of type {what}; only tensors are supported: "
                    "export the model with tensors as its inputs and outputs"
                )


def _check_opsets(model: ir.Model) -> None:
    newest = onnx.defs.onnx_opset_version()
    version = model.opset_imports.get("")
    if version is not None and version > newest:
        raise ModelError(
            f"the model uses opset {version}; the newest that is supported is {newest}"
        )
    for node in all_nodes(model.graph):
        if node.domain not in ("", "ai.onnx"):
            continue
        if version is None:
            raise ModelError(f"{node_label(node)} is of the standard opset, which is not imported")
        _check_call(node, version)


@dataclass(frozen=True)
class _Signature:
    """What a standard operator takes in one opset."""

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    attributes: Mapping[str, str]
    required: tuple[str, ...]


@functools.cache
def _signature(op_type: str, version: int) -> _Signature | None:
    """None where nobody knows the operator."""
    try:
        schema = onnx.defs.get_schema(op_type, version)
    except onnx.defs.SchemaError:
        return None
    return _Signature(
        (schema.min_input, schema.max_input),
        (schema.min_output, schema.max_output),
        {name: _type_name(attribute) for name, attribute in schema.attributes.items()},
        tuple(name for name, attribute in schema.attributes.items() if attribute.required),
    )


def _type_name(attribute: onnx.defs.OpSchema.Attribute) -> str:
    return str(attribute.type).rpartition(".")[2]


@functools.cache
def _ever_standard(op_type: str) -> bool:
    return onnx.defs.has(op_type)


def _check_call(node: ir.Node, version: int) -> None:
    """How a node uses its operator: inputs, outputs and attributes."""
    signature = _signature(node.op_type, version)
    if signature is None:
        if _ever_standard(node.op_type):
            raise ModelError(f"{node_label(node)} does not exist in opset {version} of the model")
        return
    for kind, count, (fewest, most) in (
        ("inputs", len(node.inputs), signature.inputs),
        ("outputs", len(node.outputs), signature.outputs),
    ):
        if not fewest <= count <= most:
            raise ModelError(f"{node_label(node)} has {count} {kind}; {fewest} to {most} are right")
    for name, attribute in node.attributes.items():
        wanted = signature.attributes.get(name, attribute.type.name)
        if attribute.type.name != wanted:
            raise ModelError(
                f"the attribute {shown(name)} of {node_label(node)} is of type "
                f"{attribute.type.name}; {wanted} is right"
            )
    missing = [name for name in signature.required if name not in node.attributes]
    if missing:
        raise ModelError(f"{node_label(node)} lacks the attribute '{missing[0]}'")


def _check_graphs(model: ir.Model) -> None:
    """Scopes, names, cycles and nesting, outer graphs first and without recursion."""
    count = 0
    work: list[tuple[ir.Graph, tuple[ir.Graph, ...]]] = [(model.graph, ())]
    seen: set[int] = set()
    while work:
        graph, outer = work.pop()
        if id(graph) in seen:
            raise ModelError("a subgraph is used by two nodes: export the model again")
        seen.add(id(graph))
        count += len(graph)
        if len(outer) > DEEPEST_NESTING:
            raise ModelError(f"subgraphs are nested deeper than {DEEPEST_NESTING}")
        if count > MOST_NODES:
            raise ModelError(f"the model has more than {MOST_NODES} nodes")
        scopes = {id(g) for g in (*outer, graph)}
        _check_names(graph)
        _check_definitions(graph, scopes)
        topological_order(graph)
        for node in graph:
            work.extend((inner, (*outer, graph)) for inner in subgraphs(node))


def _defined(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from dict.fromkeys([*graph.inputs, *graph.initializers.values()])
    for node in graph:
        yield from node.outputs


def _check_names(graph: ir.Graph) -> None:
    seen: set[str] = set()
    for value in _defined(graph):
        if value.name and value.name in seen:
            raise ModelError(f"the value {shown(value.name)} is defined twice")
        seen.add(value.name or "")
    outputs = [value.name for value in graph.outputs]
    for name in outputs:
        if outputs.count(name) > 1:
            raise ModelError(f"the output {shown(name)} is listed twice")


def _check_definitions(graph: ir.Graph, scopes: set[int]) -> None:
    for name, initializer in graph.initializers.items():
        if initializer.const_value is None:
            raise ModelError(f"the initialiser {shown(name)} has no content")
    for node in graph:
        for value in node.inputs:
            if value is not None and not _is_defined(value, scopes):
                raise ModelError(
                    f"{node_label(node)} reads {shown(value.name)}, which nothing defines"
                )
    for output in graph.outputs:
        if not _is_defined(output, scopes):
            raise ModelError(f"nothing computes the output {shown(output.name)}")


def _is_defined(value: ir.Value, scopes: set[int]) -> bool:
    producer = value.producer()
    if producer is not None:
        return id(producer.graph) in scopes
    return (value.is_graph_input() or value.is_initializer()) and id(value.graph) in scopes


def _check_weights(model: ir.Model) -> None:
    roots = [model.graph, *(function.graph for function in model.functions.values())]
    for graph in (graph for root in roots for graph in all_graphs(root)):
        for value in graph.initializers.values():
            if value.const_value is not None:
                _check_tensor(value, value.const_value)
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                    # `as_tensor` trips over what is to be found here.
                    value = node.outputs[0] if node.outputs else ir.val(attribute.name)
                    _check_tensor(value, attribute.value)


def _check_tensor(value: ir.Value, tensor: ir.TensorProtocol) -> None:
    readers = [
        usage.node
        for usage in value.uses()
        if usage.node.domain == "" and usage.idx in _WEIGHTED.get(usage.node.op_type, ())
    ]
    where = f" of {node_label(readers[0])}" if readers else ""
    if tensor.dtype == ir.DataType.UNDEFINED:
        raise ModelError(f"the tensor {shown(value.name)}{where} has no dtype")
    if readers and tensor.size == 0:
        raise ModelError(f"the weight {shown(value.name)}{where} is empty")
    try:
        has_nan, has_infinity = _scan(tensor)
    except (OSError, ValueError, TypeError, RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"the tensor {shown(value.name)}{where} cannot be read: {reason}"
        ) from error
    # Infinity masks attention, and a single NaN may stand for "nothing"; neither can be a weight.
    if (has_nan and (readers or tensor.size > 1)) or (has_infinity and readers):
        what = "NaN" if has_nan else "infinity"
        raise ModelError(
            f"the tensor {shown(value.name)}{where} holds {what}: the model is damaged, or its "
            "training diverged"
        )


def _scan(tensor: ir.TensorProtocol) -> tuple[bool, bool]:
    """Whether a tensor holds a NaN, and whether it holds an infinity, looked at in pieces."""
    array = tensor.numpy().reshape(-1)
    has_nan = has_infinity = False
    if array.dtype.kind in "biuOSU":
        return has_nan, has_infinity
    step = max(1, _SCANNED_BYTES // array.itemsize)
    for start in range(0, array.size, step):
        piece = array[start : start + step]
        if array.dtype.kind != "f":
            # bfloat16, the 8-bit floats and 4-bit integers: numpy has no extrema for them.
            piece = piece.astype(np.float32)
        # NaN passes through both extrema, and they make no copy.
        extrema = np.asarray([piece.max(), piece.min()], dtype=np.float64)
        has_nan |= bool(np.isnan(extrema).any())
        has_infinity |= bool(np.isinf(extrema).any())
    return has_nan, has_infinity
