"""In which integer forms onnxruntime's CPU provider can run an operator: rules as data."""

from __future__ import annotations

import enum

from compress.graph.layers import Layer
from compress.graph.traversal import attribute_int, constant, rank


class Form(enum.StrEnum):
    """How a layer is executed."""

    FLOAT = "float"
    INT8 = "int8"
    """Static: reads uint8, writes uint8 (float behind a smooth activation)."""
    INT8_TO_FLOAT = "int8-float-out"
    """Static input, int8 weights, float output (MatMul and Gemm)."""
    DYNAMIC = "int8-dynamic"
    """The input is quantized at run time with its own range; float output (MatMul and Gemm)."""
    BLOCK = "int8-block"
    """8-bit weights in blocks along K, activations quantized per row and block (MatMul, Gemm)."""

    @property
    def reads_uint8(self) -> bool:
        return self in (Form.INT8, Form.INT8_TO_FLOAT)


COMPUTES_IN_INT8 = frozenset(
    {"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu"}
)
"""Unweighted operators with an integer kernel (QLinearAdd, ...), by onnxruntime's selectors."""

PASSES_THROUGH = frozenset(
    {
        "DepthToSpace",
        "Flatten",
        "MaxPool",
        "Reshape",
        "Resize",
        "Slice",
        "SpaceToDepth",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators that only move values: in int8 their output has their input's scale and zero point."""

BLOCK_SIZE = 128
"""Weights per scale in the block form: at 128, 8 bits ran 1.5-1.9x faster than float (M = 64)."""


def writes_uint8(layer: Layer, form: Form) -> bool:
    """Whether the layer's output is uint8 in this form."""
    return form is Form.INT8 and not layer.smooth


def observed(layer: Layer) -> tuple[str, ...]:
    """The values whose ranges some static form of this layer needs."""
    if not any(form.reads_uint8 for form in possible_forms(layer)):
        return ()
    names = [str(v.name) for v in layer.inputs]
    names.append(str((layer.node.outputs[0] if layer.smooth else layer.output).name))
    return tuple(dict.fromkeys(names))


def possible_forms(layer: Layer) -> tuple[Form, ...]:
    """The forms worth measuring for this layer, float first."""
    if layer.node.domain:
        return (Form.FLOAT,)
    if layer.weight is not None:
        return (Form.FLOAT, *_weighted_forms(layer))
    floats = all(v.dtype is not None and v.dtype.name == "FLOAT" for v in layer.inputs)
    if not floats or not layer.inputs or len(layer.node.outputs) != 1:
        return (Form.FLOAT,)
    if layer.op in COMPUTES_IN_INT8:
        # a constant operand would have to be quantized as well: not worth a rule
        variable = len(layer.inputs) == sum(v is not None for v in layer.node.inputs)
        return (Form.FLOAT, Form.INT8) if variable else (Form.FLOAT,)
    if layer.op in PASSES_THROUGH:
        if layer.op == "Resize" and _resize_mode(layer) != "nearest":
            return (Form.FLOAT,)
        return (Form.FLOAT, Form.INT8)
    return (Form.FLOAT,)


def _resize_mode(layer: Layer) -> str:
    mode = layer.node.attributes.get("mode")
    return "nearest" if mode is None else str(mode.as_string())


def _weighted_forms(layer: Layer) -> tuple[Form, ...]:
    weight = constant(layer.weight)
    if weight is None or weight.dtype.name != "float32" or weight.size == 0:
        return ()
    if layer.op == "Conv":
        # onnxruntime's integer convolution is for one and two spatial dimensions
        return (Form.INT8,) if weight.ndim in (3, 4) else ()
    if layer.op == "MatMul" and weight.ndim == 2:
        return (Form.INT8_TO_FLOAT, Form.DYNAMIC, *_block(weight.shape[0]))
    if layer.op == "Gemm" and _plain(layer):
        rows = weight.shape[1 if attribute_int(layer.node, "transB", 0) else 0]
        return (Form.INT8, Form.INT8_TO_FLOAT, Form.DYNAMIC, *_block(rows))
    return ()


def _block(rows: int) -> tuple[Form, ...]:
    return (Form.BLOCK,) if rows >= BLOCK_SIZE else ()


def _plain(layer: Layer) -> bool:
    """Whether a Gemm is x W + b: nothing transposed but W, nothing scaled, b a vector."""
    if attribute_int(layer.node, "transA", 0) or rank(layer.inputs[0]) != 2:
        return False
    for name in ("alpha", "beta"):
        attr = layer.node.attributes.get(name)
        if attr is not None and attr.as_float() != 1.0:
            return False
    bias = constant(layer.bias) if layer.bias is not None else None
    return layer.bias is None or (bias is not None and bias.ndim == 1)
