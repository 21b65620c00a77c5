"""Writing one operator in place of a span."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from compress.graph.base import Pass
from compress.graph.eliminate_dead import EliminateDead
from compress.graph.infer_shapes import InferShapes
from compress.graph.layers import Layer, find_layers
from compress.graph.name_values import NameValues
from compress.graph.traversal import new_initializer, rank, remove_dead, replace
from compress.passes.merge.algebra import LinearMap, grouped, writable

SUFFIX = ".merged"
"""Of the new operator's name, behind that of the span's last layer."""


@dataclasses.dataclass(frozen=True, eq=False)
class Replacement:
    """What takes the place of the layers between two values.

    Attributes:
        source, target: names of values, as a Span has them.
        map: the operator; None: the target is the source itself (the layers are dropped).
        low: where outputs are cut off from below if the span had no activation at its end.
    """

    source: str
    target: str
    map: LinearMap | None
    low: float | None = None


@dataclasses.dataclass(frozen=True)
class MergeSpans(Pass):
    """One operator takes the place of all layers between two values.

    Given:   a = Relu(Conv(x, W1, b1));  c = Conv(a, W2, b2);  s = Add(c, x);  y = Relu(s)
    Result:  m = Conv(x, W, b);  y = Relu(m)

    1. The activation at the span's end stays.
    2. Feature maps get a Conv, rows a Gemm, sequences MatMul and Add.
    3. Weights that are depthwise are written as depthwise.
    4. A floor under the outputs is a Relu if it is zero, and a Clip otherwise.
    5. A Conv has its padding on its own; where taps begin or end inside of the input, zeros fill
       the kernel up.

    Attributes:
        replacements: they must not overlap.
    """

    name: ClassVar[str] = "merge-spans"

    replacements: tuple[Replacement, ...]

    def run(self, model: ir.Model) -> bool:
        by_target = {str(layer.output.name): layer for layer in find_layers(model)}
        values = {str(v.name): v for v in model.graph.inputs}
        values.update({str(v.name): v for node in model.graph for v in node.outputs})
        order = {str(layer.output.name): i for i, layer in enumerate(find_layers(model))}
        # from the front to the back: a span's source may be what another one's operator gives
        for item in sorted(self.replacements, key=lambda r: order[r.target]):
            last = by_target[item.target]
            raw, result = _write(model.graph, values[item.source], last, item)
            values[raw] = result
        if self.replacements:
            EliminateDead().run(model)
            NameValues().run(model)
            InferShapes().run(model)
        return bool(self.replacements)


def _write(
    graph: ir.Graph, source: ir.Value, last: Layer, item: Replacement
) -> tuple[str, ir.Value]:
    """(name of the value that was computed otherwise, what has it now)."""
    raw = last.output if last.activation is None else last.activation.inputs[0]
    assert raw is not None
    producer = raw.producer()
    assert producer is not None
    nodes = [] if item.map is None else _operator(graph, source, raw, item.map, last.name)
    if item.low is not None and last.activation is None:
        inputs = [nodes[-1].outputs[0] if nodes else source]
        if item.low:
            name = f"{last.name}{SUFFIX}.low"
            inputs.append(new_initializer(graph, name, np.array(item.low, np.float32)))
        nodes.append(ir.node("Clip" if item.low else "Relu", inputs))
        nodes[-1].name = f"{last.name}{SUFFIX}.floor"
    graph.insert_after(producer, nodes)
    if not nodes and source.is_graph_input() and raw.is_graph_output():
        # an output cannot be an input's other name
        nodes = [ir.node("Identity", [source])]
        graph.insert_after(producer, nodes)
    result = nodes[-1].outputs[0] if nodes else source
    for node in nodes:
        node.outputs[0].type = raw.type
    name = str(raw.name)
    if nodes:
        # whoever knows the value by its name finds it
        result.shape = raw.shape
        if not raw.is_graph_output():
            raw.name, result.name = f"{name}.before", name
    replace(raw, result)
    remove_dead([producer])
    return name, result


def _operator(
    graph: ir.Graph, source: ir.Value, raw: ir.Value, given: LinearMap, name: str
) -> list[ir.Node]:
    found = writable(given)
    label = f"{name}{SUFFIX}"
    bias = found.bias.astype(np.float32)
    if found.kernel:
        weight, groups = grouped(found.weight) if found.diagonal else (found.weight, 1)
        inputs = [
            source,
            new_initializer(graph, f"{label}.weight", weight.astype(np.float32)),
            new_initializer(graph, f"{label}.bias", bias),
        ]
        before, after = found.pads
        attributes: Mapping[str, int | list[int]] = {
            "kernel_shape": list(found.kernel),
            "strides": list(found.stride),
            "pads": [*before, *after],
            "group": groups,
        }
        nodes = [ir.node("Conv", inputs, attributes)]
    elif rank(source) == 2:
        matrix = new_initializer(graph, f"{label}.weight", found.weight.astype(np.float32))
        offset = new_initializer(graph, f"{label}.bias", bias)
        nodes = [ir.node("Gemm", [source, matrix, offset], {"transB": 1})]
    else:
        matrix = new_initializer(graph, f"{label}.weight", found.weight.T.astype(np.float32))
        offset = new_initializer(graph, f"{label}.bias", bias)
        product = ir.node("MatMul", [source, matrix])
        nodes = [product, ir.node("Add", [product.outputs[0], offset])]
        nodes[1].name = f"{label}.add"
    nodes[0].name = label
    return nodes
