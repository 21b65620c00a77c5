"""Fold batch normalisation into the weights beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.graph.affine import (
    bias_of,
    output_channels,
    plain_gemm,
    reads_unpadded,
    scale_inputs,
    scale_outputs,
    set_weights,
    shift_through,
)
from compress.graph.base import Pass
from compress.graph.order import all_graphs
from compress.graph.rewrite import (
    Names,
    add_initializer,
    initializer_tensor,
    remove_nodes,
    replace_value,
)
from compress.graph.traversal import (
    attribute_float,
    attribute_int,
    constant,
    consumers,
    is_constant,
    is_op,
    rank,
    sole_consumer,
)

Array = npt.NDArray[np.floating]


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """BatchNormalization becomes part of the weights and biases before or behind it.

    Given:  `%c = Conv(%x, %w, %b)`, `%y = BatchNormalization(%c, %scale, %shift, %mean, %var)`
    Result: `%y = Conv(%x, %w * s, (%b - %mean) * s + %shift)`, s = scale / sqrt(var + epsilon)

    1. Behind Conv, ConvTranspose, Gemm: into weights and bias, where nothing else reads between.
    2. Behind a two-dimensional MatMul: the scale into the weights, the shift stays as an Add,
       or goes into the Add that already lies between.
    3. Before Conv (without padding, which would be inserted after the shift) and Gemm, where they
       are its only readers.
    4. Weights that other nodes read too are copied. The sums are made in float64. A statistic that
       is no constant, or a result that is not finite, leaves everything as it is.
    """

    name: ClassVar[str] = "fold-batch-norm"

    def run(self, model: ir.Model) -> bool:
        """Fold in every graph; shapes are inferred."""
        names: Names | None = None
        changed = False
        for graph in all_graphs(model.graph):
            for node in list(graph):
                affine = _affine_of(node)
                if affine is None:
                    continue
                names = names or Names(model)
                scale, shift = affine
                changed |= _into_producer(node, scale, shift, names) or _into_readers(
                    node, scale, shift
                )
        return changed


def _affine_of(node: ir.Node) -> tuple[Array, Array] | None:
    """(scale, shift) per channel, (C,) float64, of a BatchNormalization in inference."""
    if not is_op(node, "BatchNormalization") or attribute_int(node, "training_mode", 0):
        return None
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return None
    constants = [constant(v) for v in node.inputs[1:5] if is_constant(v)]
    arrays = [np.asarray(a, dtype=np.float64) for a in constants if a is not None and a.ndim == 1]
    if len(arrays) != 4 or len({a.size for a in arrays}) != 1:
        return None
    scale, bias, mean, variance = arrays
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + attribute_float(node, "epsilon", 1e-5))
        shift = bias - mean * factor
    return (factor, shift) if np.all(np.isfinite(factor) & np.isfinite(shift)) else None


def _as_stored(array: Array, node: ir.Node) -> Array | None:
    """`array` in the dtype of the weights of `node`; None if it does not fit into it."""
    weight = initializer_tensor(node.inputs[1])
    assert weight is not None
    with np.errstate(over="ignore"):
        result: Array = np.asarray(array.astype(weight.dtype.numpy()))
    return result if np.all(np.isfinite(result)) else None


def _weight_of(node: ir.Node, channels: int, axis: int) -> Array | None:
    """The weights of `node` as float64, if its output has `channels` channels on `axis`."""
    where = output_channels(node)
    if where is None or where[1] != channels or initializer_tensor(node.inputs[1]) is None:
        return None
    if axis == 1 and where[0] != 1 and rank(node.outputs[0]) != 2:
        return None
    # Initialisers of an outer graph stay there; copying them inwards is not worth it.
    weights = [v for v in node.inputs[1:3] if v is not None]
    if any(v.graph is not node.graph for v in weights):
        return None
    if is_op(node, "Gemm") and not plain_gemm(node):
        return None
    weight = constant(node.inputs[1])
    return None if weight is None or weight.dtype.kind != "f" else weight.astype(np.float64)


def _into_producer(node: ir.Node, scale: Array, shift: Array, names: Names) -> bool:
    source = node.inputs[0]
    producer = source.producer() if source is not None else None
    if source is None or producer is None or sole_consumer(source) is not node:
        return False
    if is_op(producer, "MatMul"):
        return _into_matmul(node, producer, scale, shift, names)
    if is_op(producer, "Add"):
        return _into_matmul_add(node, producer, scale, shift, names)
    weight = _weight_of(producer, scale.size, 1)
    if weight is None:
        return False
    bias = bias_of(producer, scale.size, np.dtype(np.float64))
    if bias is None:
        return False
    new_weight = _as_stored(scale_outputs(producer, weight, scale), producer)
    new_bias = _as_stored(bias * scale + shift, producer)
    if new_weight is None or new_bias is None:
        return False
    set_weights(producer, new_weight, new_bias)
    replace_value(node.outputs[0], producer.outputs[0], node)
    remove_nodes([node])
    return True


def _into_matmul(node: ir.Node, matmul: ir.Node, scale: Array, shift: Array, names: Names) -> bool:
    weight = _weight_of(matmul, scale.size, 1)
    if weight is None or node.graph is None:
        return False
    new_weight = _as_stored(scale_outputs(matmul, weight, scale), matmul)
    new_shift = _as_stored(shift, matmul)
    if new_weight is None or new_shift is None:
        return False
    set_weights(matmul, new_weight, None)
    name = names.value(f"{node.outputs[0].name}/shift")
    node.op_type = "Add"
    node.attributes.clear()
    node.resize_inputs(2)
    node.resize_outputs(1)
    node.replace_input_with(1, add_initializer(node.graph, name, new_shift))
    return True


def _into_matmul_add(node: ir.Node, add: ir.Node, scale: Array, shift: Array, names: Names) -> bool:
    """MatMul, then Add of one number per channel, then `node`."""
    for index in (0, 1):
        product, addend = add.inputs[index], add.inputs[1 - index]
        matmul = product.producer() if product is not None else None
        if product is None or matmul is None or not is_op(matmul, "MatMul"):
            continue
        tensor = initializer_tensor(addend)
        weight = _weight_of(matmul, scale.size, 1)
        if sole_consumer(product) is not add or tensor is None or weight is None:
            return False
        old = tensor.numpy()
        if old.size not in (1, scale.size) or old.ndim > 2 or old.shape[:-1] not in ((), (1,)):
            return False
        new_weight = _as_stored(scale_outputs(matmul, weight, scale), matmul)
        new_addend = _as_stored(old.reshape(-1) * scale + shift, matmul)
        if new_weight is None or new_addend is None or add.graph is None:
            return False
        set_weights(matmul, new_weight, None)
        name = names.value(f"{add.outputs[0].name}/shift")
        add.replace_input_with(1 - index, add_initializer(add.graph, name, new_addend))
        replace_value(node.outputs[0], add.outputs[0], node)
        remove_nodes([node])
        return True
    return False


def _into_readers(node: ir.Node, scale: Array, shift: Array) -> bool:
    source, output = node.inputs[0], node.outputs[0]
    if source is None or output.is_graph_output() or not output.uses():
        return False
    plans: list[tuple[ir.Node, Array, Array]] = []
    for reader in consumers(output):
        plan = _reader_plan(reader, output, scale, shift)
        if plan is None:
            return False
        plans.append((reader, *plan))
    for reader, weight, bias in plans:
        set_weights(reader, weight, bias)
    output.replace_all_uses_with(source)
    remove_nodes([node])
    return True


def _reader_plan(
    reader: ir.Node, value: ir.Value, scale: Array, shift: Array
) -> tuple[Array, Array] | None:
    """New weights and bias of `reader` so that it may read what `value` was made from."""
    if not is_op(reader, "Conv", "Gemm") or reader.inputs[0] is not value:
        return None
    where = output_channels(reader)
    if where is None or any(v is value for v in reader.inputs[1:]) or not reads_unpadded(reader):
        return None
    if is_op(reader, "Gemm") and attribute_int(reader, "transA", 0):
        return None
    weight = _weight_of(reader, where[1], -1)
    if weight is None:
        return None
    bias = bias_of(reader, where[1], np.dtype(np.float64))
    if bias is None:
        return None
    new_weight = _as_stored(scale_inputs(reader, weight, scale), reader)
    new_bias = _as_stored(bias + shift_through(reader, weight, shift), reader)
    return None if new_weight is None or new_bias is None else (new_weight, new_bias)
