"""Small networks for scratchpads, in float and in int8, and the plainest plan there is."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import small_networks

from compress.graph.canonical import canonicalize
from compress.graph.layers import find_layers
from compress.passes.quantize.forms import Form, possible_forms
from compress.passes.quantize.qdq import QuantizeLayers
from compress.passes.schedule.extract import Extracted, extract
from compress.passes.schedule.problem import Graph, Plan, Stay


def model(proto: onnx.ModelProto, **shapes: tuple[int, ...]) -> ir.Model:
    return canonicalize(ir.from_proto(proto), shapes=shapes)


def extracted(text: str, **tensors: np.ndarray) -> Extracted:
    return extract(model(small_networks.network(text, **tensors)))


def cnn() -> ir.Model:
    """Six layers with a shortcut, float."""
    return model(small_networks.cnn(), image=(1, 3, 12, 12))


def int8(given: ir.Model, bound: float = 4.0) -> ir.Model:
    """Every layer in int8 that can be, all values within the same bounds."""
    layers = find_layers(given)
    forms = {
        layer.name: Form.INT8 if Form.INT8 in possible_forms(layer) else Form.FLOAT
        for layer in layers
    }
    values = {str(v.name) for layer in layers for v in (*layer.inputs, layer.output)}
    values |= {str(layer.node.outputs[0].name) for layer in layers}
    QuantizeLayers(forms, dict.fromkeys(values, (-bound, bound))).run(given)
    return canonicalize(given)


def feeds(given: ir.Model, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        str(v.name): generator.standard_normal(tuple(v.shape.dims)).astype(v.dtype.numpy())
        for v in given.graph.inputs
    }


def plain_plan(graph: Graph) -> Plan:
    """Operators in the graph's order; everything stays from its first to its last use, at the
    first address that is free, the largest first."""
    wanted: list[tuple[int, int, int, Stay | int]] = []
    for number, tensor in enumerate(graph.tensors):
        made, uses = graph.producers[number], graph.consumers[number]
        if made is None and not uses:
            continue
        first = uses[0] if made is None else made
        last = max((first, *uses))
        wanted.append((tensor.bytes, first, last, Stay(number, first, last, made is None)))
    for number, operator in enumerate(graph.operators):
        if operator.workspace:
            wanted.append((operator.workspace, number, number, number))
    placed: list[tuple[int, int, int, int]] = []
    stays: list[Stay] = []
    workspaces: list[int | None] = [None] * len(graph.operators)
    for size, first, last, what in sorted(wanted, key=lambda item: -item[0]):
        address = 0
        for low, high, begin, end in sorted(placed):
            if begin <= last and first <= end and low < address + size:
                address = max(address, high)
        placed.append((address, address + size, first, last))
        if isinstance(what, int):
            workspaces[what] = address
        else:
            stays.append(Stay(what.tensor, first, last, what.loaded, address))
    return Plan(
        tuple(range(len(graph.operators))),
        tuple(sorted(stays, key=lambda stay: (stay.tensor, stay.first))),
        0,
        method="first fit",
        peak=max(high for _, high, _, _ in placed),
        workspaces=tuple(workspaces),
    )
