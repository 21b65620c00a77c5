"""Fold multiplications and additions by constants into the weighted operators around them."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.graph.base import Pass
from compress.graph.traversal import (
    attribute_int,
    attribute_ints,
    constant,
    consumers,
    is_constant,
    is_op,
    new_initializer,
    owner,
    rank,
    remove_dead,
    replace,
    sole_consumer,
)

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Affine:
    """`y = scale * x + shift`, each a scalar or one number per channel, shape () or (C,)."""

    scale: Array
    shift: Array


def affine_of(node: ir.Node, axis: int) -> tuple[ir.Value, Affine] | None:
    """The affine map a Mul/Div/Add/Sub by a constant is, with channels on `axis` of its input.

    Returns the variable operand and the map, or None if the constant varies along another axis.
    """
    if not is_op(node, "Mul", "Div", "Add", "Sub") or len(node.inputs) != 2:
        return None
    first, second = node.inputs
    if is_constant(second) and first is not None and not is_constant(first):
        variable, array, flipped = first, constant(second), False
    elif is_constant(first) and second is not None and not is_constant(second):
        variable, array, flipped = second, constant(first), True
    else:
        return None
    ndim = rank(variable)
    if array is None or ndim is None or array.dtype.kind != "f" or array.ndim > ndim:
        return None
    aligned = array.reshape((1,) * (ndim - array.ndim) + array.shape)
    channel = axis % ndim
    if any(size != 1 for index, size in enumerate(aligned.shape) if index != channel):
        return None
    per_channel: Array = aligned.reshape(-1) if aligned.size > 1 else aligned.reshape(())
    one, zero = np.ones((), array.dtype), np.zeros((), array.dtype)
    match node.op_type:
        case "Mul":
            return variable, Affine(per_channel, zero)
        case "Add":
            return variable, Affine(one, per_channel)
        case "Sub":
            return variable, Affine(-one, per_channel) if flipped else Affine(one, -per_channel)
        case _ if not flipped and np.all(per_channel != 0):
            return variable, Affine((one / per_channel).astype(array.dtype), zero)
        case _:
            return None


def output_channels(node: ir.Node) -> tuple[int, int] | None:
    """(axis of the output that is the channel, channels) of a weighted operator with constants."""
    if len(node.inputs) < 2 or not is_constant(node.inputs[1]):
        return None
    weight = constant(node.inputs[1])
    if weight is None or weight.dtype.kind != "f":
        return None
    if is_op(node, "Conv"):
        return 1, weight.shape[0]
    if is_op(node, "ConvTranspose"):
        return 1, weight.shape[1] * attribute_int(node, "group", 1)
    if is_op(node, "MatMul") and weight.ndim == 2:
        return -1, weight.shape[1]
    if is_op(node, "Gemm") and weight.ndim == 2:
        return -1, weight.shape[0 if attribute_int(node, "transB", 0) else 1]
    return None


def scale_outputs(node: ir.Node, weight: Array, scale: Array) -> Array:
    """`weight` with output channel c multiplied by scale[c]."""
    if scale.ndim == 0:
        return weight * scale
    if is_op(node, "Conv"):
        return weight * scale.reshape((-1,) + (1,) * (weight.ndim - 1))
    if is_op(node, "ConvTranspose"):
        group = attribute_int(node, "group", 1)
        inputs, per_group = weight.shape[:2]
        grouped = weight.reshape(group, inputs // group, per_group, *weight.shape[2:])
        spread = scale.reshape((group, 1, per_group) + (1,) * (weight.ndim - 2))
        return (grouped * spread).reshape(weight.shape)
    if is_op(node, "Gemm") and attribute_int(node, "transB", 0):
        return weight * scale[:, None]
    return weight * scale[None, :]


def scale_inputs(node: ir.Node, weight: Array, scale: Array) -> Array:
    """`weight` with the taps that read input channel c multiplied by scale[c]."""
    if scale.ndim == 0:
        return weight * scale
    if is_op(node, "Conv"):
        group = attribute_int(node, "group", 1)
        outputs, per_group = weight.shape[:2]
        grouped = weight.reshape(group, outputs // group, per_group, *weight.shape[2:])
        spread = scale.reshape((group, 1, per_group) + (1,) * (weight.ndim - 2))
        return (grouped * spread).reshape(weight.shape)
    if is_op(node, "Gemm") and attribute_int(node, "transB", 0):
        return weight * scale[None, :]
    return weight * scale[:, None]


def shift_through(node: ir.Node, weight: Array, shift: Array) -> Array:
    """What a `shift` per input channel adds to each output channel, if nothing is padded."""
    if is_op(node, "Conv"):
        group = attribute_int(node, "group", 1)
        outputs, per_group = weight.shape[:2]
        taps = weight.reshape(outputs, per_group, -1).sum(axis=2)
        spread = np.broadcast_to(shift, (per_group * group,)).reshape(group, per_group)
        through = np.einsum("goi,gi->go", taps.reshape(group, -1, per_group), spread)
        return np.asarray(through.reshape(-1), dtype=weight.dtype)
    if is_op(node, "Gemm") and attribute_int(node, "transB", 0):
        return np.asarray(weight @ np.broadcast_to(shift, (weight.shape[1],)))
    return np.asarray(np.broadcast_to(shift, (weight.shape[0],)) @ weight)


def reads_unpadded(node: ir.Node) -> bool:
    """Whether every tap of the operator always reads real input (so that a shift goes through)."""
    if is_op(node, "MatMul", "Gemm"):
        return True
    auto = node.attributes.get("auto_pad")
    if auto is not None and auto.as_string() not in ("NOTSET", "VALID"):
        return False
    return not any(attribute_ints(node, "pads") or ())


def bias_of(node: ir.Node, channels: int, dtype: np.dtype[np.generic]) -> Array | None:
    """The operator's bias, (channels,); zeros if it has none; None if it is not a plain vector."""
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return np.zeros(channels, dtype)
    array = constant(node.inputs[2])
    if (
        array is None
        or array.size not in (1, channels)
        or array.shape[-1:] not in ((), (array.size,))
    ):
        # a column of biases, one per row of the product, may have as many elements
        return None
    return np.broadcast_to(array.reshape(-1), (channels,)).astype(dtype)


def plain_gemm(node: ir.Node) -> bool:
    """Whether a Gemm multiplies its operands and bias by one."""
    return all(attribute_number(node, name) == 1.0 for name in ("alpha", "beta"))


def attribute_number(node: ir.Node, name: str) -> float:
    attr = node.attributes.get(name)
    return 1.0 if attr is None else float(attr.as_float())


def set_weights(node: ir.Node, weight: Array, bias: Array | None) -> None:
    """Gives the operator new weights; initialisers that nobody else uses keep their names."""
    graph = owner(node)
    for index, array in ((1, weight), (2, bias)):
        if array is None:
            continue
        old = node.inputs[index] if index < len(node.inputs) else None
        name = (
            old.name
            if old is not None and old.name
            else f"{node.name}.{('', 'weight', 'bias')[index]}"
        )
        if old is not None and len(old.uses()) == 1 and not old.is_graph_output():
            # the name must be free before the new tensor is registered under it
            del graph.initializers[str(name)]
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        node.replace_input_with(index, new_initializer(graph, str(name), array))


@dataclasses.dataclass(frozen=True)
class FoldAffine(Pass):
    """Multiplications and additions by per-channel constants become part of weights and biases.

    Given:   y = Conv(x, W, b);  z = y * s + t;  and  u = a * s + t;  v = Conv(u, W, b)
    Result:  z = Conv(x, s W, s b + t);          and  v = Conv(a, W s, b + W t)

    1. Backwards into the producer: Conv, ConvTranspose, Gemm, MatMul (which becomes Gemm only if it
       has rank 2; otherwise only scales fold), when the constant is its only reader.
    2. Forwards into the consumers, when all of them are Conv, Gemm or MatMul: a scale always; a
       shift only where no consumer pads its input, since padding inserts zeros *after* the shift.
    3. A scale followed by a shift that must stay is swapped, `s a + t = s (a + t / s)`, so that the
       scale can go forwards alone.
    """

    name: ClassVar[str] = "fold-affine"

    def run(self, model: ir.Model) -> bool:
        changed = False
        for node in list(model.graph):
            if node.graph is None:
                continue
            changed |= self._fold_backwards(node) or self._fold_forwards(node)
        return changed

    def _fold_backwards(self, node: ir.Node) -> bool:
        for operand in node.inputs:
            producer = operand.producer() if operand is not None else None
            if producer is None or operand is None or sole_consumer(operand) is not node:
                continue
            where = output_channels(producer)
            if where is None or (is_op(producer, "Gemm") and not plain_gemm(producer)):
                continue
            found = affine_of(node, where[0])
            if found is None or found[0] is not operand:
                continue
            return self._into_producer(node, producer, where[1], found[1])
        return False

    @staticmethod
    def _into_producer(node: ir.Node, producer: ir.Node, channels: int, affine: Affine) -> bool:
        weight = constant(producer.inputs[1])
        if weight is None or affine.scale.size not in (1, channels):
            return False
        if affine.shift.size not in (1, channels) or weight.dtype.kind != "f":
            return False
        shifts = bool(np.any(affine.shift))
        if is_op(producer, "MatMul"):
            if shifts:
                return False
            set_weights(producer, scale_outputs(producer, weight, affine.scale), None)
        else:
            bias = bias_of(producer, channels, weight.dtype)
            if bias is None:
                return False
            has_bias = len(producer.inputs) > 2 and producer.inputs[2] is not None
            new_bias = (bias * affine.scale + affine.shift).astype(weight.dtype)
            set_weights(
                producer,
                scale_outputs(producer, weight, affine.scale).astype(weight.dtype),
                new_bias if has_bias or shifts else None,
            )
        replace(node.outputs[0], producer.outputs[0])
        remove_dead([node])
        return True

    def _fold_forwards(self, node: ir.Node) -> bool:
        output = node.outputs[0] if node.outputs else None
        if output is None or output.is_graph_output() or not output.uses():
            return False
        readers = consumers(output)
        axes = {-1 if is_op(r, "MatMul", "Gemm") else 1 for r in readers}
        if len(axes) != 1:
            return False
        axis = axes.pop()
        found = affine_of(node, axis)
        if found is None:
            return False
        source, affine = found
        size = max(affine.scale.size, affine.shift.size)
        if size > 1 and (source.shape is None or source.shape[axis] != size):
            # one channel, spread over as many as the constant has
            return False
        shifts = bool(np.any(affine.shift))
        if not all(self._accepts(reader, output, shifts) for reader in readers):
            return self._swap_with_scale(node, source, affine, axis) if shifts else False
        for reader in readers:
            weight = constant(reader.inputs[1])
            assert weight is not None
            where = output_channels(reader)
            assert where is not None
            bias = None
            if shifts:
                old = bias_of(reader, where[1], weight.dtype)
                assert old is not None
                bias = (old + shift_through(reader, weight, affine.shift)).astype(weight.dtype)
            set_weights(
                reader, scale_inputs(reader, weight, affine.scale).astype(weight.dtype), bias
            )
        replace(output, source)
        remove_dead([node])
        return True

    @staticmethod
    def _accepts(reader: ir.Node, value: ir.Value, shifts: bool) -> bool:
        if not is_op(reader, "Conv", "Gemm", "MatMul") or reader.inputs[0] is not value:
            return False
        producer = value.producer()
        if producer is None or reader.graph is not producer.graph:
            return False
        if any(v is value for v in reader.inputs[1:]) or output_channels(reader) is None:
            return False
        if is_op(reader, "Gemm") and (attribute_int(reader, "transA", 0) or not plain_gemm(reader)):
            return False
        if not shifts:
            return True
        weight = constant(reader.inputs[1])
        where = output_channels(reader)
        if is_op(reader, "MatMul") or weight is None or where is None or not reads_unpadded(reader):
            return False
        return bias_of(reader, where[1], weight.dtype) is not None

    @staticmethod
    def _swap_with_scale(node: ir.Node, source: ir.Value, affine: Affine, axis: int) -> bool:
        """`(s a) + t` -> `s (a + t / s)` where both nodes are ours alone and s has no zero."""
        scaling = source.producer()
        if not is_op(scaling, "Mul", "Div") or sole_consumer(source) is not node:
            return False
        if scaling is None or not np.all(affine.scale == 1):
            return False
        inner = affine_of(scaling, axis)
        if inner is None or np.any(inner[1].shift) or not np.all(np.abs(inner[1].scale) > 1e-6):
            return False
        readers = consumers(node.outputs[0])
        if not all(FoldAffine._accepts(r, node.outputs[0], shifts=False) for r in readers):
            return False
        variable, before = inner
        index = 0 if node.inputs[1] is not None and is_constant(node.inputs[1]) else 1
        shift_index = 1 - index
        old_shift = constant(node.inputs[shift_index])
        assert old_shift is not None
        scale = before.scale
        ndim = rank(variable) or 0
        if scale.ndim:
            shape = [1] * ndim
            shape[axis % ndim] = -1
            scale = scale.reshape(shape)
        shift = (old_shift / scale).astype(old_shift.dtype)
        graph = owner(node)
        node.replace_input_with(shift_index, new_initializer(graph, f"{node.name}.shift", shift))
        node.replace_input_with(index, variable)
        output = node.outputs[0]
        scale_value = scaling.inputs[1] if is_constant(scaling.inputs[1]) else scaling.inputs[0]
        multiplied = ir.node(
            scaling.op_type, [output, scale_value], name=f"{node.name}.scale", num_outputs=1
        )
        multiplied.outputs[0].name = f"{output.name}.scaled"
        multiplied.outputs[0].shape, multiplied.outputs[0].type = output.shape, output.type
        for usage in [u for u in output.uses() if u.node is not multiplied]:
            usage.node.replace_input_with(usage.idx, multiplied.outputs[0])
        graph.insert_after(node, multiplied)
        remove_dead([scaling])
        return True
