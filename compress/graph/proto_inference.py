"""onnx's own shape inference, with what a whole model in memory and hostile models need."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from compress.errors import ModelError
from compress.graph.skeleton import skeleton_proto

Dims = list[int | str | None]
"""Per dimension its number, its symbol, or None where it is unknown."""

Types = dict[str, tuple[ir.TypeProtocol, Dims | None]]
"""Value name -> its type and its dimensions, the latter None where not even the rank is known."""

_LIKE_THEIR_INPUT = frozenset(
    {
        ("", "GroupNormalization"),
        ("com.microsoft", "BiasGelu"),
        ("com.microsoft", "FastGelu"),
        ("com.microsoft", "Gelu"),
        ("com.microsoft", "QuickGelu"),
    }
)
"""Operators without a rule in onnx whose output has the dtype and shape of their first input."""

_OPAQUE = "opaque"
_LONGEST_VECTOR = 64
_FOLLOWED = ("Cast", "Concat", "Gather", "Size", "Slice", "Squeeze", "Unsqueeze")
_INTEGERS = (ir.DataType.INT32, ir.DataType.INT64)


def infer_types(model: ir.Model) -> Types:
    """What onnx infers for every value of every graph, by name.

    Dimensions that inference could not derive have names of the form `unk__7`. `model` is as
    before; weights are not read.

    Raises:
        ModelError: inference refuses the model altogether.
    """
    proto = skeleton_proto(model)
    for node in _nodes(proto.graph):
        if (node.domain, node.op_type) in _LIKE_THEIR_INPUT:
            node.op_type, node.domain = "Identity", ""
            del node.input[1:]
            node.ClearField("attribute")
    types = _run(proto, follow_values=False)
    if any(node.op_type == "Shape" for node in _nodes(proto.graph)):
        _guard_values(proto, types)
        types = _run(proto, follow_values=True)
    return types


def _guard_values(proto: onnx.ModelProto, types: Types) -> None:
    """Let inference follow the values of short integer vectors only.

    Where it follows values at all, onnx counts up to the length of every vector it meets, whatever
    the dtype: minutes and gigabytes for a long signal. So arithmetic on others becomes Div, which
    has the same types and shapes and is not followed; other operators that would be followed
    become opaque, with the output that was inferred without.
    """
    proto.opset_import.add(domain=_OPAQUE, version=1)
    lengths: dict[str, Dims | None] = {name: dims for name, (_, dims) in types.items()}
    for graph in _graphs(proto.graph):
        lengths.update((v.name, _dims(v.type)) for v in graph.input)
        lengths.update((t.name, list(t.dims)) for t in graph.initializer)
    for graph in _graphs(proto.graph):
        described = {info.name for info in graph.value_info}
        for node in graph.node:
            if node.domain != "":
                continue
            if node.op_type in ("Add", "Sub", "Mul"):
                type_, _ = types.get(node.output[0], (None, None))
                integers = type_ is not None and type_.dtype in _INTEGERS
                if not integers or not _is_short(lengths.get(node.output[0])):
                    node.op_type = "Div"
            elif node.op_type in _FOLLOWED and not all(
                _is_short(lengths.get(name)) or len(lengths.get(name) or ()) > 1
                for name in node.input
                if name
            ):
                node.domain = _OPAQUE
                for name in node.output:
                    if name in types and name not in described:
                        info = graph.value_info.add(name=name)
                        info.type.CopyFrom(_type_proto(*types[name]))


def _is_short(dims: Dims | None) -> bool:
    """Whether a scalar, or a vector too short to take time; a symbol of the user's is trusted."""
    if dims is None or len(dims) > 1:
        return False
    return all(
        d <= _LONGEST_VECTOR if isinstance(d, int) else d is not None and not d.startswith("unk__")
        for d in dims
    )


def _type_proto(type_: ir.TypeProtocol, dims: Dims | None) -> onnx.TypeProto:
    proto = ir.serde.serialize_type(type_)
    if dims is not None:
        ir.serde.serialize_shape_into(proto, ir.Shape(dims))
    return proto


def _run(proto: onnx.ModelProto, follow_values: bool) -> Types:
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=follow_values)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"shape inference refuses the model: {reason}") from error
    types: Types = {}
    for graph in _graphs(inferred.graph):
        for info in (*graph.value_info, *graph.output):
            type_ = ir.serde.deserialize_type_proto_for_type(info.type)
            if type_ is not None:
                types.setdefault(info.name, (type_, _dims(info.type)))
    return types


def _graphs(root: onnx.GraphProto) -> list[onnx.GraphProto]:
    graphs = [root]
    for graph in graphs:
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    graphs.append(attribute.g)
                graphs.extend(attribute.graphs)
    return graphs


def _nodes(root: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for graph in _graphs(root):
        yield from graph.node


def _dims(type_: onnx.TypeProto) -> Dims | None:
    kind = type_.WhichOneof("value")
    while kind in ("sequence_type", "optional_type"):
        type_ = getattr(type_, kind).elem_type
        kind = type_.WhichOneof("value")
    if kind not in ("tensor_type", "sparse_tensor_type"):
        return None
    tensor = getattr(type_, kind)
    if not tensor.HasField("shape"):
        return None
    return [
        d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else (d.dim_param or None)
        for d in tensor.shape.dim
    ]
