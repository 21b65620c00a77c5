"""Write a choice of integer forms into the graph, so that onnxruntime's CPU provider fuses it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.graph.base import Pass
from compress.graph.layers import Layer, find_layers
from compress.graph.traversal import (
    attribute_int,
    constant,
    is_op,
    new_initializer,
    remove_dead,
    replace,
    scalar,
)
from compress.passes.quantize.forms import BLOCK_SIZE, PASSES_THROUGH, Form, writes_uint8
from compress.passes.quantize.keep_float import KeepFloat
from compress.passes.quantize.scales import (
    AffineScale,
    affine_scale,
    mse_channel_scales,
    quantize_bias,
    quantize_blocks,
    quantize_symmetric,
    smallest_scales,
)

Array = npt.NDArray[Any]
MICROSOFT = "com.microsoft"


@dataclasses.dataclass(frozen=True)
class QuantizeLayers(Pass):
    """Each layer takes the form chosen for it.

    Given:   y = Conv(x, W, b);  z = Relu(y)                            form int8
    Result:  z = DQ(Q(Conv(DQ(Q(x)), DQ(W: int8), DQ(b: int32))))

    Given:   y = MatMul(x, W);  z = y + b                               form int8-dynamic
    Result:  z = DynamicQuantizeMatMul(x, W: int8, ...)

    1. A value that an int8 layer writes is quantized right behind it and everybody reads it
       dequantized; a value that a float layer writes is quantized for its int8 readers only.
    2. Activations are uint8, weights int8 per output channel with zero point 0, biases int32.
    3. A Relu or Clip whose bounds the uint8 range already enforces is dropped: saturation does it,
       and the Quantize must follow the operator directly or onnxruntime leaves it in float.
    4. Operators that only move values share one scale between input and output.
    5. Float operators between integer ones stay float (see `KeepFloat`).
    6. Where `paired`, no two neighbouring weights exceed what 16 bits hold of their products;
       depthwise convolutions and blocks add in 32 bits everywhere.

    Attributes:
        forms: layer name -> form; layers that are not named stay float.
        ranges: value name -> (low, high), for every value that an int8 layer reads or writes.
        paired: whether weights are kept from saturating 16-bit sums (see `settle_pairs`).
    """

    name: ClassVar[str] = "quantize-layers"

    forms: Mapping[str, Form]
    ranges: Mapping[str, tuple[float, float]]
    paired: bool = False

    def run(self, model: ir.Model) -> bool:
        layers = [layer for layer in find_layers(model) if self._form(layer) is not Form.FLOAT]
        if not layers:
            return False
        writer = _Writer(model.graph, self.ranges, layers, paired=self.paired)
        by_output = {id(x.output) for x in layers if writes_uint8(x, self._form(x))}
        for layer in layers:
            form = self._form(layer)
            if form.reads_uint8:
                for value in layer.inputs:
                    if id(value) not in by_output:
                        writer.quantize_for_readers(value)
            writer.rewrite(layer, form)
        KeepFloat().run(model)
        # operators written directly read the uint8 value: its dequantized form may go unread
        remove_dead([p for v in writer.dequantized.values() if (p := v.producer()) is not None])
        _drop_unused_weights(model.graph)
        if any(
            self._form(layer) in (Form.INT8_TO_FLOAT, Form.DYNAMIC, Form.BLOCK) for layer in layers
        ):
            model.opset_imports.setdefault(MICROSOFT, 1)
        return True

    def _form(self, layer: Layer) -> Form:
        return self.forms.get(layer.name, Form.FLOAT)


class _Writer:
    """The edits. `quantized[v]` and `dequantized[v]` are the uint8 and rounded forms of value v.

    Values are known by identity: a graph output hands its name on to what replaces it.
    """

    def __init__(
        self,
        graph: ir.Graph,
        ranges: Mapping[str, tuple[float, float]],
        layers: Sequence[Layer],
        *,
        paired: bool = False,
    ) -> None:
        self.graph = graph
        self.paired = paired
        self.ranges = ranges
        self.names = {
            id(value): str(value.name)
            for layer in layers
            for value in (*layer.inputs, layer.node.outputs[0], layer.output)
        }
        self.taken = _names(graph)
        self.scales: dict[int, AffineScale] = {}
        self.parameters: dict[int, tuple[ir.Value, ir.Value]] = {}
        """Scale and zero point of a value."""
        self.constants: dict[tuple[str, str], ir.Value] = {}
        """What weights became, by name and content: layers that shared one share it still."""
        self.quantized: dict[int, ir.Value] = {}
        self.dequantized: dict[int, ir.Value] = {}
        self.current: dict[int, ir.Value] = {}
        """What stands for a float value whose operator was exchanged."""

    def rewrite(self, layer: Layer, form: Form) -> None:
        if form is Form.INT8:
            self._static(layer)
        elif form is Form.BLOCK:
            self._block(layer)
        else:
            self._integer_matmul(layer, dynamic=form is Form.DYNAMIC)

    # --- activations -----------------------------------------------------------------------------

    def _unique(self, name: str) -> str:
        """`name`, numbered if the model already uses it."""
        unique, number = name, 1
        while unique in self.taken:
            unique, number = f"{name}_{number}", number + 1
        self.taken.add(unique)
        return unique

    def _constant(self, name: str, array: Array) -> ir.Value:
        key = (name, hashlib.sha256(np.ascontiguousarray(array).data).hexdigest())
        if key not in self.constants:
            self.constants[key] = new_initializer(self.graph, self._unique(name), array)
        return self.constants[key]

    def _scale_values(self, meaning: ir.Value) -> tuple[ir.Value, ir.Value]:
        if id(meaning) not in self.parameters:
            name, scale = self.names[id(meaning)], self.scales[id(meaning)]
            self.parameters[id(meaning)] = (
                self._constant(f"{name}.scale", np.asarray(scale.scale, np.float32)),
                self._constant(f"{name}.zero_point", np.asarray(scale.zero_point, np.uint8)),
            )
        return self.parameters[id(meaning)]

    def _pair(
        self, meaning: ir.Value, value: ir.Value, scale: AffineScale
    ) -> tuple[ir.Node, ir.Node]:
        """QuantizeLinear and DequantizeLinear of `value`, not yet in the graph.

        `meaning` is the value of the float graph that they stand for.
        """
        name = self.names[id(meaning)]
        self.scales[id(meaning)] = scale
        parameters = self._scale_values(meaning)
        quantize = ir.node(
            "QuantizeLinear", [value, *parameters], name=self._unique(f"{name}.quantize")
        )
        quantized = quantize.outputs[0]
        quantized.name, quantized.shape = self._unique(f"{name}.u8"), value.shape
        quantized.type = ir.TensorType(ir.DataType.UINT8)
        dequantize = ir.node(
            "DequantizeLinear",
            [quantized, *parameters],
            name=self._unique(f"{name}.dequantize"),
        )
        dequantized = dequantize.outputs[0]
        dequantized.name, dequantized.shape = self._unique(f"{name}.dq"), value.shape
        dequantized.type = ir.TensorType(ir.DataType.FLOAT)
        self.quantized[id(meaning)] = quantized
        self.dequantized[id(meaning)] = dequantized
        return quantize, dequantize

    def quantize_for_readers(self, value: ir.Value) -> None:
        """Quantizes a float value beside its float readers; int8 readers find it by name."""
        if id(value) in self.dequantized:
            return
        source = self.current.get(id(value), value)
        nodes = self._pair(value, source, affine_scale(*self.ranges[self.names[id(value)]]))
        producer = source.producer()
        if producer is None:
            first = next(iter(self.graph))
            self.graph.insert_before(first, nodes)
        else:
            self.graph.insert_after(producer, nodes)

    def _read(self, node: ir.Node, value: ir.Value) -> None:
        """Makes `node` read the dequantized form of `value`."""
        replacement = self.dequantized[id(value)]
        source = self.current.get(id(value), value)
        for index, operand in enumerate(node.inputs):
            if operand is source:
                node.replace_input_with(index, replacement)

    # --- weights ---------------------------------------------------------------------------------

    def _weight(self, layer: Layer, axis: int) -> tuple[Array, Array]:
        weight = constant(layer.weight)
        assert weight is not None
        scales = mse_channel_scales(weight, axis, paired=self.paired)
        return quantize_symmetric(weight, scales, axis, paired=self.paired), scales

    def _dequantized_constant(
        self, name: str, levels: Array, scales: Array, axis: int, before: ir.Node
    ) -> ir.Value:
        zero = np.zeros(scales.shape, levels.dtype)
        inputs = [
            self._constant(f"{name}.quantized", levels),
            self._constant(f"{name}.scales", scales),
            self._constant(f"{name}.zero_points", zero),
        ]
        node = ir.node(
            "DequantizeLinear", inputs, {"axis": axis}, name=self._unique(f"{name}.dequantize")
        )
        node.outputs[0].name = self._unique(f"{name}.dq")
        node.outputs[0].shape = ir.Shape(levels.shape)
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        self.graph.insert_before(before, node)
        return node.outputs[0]

    # --- forms -----------------------------------------------------------------------------------

    def _static(self, layer: Layer) -> None:
        node, output = layer.node, layer.output
        input_scale = self.scales[id(layer.inputs[0])]
        for value in dict.fromkeys(layer.inputs):
            self._read(node, value)
        if layer.weight is not None:
            self._quantize_operands(layer, input_scale)
        # what is quantized stands before a smooth activation, and behind a saturating one
        meaning = node.outputs[0] if layer.smooth else output
        if layer.op in PASSES_THROUGH:
            scale = input_scale
        else:
            scale = affine_scale(*self.ranges[self.names[id(meaning)]])
        raw = meaning
        if (
            layer.activation is not None
            and not layer.smooth
            and _saturates(layer.activation, scale)
        ):
            raw = node.outputs[0]
        last = raw.producer()
        assert last is not None
        quantize, dequantize = self._pair(meaning, raw, scale)
        self.graph.insert_after(last, (quantize, dequantize))
        result = dequantize.outputs[0]
        if raw is not meaning:
            replace(meaning, result)
            remove_dead([layer.activation] if layer.activation is not None else [])
            return
        if meaning.is_graph_output():
            hand_on_output(self.graph, meaning, result)
        for usage in [u for u in meaning.uses() if u.node is not quantize]:
            usage.node.replace_input_with(usage.idx, result)

    def _quantize_operands(self, layer: Layer, input_scale: AffineScale) -> None:
        """Weight and bias of a static Conv or Gemm become int8 and int32."""
        node = layer.node
        axis = 0 if layer.op == "Conv" or attribute_int(node, "transB", 0) else 1
        weight, bias = constant(layer.weight), constant(layer.bias)
        assert weight is not None
        assert layer.weight is not None
        paired = self.paired and not layer.depthwise
        scales = mse_channel_scales(weight, axis, paired=paired)
        if bias is not None:
            bias = np.broadcast_to(bias, scales.shape)
            scales = np.maximum(scales, smallest_scales(bias, float(input_scale.scale)))
        levels = quantize_symmetric(weight, scales, axis, paired=paired)
        dequantized = self._dequantized_constant(str(layer.weight.name), levels, scales, axis, node)
        node.replace_input_with(1, dequantized)
        if bias is not None and layer.bias is not None:
            bias_scales = (scales.astype(np.float64) * float(input_scale.scale)).astype(np.float32)
            bias_scales = np.maximum(bias_scales, np.finfo(np.float32).tiny)
            integers = quantize_bias(bias, bias_scales)
            # the same bias vector may serve several layers, each in its own unit
            value = self._dequantized_constant(
                f"{layer.name}.{layer.bias.name}", integers, bias_scales, 0, node
            )
            node.replace_input_with(2, value)

    def _bias_operand(self, layer: Layer, columns: int) -> ir.Value | None:
        """The bias as a vector of `columns` elements, if there is one."""
        bias = constant(layer.bias)
        if layer.bias is None or bias is None:
            return None
        if bias.shape == (columns,):
            return layer.bias
        flat = np.broadcast_to(bias.reshape(-1), (columns,))
        return self._constant(f"{layer.bias.name}.flat", np.ascontiguousarray(flat))

    def _integer_matmul(self, layer: Layer, *, dynamic: bool) -> None:
        """MatMul or Gemm with int8 weights and float output, as onnxruntime's own operators.

        Written directly: from 1.32 on, onnxruntime rewrites MatMul + Add into Gemm before it looks
        for Quantize/Dequantize pairs, and what should have been int8 runs in float.
        """
        node = layer.node
        transposed = layer.op == "Gemm" and attribute_int(node, "transB", 0)
        levels, scales = self._weight(layer, 0 if transposed else 1)
        levels = np.ascontiguousarray(levels.T) if transposed else levels
        assert layer.weight is not None
        name = str(layer.weight.name)
        weight = self._constant(f"{name}.quantized", levels)
        weight_scales = self._constant(f"{name}.scales", scales)
        bias = self._bias_operand(layer, levels.shape[1])
        value = layer.inputs[0]
        if dynamic:
            new = ir.node(
                "DynamicQuantizeMatMul",
                [node.inputs[0], weight, weight_scales, None, bias],
                domain=MICROSOFT,
                name=layer.name,
            )
        else:
            source = self.quantized[id(value)]
            scale, zero_point = self._scale_values(value)
            new = ir.node(
                "MatMulIntegerToFloat",
                [source, weight, scale, weight_scales, zero_point, None, bias],
                domain=MICROSOFT,
                name=layer.name,
            )
        self._take_over(layer, new)

    def _block(self, layer: Layer) -> None:
        weight = constant(layer.weight)
        assert weight is not None
        assert layer.weight is not None
        if layer.op == "Gemm" and attribute_int(layer.node, "transB", 0):
            weight = weight.T
        levels, scales = quantize_blocks(weight, BLOCK_SIZE)
        name = str(layer.weight.name)
        inputs = [
            layer.node.inputs[0],
            self._constant(f"{name}.blocks", levels),
            self._constant(f"{name}.scales", scales),
            None,
            None,
            self._bias_operand(layer, weight.shape[1]),
        ]
        attributes = {
            "K": weight.shape[0],
            "N": weight.shape[1],
            "bits": 8,
            "block_size": BLOCK_SIZE,
            "accuracy_level": 4,
        }
        self._take_over(
            layer, ir.node("MatMulNBits", inputs, attributes, domain=MICROSOFT, name=layer.name)
        )

    def _take_over(self, layer: Layer, new: ir.Node) -> None:
        """`new` computes the operator and its bias; the activation, if any, stays behind it."""
        last = layer.members[1] if layer.op == "MatMul" and layer.bias is not None else layer.node
        old = last.outputs[0]
        result = new.outputs[0]
        result.name, result.shape, result.type = old.name, old.shape, old.type
        self.graph.insert_after(last, new)
        name = old.name
        replace(old, result)
        remove_dead([last])
        result.name = name
        self.current[id(old)] = result


def _names(graph: ir.Graph) -> set[str]:
    """Every name of a value or a node, those inside subgraphs included."""
    nodes = list(graph.all_nodes())
    values = [*graph.inputs, *graph.initializers.values()]
    values += [v for node in nodes for v in (*node.inputs, *node.outputs) if v is not None]
    return {str(node.name) for node in nodes} | {str(value.name) for value in values}


def _drop_unused_weights(graph: ir.Graph) -> None:
    """Float weights that were replaced would otherwise still be shipped."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def round_value(model: ir.Model, name: str, low: float, high: float) -> bool:
    """Everybody who reads the named value, the graph's outputs included, reads it rounded."""
    graph = model.graph
    candidates = [*graph.inputs, *(v for node in graph for v in node.outputs)]
    value = next(v for v in candidates if v.name == name)
    readers = list(value.uses())
    writer = _Writer(graph, {name: (low, high)}, [])
    writer.names[id(value)] = name
    writer.quantize_for_readers(value)
    result = writer.dequantized[id(value)]
    for usage in readers:
        usage.node.replace_input_with(usage.idx, result)
    if value.is_graph_output():
        hand_on_output(graph, value, result)
    return True


def hand_on_output(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """`new` becomes the graph output that `old` was, under its name."""
    name = old.name
    old.name = f"{name}.float"
    new.name = name
    graph.outputs[next(i for i, v in enumerate(graph.outputs) if v is old)] = new


def _saturates(activation: ir.Node, scale: AffineScale) -> bool:
    """Whether the uint8 range lies within the activation's bounds, so that it changes nothing."""
    low, high = 0.0, float("inf")
    if is_op(activation, "Clip"):
        bounds = [scalar(v) if v is not None else None for v in activation.inputs[1:3]]
        bounds += [None] * (2 - len(bounds))
        low = bounds[0] if bounds[0] is not None else float("-inf")
        high = bounds[1] if bounds[1] is not None else float("inf")
    step = float(scale.scale)
    return scale.low >= low - 0.01 * step and scale.high <= high + 0.5 * step
