"""A stable text of a model, one line per node: what golden tests compare and reviewers read.

    model ir_version=10 opset {ai.onnx: 21}
    input %x:f32[N,3,8,8]
    output %y:f32[N,4]
    init %w:f32[4,3,1,1]
    %c:f32[N,4,8,8] = Conv(%x, %w) {kernel_shape=[1,1]} # conv0

The text depends on the model alone: attributes and initialisers are in the order of their names,
nodes in topological order. Tensors of up to eight elements show their values; the others show
a hash of their content when `weights=True`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from compress.graph.order import topological_order

_DTYPES = {
    "FLOAT": "f32", "FLOAT16": "f16", "BFLOAT16": "bf16", "DOUBLE": "f64", "BOOL": "bool",
    "INT8": "i8", "INT16": "i16", "INT32": "i32", "INT64": "i64", "INT4": "i4", "INT2": "i2",
    "UINT8": "u8", "UINT16": "u16", "UINT32": "u32", "UINT64": "u64", "UINT4": "u4", "UINT2": "u2",
    "STRING": "str", "COMPLEX64": "c64", "COMPLEX128": "c128",
}  # fmt: skip
_PLAIN = re.compile(r"[^\s,(){}=\"#%]+")
_SHOWN_ELEMENTS = 8


def to_text(model: ir.Model, *, weights: bool = False) -> str:
    """`model` as text, one line per node, ending in a newline.

    Args:
        model: any model; it need not be canonical, and values need not have shapes.
        weights: also show a short hash of every initialiser's content.

    Raises:
        ModelError: the graph has a cycle.
    """
    opsets = ", ".join(f"{d or 'ai.onnx'}: {v}" for d, v in sorted(model.opset_imports.items()))
    lines = [f"model ir_version={model.ir_version} opset {{{opsets}}}"]
    lines.extend(_graph_lines(model.graph, "", weights))
    for function in sorted(model.functions.values(), key=lambda f: f.identifier()):
        inputs = ", ".join(_value(v) for v in function.inputs)
        lines.append(f"function {'::'.join(filter(None, function.identifier()))}({inputs})")
        for node in topological_order(function):
            lines.extend(_node_lines(node, "  ", weights))
        lines.append("  return " + ", ".join(_value(v) for v in function.outputs))
    return "\n".join(lines) + "\n"


def _graph_lines(graph: ir.Graph, indent: str, weights: bool) -> Iterator[str]:
    for value in graph.inputs:
        yield f"{indent}input {_typed(value)}"
    for value in graph.outputs:
        yield f"{indent}output {_typed(value)}"
    for _, value in sorted(graph.initializers.items()):
        tensor = value.const_value
        content = "" if tensor is None else _content(tensor, weights)
        yield f"{indent}init {_typed(value)}" + (f" {content}" if content else "")
    for node in topological_order(graph):
        yield from _node_lines(node, indent, weights)


def _node_lines(node: ir.Node, indent: str, weights: bool) -> Iterator[str]:
    outputs = ", ".join(_typed(v) if v.name else "_" for v in node.outputs)
    operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    if node.overload:
        operator += f":{node.overload}"
    inputs = ", ".join("_" if v is None else _value(v) for v in node.inputs)
    shown, nested = [], []
    for name, attribute in sorted(node.attributes.items()):
        if attribute.is_ref():
            shown.append(f"{name}=@{attribute.ref_attr_name}")
        elif attribute.type == ir.AttributeType.GRAPH:
            nested.append((name, attribute.as_graph()))
        elif attribute.type == ir.AttributeType.GRAPHS:
            nested.extend((f"{name}[{i}]", g) for i, g in enumerate(attribute.as_graphs()))
        else:
            shown.append(f"{name}={_attribute(attribute)}")
    line = f"{indent}{outputs} = {operator}({inputs})"
    if shown:
        line += f" {{{', '.join(shown)}}}"
    yield line + (f" # {node.name}" if node.name else "")
    for name, graph in nested:
        yield f"{indent}  {name}:"
        yield from _graph_lines(graph, indent + "    ", weights)


def _value(value: ir.Value) -> str:
    return "%" + _quoted(value.name or "")


def _quoted(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else json.dumps(name)


def _typed(value: ir.Value) -> str:
    return f"{_value(value)}:{_type(value.type, value.shape)}"


def _type(type_: ir.TypeProtocol | None, shape: ir.Shape | None) -> str:
    if isinstance(type_, ir.SequenceType | ir.OptionalType):
        kind = "seq" if isinstance(type_, ir.SequenceType) else "optional"
        return f"{kind}({_type(type_.elem_type, shape)})"
    dims = "?" if shape is None else "[" + ",".join(_dim(d) for d in shape) + "]"
    if type_ is None:
        return "?" if shape is None else f"?{dims}"
    text = _dtype(type_.dtype)
    return f"sparse({text}{dims})" if isinstance(type_, ir.SparseTensorType) else text + dims


def _dtype(dtype: ir.DataType) -> str:
    return _DTYPES.get(dtype.name, dtype.name.lower())


def _dim(dim: int | ir.SymbolicDim) -> str:
    if isinstance(dim, int):
        return str(dim)
    return "?" if dim.value is None else str(dim.value)


def _attribute(attribute: ir.Attr) -> str:
    kind = attribute.type
    if kind == ir.AttributeType.TENSOR:
        return _tensor(attribute.value)
    if kind == ir.AttributeType.TENSORS:
        return "[" + ", ".join(_tensor(t) for t in attribute.as_tensors()) + "]"
    if kind in (ir.AttributeType.TYPE_PROTO, ir.AttributeType.TYPE_PROTOS):
        return json.dumps(str(attribute.value))
    if kind in (ir.AttributeType.INTS, ir.AttributeType.FLOATS, ir.AttributeType.STRINGS):
        return "[" + ",".join(_scalar(v) for v in attribute.value) + "]"
    return _scalar(attribute.value)


def _scalar(value: object) -> str:
    if isinstance(value, float):
        # Attributes are float32 in the file; the shortest text that reads back to it.
        return str(np.float32(value))
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bytes):
        return json.dumps(value.decode("utf-8", "backslashreplace"), ensure_ascii=False)
    return str(value)


def _tensor(tensor: ir.TensorProtocol) -> str:
    dims = ",".join(str(d) for d in tensor.shape)
    content = "" if tensor.dtype == ir.DataType.UNDEFINED else _content(tensor, True)
    return f"{_dtype(tensor.dtype)}[{dims}]{content}"


def _content(tensor: ir.TensorProtocol, hashed: bool) -> str:
    if tensor.size <= _SHOWN_ELEMENTS:
        values = tensor.numpy().ravel()
        return "{" + ", ".join(_scalar(v) if _is_text(v) else str(v) for v in values) + "}"
    return f"#{content_hash(tensor)[:8]}" if hashed else ""


def _is_text(value: object) -> bool:
    return isinstance(value, str | bytes)


def content_hash(tensor: ir.TensorProtocol) -> str:
    """Hex SHA-256 of a tensor's dtype, shape and content; 64 MB of it in memory at a time."""
    digest = hashlib.sha256(f"{tensor.dtype.name}{tuple(tensor.shape)}".encode())
    array = tensor.numpy()
    if array.dtype == object:
        for item in array.ravel():
            text = item if isinstance(item, bytes) else str(item).encode()
            digest.update(len(text).to_bytes(8, "little") + text)
    else:
        flat = array.reshape(-1)
        step = max(1, (64 << 20) // max(1, array.itemsize))
        for start in range(0, flat.size, step):
            digest.update(np.ascontiguousarray(flat[start : start + step]).view(np.uint8).data)
    return digest.hexdigest()
