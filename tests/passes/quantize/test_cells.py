"""Layers cut out of their network and measured alone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from compress.errors import DeviceError
from compress.evidence.store import EvidenceStore
from compress.graph.layers import find_layers
from compress.graph.printer import to_text
from compress.passes.quantize.cells import cut_out, measure_cell, signature, split
from compress.passes.quantize.forms import Form, possible_forms

RNG = np.random.default_rng(3)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


TEXT = (
    "g (float[N,4,8,8] x) => (float[N,10] y) { a = Conv <pads = [1,1,1,1]> (x, w, b) c = Relu (a)"
    " d = Conv <pads = [1,1,1,1]> (c, u, b) e = Relu (d) s = Add (c, e) p = GlobalAveragePool (s)"
    " f = Flatten (p) y = Gemm (f, v, h) }"
)
TENSORS = {"w": floats(4, 4, 3, 3), "b": floats(4), "u": floats(4, 4, 3, 3), "v": floats(4, 10),
           "h": floats(10)}  # fmt: skip
SHAPES = dict.fromkeys("xacdes", (2, 4, 8, 8)) | {"p": (2, 4, 1, 1), "f": (2, 4), "y": (2, 10)}


@pytest.fixture
def model(parse):
    return parse(TEXT, **TENSORS)


def test_a_layer_cut_out_computes_what_it_computed(model, run):
    feeds = {"x": floats(2, 4, 8, 8)}
    watched = model.clone()
    watched.graph.outputs.clear()
    watched.graph.outputs.extend(v for n in watched.graph for v in n.outputs)
    values = {**feeds, **run(watched, feeds)}
    before = to_text(model, weights=True)
    for layer in find_layers(model):
        cell = cut_out(model, layer, SHAPES)
        names = [str(v.name) for v in cell.graph.inputs]
        assert names == list(dict.fromkeys(str(v.name) for v in layer.inputs))
        (found,) = run(cell, {n: values[n] for n in names}, checked=False).values()
        np.testing.assert_allclose(found, values[str(layer.output.name)], atol=1e-4)
        assert [v.shape for v in cell.graph.inputs] == [ir.Shape(SHAPES[n]) for n in names]
    assert to_text(model, weights=True) == before


def test_every_form_is_measured(model):
    store = EvidenceStore.in_memory()
    for layer in find_layers(model):
        for form in possible_forms(layer):
            cell = measure_cell(model, layer, SHAPES, form, store, "host")
            assert cell.core_us > 0
            assert cell.fused
            if form is Form.INT8 and layer.weight is not None:
                assert cell.entry_us > 0
                assert cell.exit_us > 0


def test_layers_alike_are_measured_once_and_never_again(model, machine):
    store = EvidenceStore.in_memory()
    first, second = (x for x in find_layers(model) if x.op == "Conv")
    assert signature(first, SHAPES, Form.INT8) == signature(second, SHAPES, Form.INT8)
    found = measure_cell(model, first, SHAPES, Form.INT8, store, "host")
    once = machine.counted["kernel_times"]
    assert measure_cell(model, second, SHAPES, Form.INT8, store, "host") == found
    assert machine.counted["kernel_times"] == once
    # another host, form or shape is something else
    measure_cell(model, first, SHAPES, Form.INT8, store, "another host")
    measure_cell(model, first, SHAPES, Form.FLOAT, store, "host")
    measure_cell(model, first, {**SHAPES, "x": (1, 4, 8, 8)}, Form.INT8, store, "host")
    assert machine.counted["kernel_times"] >= once + 3


def test_signatures_tell_layers_apart(parse):
    def of(text, form=Form.FLOAT, **tensors):
        model = parse("g (float[2,4,8,8] x) => (float[?,?,?,?] y) " + text, **tensors)
        return repr(signature(find_layers(model)[0], {"x": (2, 4, 8, 8)}, form))

    w = floats(4, 4, 3, 3)
    different = [
        of("{ y = Conv (x, w) }", w=w),
        of("{ y = Conv (x, w) }", Form.INT8, w=w),
        of("{ y = Conv (x, w, b) }", w=w, b=floats(4)),
        of("{ y = Conv <strides = [2,2]> (x, w) }", w=w),
        of("{ y = Conv <group = 4> (x, w) }", w=floats(4, 1, 3, 3)),
        of("{ a = Conv (x, w) y = Relu (a) }", w=w),
        of("{ a = Conv (x, w) y = HardSwish (a) }", w=w),
        of("{ y = Conv (x, w) }", w=floats(8, 4, 3, 3)),
    ]
    assert len(set(different)) == len(different)
    assert of("{ y = Conv (x, w) }", w=floats(4, 4, 3, 3)) == different[0]


@pytest.mark.parametrize(
    ("kernels", "expected"),
    [
        ([("QuantizeLinear", 2), ("QLinearConv", 10), ("DequantizeLinear", 3)], (10, 2, 3)),
        ([("ReorderInput", 1), ("Conv", 10), ("ReorderOutput", 2)], (10, 1, 2)),
        # what stands between the layer's own kernels is the layer's
        (
            [("QuantizeLinear", 2), ("QLinearConv", 10), ("DequantizeLinear", 3), ("HardSwish", 4)],
            (17, 2, 0),
        ),
        ([("Conv", 10)], (10, 0, 0)),
        # a layer that is itself a Transpose
        ([("QuantizeLinear", 2), ("Transpose", 10), ("DequantizeLinear", 3)], (10, 2, 3)),
    ],
)
def test_conversions_are_told_from_the_layer(kernels, expected):
    cell = split([("", kernel, float(us)) for kernel, us in kernels], Form.INT8)
    assert (cell.core_us, cell.entry_us, cell.exit_us) == expected


def test_a_layer_that_does_not_run_is_named(model):
    layer = next(x for x in find_layers(model) if x.op == "Gemm")
    with pytest.raises(DeviceError, match=layer.name):
        measure_cell(
            model, layer, {**SHAPES, "f": (2, 5)}, Form.FLOAT, EvidenceStore.in_memory(), "host"
        )
