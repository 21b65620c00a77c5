"""Profiles of whole networks, traced back to layers."""

from __future__ import annotations

import numpy as np

from compress.execute.session import kernel_times
from compress.graph.layers import find_layers
from compress.passes.quantize.forms import Form
from compress.passes.quantize.insitu import corrections, layer_times
from compress.passes.quantize.qdq import QuantizeLayers

RNG = np.random.default_rng(4)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


TEXT = (
    "g (float[N,16,12,12] x) => (float[N,10] y) {"
    " a = Conv <pads = [1,1,1,1]> (x, w, b) c = Relu (a) d = Conv <pads = [1,1,1,1]> (c, u, e)"
    " s = Add (d, x) m = MaxPool <kernel_shape = [2,2]> (s)"
    " p = GlobalAveragePool (m) f = Flatten (p) y = Gemm (f, v, h) }"
)
TENSORS = {
    "w": floats(16, 16, 3, 3),
    "b": floats(16),
    "u": floats(16, 16, 3, 3),
    "e": floats(16),
    "v": floats(16, 10),
    "h": floats(10),
}


def test_every_kernel_of_a_float_network_finds_its_layer(parse):
    model = parse(TEXT, **TENSORS)
    layers = find_layers(model)
    times = kernel_times(model, {"x": floats(1, 16, 12, 12)}, runs=2)
    found, total = layer_times(layers, times)
    assert total == sum(t for _, _, t in times)
    heavy = {x.name for x in layers if x.weight is not None}
    assert heavy <= set(found)
    assert sum(found.values()) <= total


def test_every_kernel_of_an_integer_network_finds_its_layer(parse):
    model = parse(TEXT, **TENSORS)
    layers = find_layers(model)
    ranges = {str(v.name): (-9.0, 9.0) for n in model.graph for v in (*n.inputs, *n.outputs)}
    forms = {x.name: Form.INT8 for x in layers}
    QuantizeLayers(forms, ranges).run(model)
    times = kernel_times(model, {"x": floats(1, 16, 12, 12)}, runs=2)
    kernels = {kernel for _, kernel, _ in times}
    assert {"QLinearConv", "QGemm", "QLinearAdd"} <= kernels
    found, _ = layer_times(layers, times)
    assert {x.name for x in layers if x.op in ("Conv", "Gemm", "Add")} <= set(found)


def test_conversions_count_in_the_total_alone(parse):
    layers = find_layers(parse(TEXT, **TENSORS))
    name = layers[0].name
    times = [
        (name, "QLinearConv", 10.0),
        (f"{name}_nchwc", "Conv", 3.0),
        ("x.quantize", "QuantizeLinear", 2.0),
        (f"{name}", "ReorderOutput", 1.0),
        ("somebody else's", "Gelu", 4.0),
    ]
    assert layer_times(layers, times) == ({name: 13.0}, 20.0)


def test_corrections_are_filed_under_the_form_that_was_measured():
    measured = {"a": 1.0, "b": 2.0, "c": 3.0}
    forms = {"a": "int8", "c": "int8"}
    assert corrections(measured, forms, frozenset()) == {
        ("a", "int8"): 1.0,
        ("b", "float"): 2.0,
        ("c", "int8"): 3.0,
    }
    # an activation behind an integer layer runs under a name of its own
    assert ("c", "int8") not in corrections(measured, forms, frozenset("c"))
    assert ("c", "float") in corrections(measured, {}, frozenset("c"))
