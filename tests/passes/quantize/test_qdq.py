"""Integer forms written into graphs: texts, numbers, and the kernels that onnxruntime runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest

from compress.evidence.store import EvidenceStore
from compress.execute.arithmetic import adds_pairs_in_16_bits
from compress.graph.layers import find_layers
from compress.graph.printer import to_text
from compress.passes.quantize.cells import is_fused, measure_cell
from compress.passes.quantize.forms import Form, observed, possible_forms
from compress.passes.quantize.qdq import QuantizeLayers, round_value

PAIRED = adds_pairs_in_16_bits()
"""As `compress run` would have it on the machine that the tests run on."""

RNG = np.random.default_rng(7)
IMAGE = "g (float[N,4,8,8] x) => "
MATRIX = "g (float[N,64] x) => "
TOKENS = "g (float[N,6,64] x) => "


def floats(*shape, scale=1.0):
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


def integers(*values):
    return np.array(values, np.int64)


@dataclasses.dataclass(frozen=True)
class Case:
    """A float model, and what its layers become.

    `forms` is by operator: every layer of that operator takes the form, if it can. `kernels` are
    those that must run, `absent` those that must not; `conversions` counts the QuantizeLinear and
    DequantizeLinear that are left at run time.
    """

    text: str
    tensors: Mapping[str, np.ndarray]
    forms: Mapping[str, Form]
    kernels: tuple[str, ...]
    absent: tuple[str, ...] = ()
    conversions: tuple[int, int] | None = None


INT8, OUT, DYNAMIC, BLOCK = Form.INT8, Form.INT8_TO_FLOAT, Form.DYNAMIC, Form.BLOCK
CONV = {"w": floats(8, 4, 3, 3), "b": floats(8)}
POINTWISE = {"u": floats(8, 8, 1, 1), "d": floats(8)}
FLOAT_CONV = ("Conv", "FusedConv")
SIX = {"zero": np.float32(0), "six": np.float32(6)}

CASES = {
    "conv": Case(IMAGE + "(float[N,8,8,8] y) { y = Conv <pads = [1,1,1,1]> (x, w, b) }",
                 CONV, {"Conv": INT8}, ("QLinearConv",), FLOAT_CONV),
    "conv_without_bias": Case(
        IMAGE + "(float[N,8,6,6] y) { y = Conv (x, w) }",
        {"w": CONV["w"]}, {"Conv": INT8}, ("QLinearConv",), FLOAT_CONV),
    "conv_relu": Case(
        IMAGE + "(float[N,8,6,6] y) { a = Conv (x, w, b) y = Relu (a) }",
        CONV, {"Conv": INT8}, ("QLinearConv",), (*FLOAT_CONV, "Relu")),
    "conv_clip": Case(
        IMAGE + "(float[N,8,6,6] y) { a = Conv (x, w, b) y = Clip (a, zero, six) }",
        {**CONV, **SIX}, {"Conv": INT8}, ("QLinearConv",), (*FLOAT_CONV, "Clip")),
    "conv_clip_upper": Case(
        IMAGE + "(float[N,8,6,6] y) { a = Conv (x, w, b) y = Clip (a, , six) }",
        {**CONV, **SIX}, {"Conv": INT8}, ("QLinearConv",), (*FLOAT_CONV, "Clip")),
    "conv_hard_swish": Case(
        IMAGE + "(float[N,8,6,6] y) { a = Conv (x, w, b) y = HardSwish (a) }",
        CONV, {"Conv": INT8}, ("QLinearConv",), FLOAT_CONV),
    "conv_leaky_relu": Case(
        IMAGE + "(float[N,8,6,6] y) { a = Conv (x, w, b) y = LeakyRelu <alpha = 0.1> (a) }",
        CONV, {"Conv": INT8}, ("QLinearConv",), FLOAT_CONV),
    "conv_grouped": Case(
        IMAGE + "(float[N,8,6,6] y) { a = Conv <group = 2> (x, w, b) y = Relu (a) }",
        {"w": floats(8, 2, 3, 3), "b": floats(8)}, {"Conv": INT8}, ("QLinearConv",), FLOAT_CONV),
    "conv_depthwise": Case(
        IMAGE + "(float[N,4,8,8] y) { y = Conv <group = 4, pads = [1,1,1,1]> (x, w, b) }",
        {"w": floats(4, 1, 3, 3), "b": floats(4)}, {"Conv": INT8}, ("QLinearConv",), FLOAT_CONV),
    "conv_1d": Case(
        "g (float[N,4,16] x) => (float[N,8,14] y) { a = Conv (x, w, b) y = Relu (a) }",
        {"w": floats(8, 4, 3), "b": floats(8)}, {"Conv": INT8}, ("QLinearConv",), FLOAT_CONV),
    # nothing but integers between the two
    "conv_chain": Case(
        IMAGE + "(float[N,8,6,6] y) { a = Conv (x, w, b) c = Relu (a) y = Conv (c, u, d) }",
        {**CONV, **POINTWISE}, {"Conv": INT8}, ("QLinearConv",), (*FLOAT_CONV, "Relu"),
        conversions=(1, 1)),
    # the value behind the convolution is read in both domains
    "mixed_readers": Case(
        IMAGE + "(float[N,8,6,6] y) { a = Conv (x, w, b) c = Relu (a) p = Conv (c, u, d)"
        " q = Sin (c) y = Sub (p, q) }",
        {**CONV, **POINTWISE}, {"Conv": INT8}, ("QLinearConv", "Sin"), FLOAT_CONV,
        conversions=(1, 2)),
    # a float layer writes it, an integer and a float layer read it
    "float_value_with_mixed_readers": Case(
        IMAGE + "(float[N,8,6,6] y, float[N,4,8,8] z) { t = Tanh (x) y = Conv (t, w, b)"
        " z = Exp (t) }",
        CONV, {"Conv": INT8}, ("QLinearConv", "Tanh", "Exp"), FLOAT_CONV),
    "outputs_inside_a_chain": Case(
        IMAGE + "(float[N,8,6,6] c, float[N,8,6,6] y)"
        " { a = Conv (x, w, b) c = Relu (a) y = Conv (c, u, d) }",
        {**CONV, **POINTWISE}, {"Conv": INT8}, ("QLinearConv",), (*FLOAT_CONV, "Relu"),
        conversions=(1, 2)),
    "residual": Case(
        IMAGE + "(float[N,4,8,8] y) { a = Conv <pads = [1,1,1,1]> (x, w, b) c = Relu (a)"
        " p = Conv (c, u, d) s = Add (p, x) y = Relu (s) }",
        {"w": floats(4, 4, 3, 3), "b": floats(4), "u": floats(4, 4, 1, 1), "d": floats(4)},
        {"Conv": INT8, "Add": INT8}, ("QLinearConv", "QLinearAdd"), (*FLOAT_CONV, "Add"),
        conversions=(1, 1)),
    "concat": Case(
        IMAGE + "(float[N,16,6,6] y) { a = Conv (x, w, b) c = Relu (a) p = Conv (c, u, d)"
        " y = Concat <axis = 1> (c, p) }",
        {**CONV, **POINTWISE}, {"Conv": INT8, "Concat": INT8},
        ("QLinearConv", "QLinearConcat"), (*FLOAT_CONV, "Concat"),
        conversions=(1, 1)),
    "pool_reshape_gemm": Case(
        IMAGE + "(float[N,10] y) { a = Conv <pads = [1,1,1,1]> (x, w, b) c = Relu (a)"
        " p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (c) "
        "t = Transpose <perm = [0,2,3,1]> (p) r = Reshape (t, shape) y = Gemm (r, v, e) }",
        {**CONV, "shape": integers(-1, 128), "v": floats(128, 10), "e": floats(10)},
        {"Conv": INT8, "MaxPool": INT8, "Transpose": INT8, "Reshape": INT8, "Gemm": INT8},
        ("QLinearConv", "QGemm"), (*FLOAT_CONV, "Gemm"),
        conversions=(1, 1)),
    "global_average_pool": Case(
        IMAGE + "(float[N,8] y) { a = Conv (x, w, b) c = Relu (a) p = GlobalAveragePool (c)"
        " y = Flatten (p) }",
        CONV, {"Conv": INT8, "GlobalAveragePool": INT8, "Flatten": INT8},
        ("QLinearConv", "QLinearGlobalAveragePool"), (*FLOAT_CONV, "GlobalAveragePool"),
        conversions=(1, 1)),
    "average_pool": Case(
        IMAGE + "(float[N,8,5,5] y) { a = Conv (x, w, b) c = Relu (a)"
        " y = AveragePool <kernel_shape = [2,2]> (c) }",
        CONV, {"Conv": INT8, "AveragePool": INT8},
        ("QLinearConv", "QLinearAveragePool"), (*FLOAT_CONV, "AveragePool")),
    "gate": Case(
        IMAGE + "(float[N,8,6,6] y) { a = Conv (x, w, b) p = GlobalAveragePool (a)"
        " q = Conv (p, u, d) s = Sigmoid (q) y = Mul (a, s) }",
        {**CONV, **POINTWISE},
        {"Conv": INT8, "GlobalAveragePool": INT8, "Mul": INT8},
        ("QLinearConv", "QLinearMul"), (*FLOAT_CONV, "Mul")),
    "upsample": Case(
        IMAGE + "(float[N,8,12,12] y) { a = Conv (x, w, b) c = Relu (a)"
        ' y = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric",'
        ' nearest_mode = "floor"> (c, , scales) }',
        {**CONV, "scales": np.array([1, 1, 2, 2], np.float32)},
        {"Conv": INT8, "Resize": INT8}, ("QLinearConv", "Resize"), FLOAT_CONV,
        conversions=(1, 1)),
    "same_value_twice": Case(
        IMAGE + "(float[N,8,6,6] y) { a = Conv (x, w, b) c = Relu (a) y = Add (c, c) }",
        CONV, {"Conv": INT8, "Add": INT8}, ("QLinearConv", "QLinearAdd"), (*FLOAT_CONV, "Add"),
        conversions=(1, 1)),
    "shared_weights": Case(
        IMAGE + "(float[N,4,8,8] y) { a = Conv <pads = [1,1,1,1]> (x, w, b) c = Relu (a)"
        " y = Conv <pads = [1,1,1,1]> (c, w, b) }",
        {"w": floats(4, 4, 3, 3, scale=0.3), "b": floats(4)}, {"Conv": INT8},
        ("QLinearConv",), FLOAT_CONV),
    "shared_bias": Case(
        IMAGE + "(float[N,8,6,6] y) { a = Conv (x, w, b) c = Relu (a) y = Conv (c, u, b) }",
        {**CONV, "u": POINTWISE["u"]}, {"Conv": INT8}, ("QLinearConv",), FLOAT_CONV),
    "gemm": Case(
        MATRIX + "(float[N,32] y) { a = Gemm (x, w, b) y = Relu (a) }",
        {"w": floats(64, 32), "b": floats(32)}, {"Gemm": INT8}, ("QGemm",), ("Gemm",)),
    "gemm_transposed": Case(
        MATRIX + "(float[N,32] y) { y = Gemm <transB = 1> (x, w, b) }",
        {"w": floats(32, 64), "b": floats(32)}, {"Gemm": INT8}, ("QGemm",), ("Gemm",)),
    "gemm_transposed_float_out": Case(
        MATRIX + "(float[N,32] y) { y = Gemm <transB = 1> (x, w, b) }",
        {"w": floats(32, 64), "b": floats(32)}, {"Gemm": OUT}, ("MatMulIntegerToFloat",),
        ("Gemm",)),
    "gemm_transposed_dynamic": Case(
        MATRIX + "(float[N,32] y) { a = Gemm <transB = 1> (x, w, b) y = Relu (a) }",
        {"w": floats(32, 64), "b": floats(32)}, {"Gemm": DYNAMIC}, ("DynamicQuantizeMatMul",),
        ("Gemm",)),
    "gemm_block": Case(
        "g (float[N,256] x) => (float[N,32] y) { y = Gemm <transB = 1> (x, w, b) }",
        {"w": floats(32, 256), "b": floats(32)}, {"Gemm": BLOCK}, ("MatMulNBits",), ("Gemm",)),
    "gemm_scalar_bias": Case(
        MATRIX + "(float[N,32] y) { y = Gemm (x, w, b) }",
        {"w": floats(64, 32), "b": floats(1)}, {"Gemm": DYNAMIC}, (), ()),
    "matmul_bias_dynamic": Case(
        TOKENS + "(float[N,6,32] y) { a = MatMul (x, w) y = Add (a, b) }",
        {"w": floats(64, 32), "b": floats(32)}, {"MatMul": DYNAMIC}, ("DynamicQuantizeMatMul",),
        ("MatMul", "Gemm", "Add")),
    "matmul_bias_float_out": Case(
        TOKENS + "(float[N,6,32] y) { a = MatMul (x, w) y = Add (b, a) }",
        {"w": floats(64, 32), "b": floats(1, 1, 32)}, {"MatMul": OUT},
        ("MatMulIntegerToFloat",), ("MatMul", "Gemm", "Add")),
    "matmul_bias_block": Case(
        "g (float[N,6,200] x) => (float[N,6,32] y) { a = MatMul (x, w) y = Add (a, b) }",
        {"w": floats(200, 32), "b": floats(32)}, {"MatMul": BLOCK}, ("MatMulNBits",),
        ("MatMul", "Gemm", "Add")),
    "matmul_without_bias": Case(
        TOKENS + "(float[N,6,32] y) { y = MatMul (x, w) }",
        {"w": floats(64, 32)}, {"MatMul": OUT}, ("MatMulIntegerToFloat",), ("MatMul",)),
    "matmul_relu": Case(
        TOKENS + "(float[N,6,32] y) { a = MatMul (x, w) c = Add (a, b) y = Relu (c) }",
        {"w": floats(64, 32), "b": floats(32)}, {"MatMul": DYNAMIC},
        ("DynamicQuantizeMatMul", "Relu"), ("MatMul", "Add")),
    "matmuls_on_one_value": Case(
        TOKENS + "(float[N,6,32] y) { q = MatMul (x, w) k = MatMul (x, u) p = Mul (q, k)"
        " e = Exp (x) r = ReduceMean (e) y = Add (p, r) }",
        {"w": floats(64, 32), "u": floats(64, 32)}, {"MatMul": OUT},
        ("MatMulIntegerToFloat",), ("MatMul",),
        conversions=(1, 0)),
    # onnxruntime would quantize the operator in the middle, with one scale for all its weights
    "float_between_integers": Case(
        IMAGE + "(float[N,8,10,10] y) { a = Conv <pads = [1,1,1,1]> (x, w, b) c = Relu (a)"
        " d = ConvTranspose (c, t) e = Relu (d) y = Conv (e, u, d0) }",
        {**CONV, "t": floats(8, 8, 3, 3, scale=0.2), "u": POINTWISE["u"], "d0": POINTWISE["d"]},
        {"Conv": INT8}, ("QLinearConv", "ConvTranspose"), FLOAT_CONV, conversions=(2, 2)),
    "float_matmul_between_integers": Case(
        MATRIX + "(float[N,8] y) { a = Gemm (x, w) c = Relu (a) d = MatMul (c, u) e = Add (d, b)"
        " f = Relu (e) y = Gemm (f, v) }",
        {"w": floats(64, 16), "u": floats(16, 16), "b": floats(16), "v": floats(16, 8)},
        {"Gemm": INT8}, ("QGemm",), (), conversions=(2, 2)),
    "int8_into_float_out": Case(
        "g (float[N,4,16] x) => (float[N,8,32] y) { a = Conv <pads = [1,1]> (x, w, b)"
        " c = Relu (a) y = MatMul (c, v) }",
        {"w": floats(8, 4, 3), "b": floats(8), "v": floats(16, 32)},
        {"Conv": INT8, "MatMul": OUT}, ("QLinearConv", "MatMulIntegerToFloat"),
        (*FLOAT_CONV, "MatMul"),
        conversions=(1, 0)),
}  # fmt: skip


def feeds_of(model, seed=0, batch=2):
    generator = np.random.default_rng(seed)
    return {
        str(v.name): generator.standard_normal(
            [d if isinstance(d, int) else batch for d in v.shape]
        ).astype(np.float32)
        for v in model.graph.inputs
    }


def forms_of(model, wanted):
    """Every layer's form: that of its operator if the layer can take it."""
    return {
        layer.name: wanted[layer.op]
        for layer in find_layers(model)
        if layer.op in wanted and wanted[layer.op] in possible_forms(layer)
    }


def ranges_of(model, feeds, run):
    """Min-max ranges of everything the layers could read or write as integers."""
    names = dict.fromkeys(n for layer in find_layers(model) for n in observed(layer))
    watched = model.clone()
    values = {str(v.name): v for node in watched.graph for v in node.outputs}
    given = {str(v.name) for v in watched.graph.inputs}
    watched.graph.outputs.clear()
    watched.graph.outputs.extend(values[n] for n in names if n not in given)
    arrays = dict(feeds) | (run(watched, feeds) if len(watched.graph.outputs) else {})
    return {n: (float(arrays[n].min()), float(arrays[n].max())) for n in names}


def fixed_ranges(model):
    """Ranges that do not depend on how a machine rounds."""
    ranges = {}
    for layer in find_layers(model):
        for name in observed(layer):
            ranges.setdefault(name, (-2.0, 6.0))
        if layer.saturating:
            ranges[str(layer.output.name)] = (0.0, 5.0)
    return ranges


def build(case, parse, run):
    model = parse(case.text, **case.tensors)
    feeds = feeds_of(model)
    return model, feeds, forms_of(model, case.forms), ranges_of(model, feeds, run)


def noise(expected, found):
    """Relative root mean square error."""
    return float(np.sqrt(np.square(found - expected).mean() / np.square(expected).mean()))


@pytest.mark.parametrize("name", CASES)
def test_text(name, parse, golden):
    case = CASES[name]
    model = parse(case.text, **case.tensors)
    before = to_text(model)
    assert QuantizeLayers(forms_of(model, case.forms), fixed_ranges(model)).run(model)
    golden(f"quantize_{name}", f"{before}--- quantize-layers\n{to_text(model)}")


@pytest.mark.parametrize("name", CASES)
def test_numbers_and_kernels(name, parse, run, kernels):
    case = CASES[name]
    model, feeds, forms, ranges = build(case, parse, run)
    assert forms
    expected = run(model, feeds)
    declared = [(v.name, v.dtype, v.shape) for v in model.graph.outputs]
    QuantizeLayers(forms, ranges, PAIRED).run(model)
    assert [(v.name, v.dtype, v.shape) for v in model.graph.outputs] == declared
    found = run(model, feeds)
    reference = run(model, feeds, optimised=False)
    for output, array in expected.items():
        assert found[output].shape == array.shape
        assert noise(array, found[output]) < 0.05
        # fused or not, it is the same arithmetic: what rounding another way makes of it is less
        assert noise(reference[output], found[output]) < 0.02
    ran = kernels(model, feeds)
    for kernel in case.kernels:
        assert kernel in ran
    for kernel in case.absent:
        assert kernel not in ran
    if case.conversions is not None:
        assert (ran.count("QuantizeLinear"), ran.count("DequantizeLinear")) == case.conversions


@pytest.mark.parametrize("name", CASES)
def test_every_layer_fuses_by_itself(name, parse, run):
    """In the cell that its latency is measured in, too."""
    case = CASES[name]
    model, feeds, forms, _ = build(case, parse, run)
    shapes = shapes_of(model, feeds, run)
    for layer in find_layers(model):
        if layer.name in forms:
            cell = measure_cell(
                model, layer, shapes, forms[layer.name], EvidenceStore.in_memory(), "host"
            )
            assert cell.fused, f"{layer.name}: {cell.kernels}"
            assert min(cell.core_us, cell.entry_us, cell.exit_us) >= 0.0


@pytest.mark.parametrize("name", CASES)
def test_the_same_options_give_the_same_model(name, parse, run):
    model, _, forms, ranges = build(CASES[name], parse, run)
    first, second = model.clone(), model.clone()
    QuantizeLayers(forms, ranges, PAIRED).run(first)
    QuantizeLayers(forms, ranges, PAIRED).run(second)
    assert to_text(first, weights=True) == to_text(second, weights=True)
    assert_names_are_unique(first)


def assert_names_are_unique(model):
    values = [v.name for node in model.graph for v in node.outputs]
    values += [*model.graph.initializers, *(v.name for v in model.graph.inputs)]
    nodes = [node.name for node in model.graph]
    for names in (values, nodes):
        assert len(set(names)) == len(names)


def shapes_of(model, feeds, run):
    watched = model.clone()
    watched.graph.outputs.clear()
    watched.graph.outputs.extend(v for node in watched.graph for v in node.outputs)
    return {name: array.shape for name, array in {**feeds, **run(watched, feeds)}.items()}


# --- situations that need numbers of their own ---------------------------------------------------


def int8_noise(parse, run, text, forms, **tensors):
    """Relative error of the quantized model against the float one."""
    model = parse(text, **tensors)
    feeds = feeds_of(model)
    expected = run(model, feeds)
    QuantizeLayers(forms_of(model, forms), ranges_of(model, feeds, run), PAIRED).run(model)
    assert_names_are_unique(model)
    found = run(model, feeds)
    return max(noise(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-6])
def test_channels_with_dead_weights_keep_their_bias(size, parse, run):
    """What batch norms with a vanishing scale leave behind once they are folded."""
    w = floats(8, 4, 3, 3)
    w[::2] *= size
    text = IMAGE + "(float[N,8,6,6] y) { a = Conv (x, w, b) y = Relu (a) }"
    bias = np.linspace(1, 3, 8).astype(np.float32)
    assert int8_noise(parse, run, text, {"Conv": INT8}, w=w, b=bias) < 0.02


def test_gemm_with_one_bias_for_all_columns(parse, run):
    for form in (INT8, OUT, DYNAMIC):
        text = MATRIX + "(float[N,32] y) { y = Gemm (x, w, b) }"
        tensors = {"w": floats(64, 32), "b": np.array([20], np.float32)}
        assert int8_noise(parse, run, text, {"Gemm": form}, **tensors) < 0.03


def test_matmul_of_a_vector(parse, run):
    for form in (OUT, DYNAMIC):
        text = "g (float[64] x) => (float[32] y) { y = MatMul (x, w) }"
        assert int8_noise(parse, run, text, {"MatMul": form}, w=floats(64, 32)) < 0.05


def test_names_that_are_taken_already_are_left_alone(parse, run):
    """Values and weights of the user's called as the pass would call its own."""
    text = IMAGE + (
        "(float[N,8,6,6] y) { m = Mul (x, t) e = Tanh (m) n = Neg (e) s = Add (n, x)"
        " a = Conv (x, w, b) c = Conv (s, v) y = Add (a, c) }"
    )
    tensors = {**CONV, "v": floats(8, 4, 3, 3), "t": floats(4, 1, 1)}
    model = parse(text, **tensors)
    taken = {"t": "x.scale", "v": "w.quantized", "m": "x.u8", "e": "x.dq", "n": "x.quantize"}
    for value in [*model.graph.initializers.values(), *(n.outputs[0] for n in model.graph)]:
        value.name = taken.get(value.name, value.name)
    next(n for n in model.graph if n.op_type == "Neg").name = "x.dequantize"
    feeds = feeds_of(model)
    expected = run(model, feeds)
    QuantizeLayers(forms_of(model, {"Conv": INT8}), ranges_of(model, feeds, run), PAIRED).run(model)
    assert_names_are_unique(model)
    assert noise(expected["y"], run(model, feeds)["y"]) < 0.05


def test_weights_that_somebody_else_reads_stay(parse, run):
    text = IMAGE + "(float[N,8,6,6] y) { a = Conv (x, w, b) n = Neg (t) v = Mul (w, n)"
    text += " c = Conv (x, v) y = Add (a, c) }"
    text = text.replace("float[N,4,8,8] x", "float[N,4,8,8] x, float[1] t")
    assert int8_noise(parse, run, text, {"Conv": INT8}, **CONV) < 0.05


@pytest.mark.parametrize("flag", [True, False])
def test_a_subgraph_reads_what_it_captured(flag, parse, run):
    text = (
        "g (float[N,4,8,8] x, bool flag) => (float[N,8,6,6] y) { a = Conv (x, w, b) c = Relu (a)"
        " d = Conv (c, u, v)"
        " y = If (flag) <then_branch = t () => (float[N,8,6,6] p) { p = Neg (c) },"
        " else_branch = e () => (float[N,8,6,6] q) { q = Add (c, d) }> }"
    )
    model = parse(text, **CONV, u=POINTWISE["u"], v=POINTWISE["d"])
    feeds = {"x": floats(2, 4, 8, 8), "flag": np.array(flag)}
    expected = run(model, feeds)
    ranges = {"x": (-4.0, 4.0), "c": (0.0, 40.0), "d": (-90.0, 90.0)}
    QuantizeLayers(forms_of(model, {"Conv": INT8}), ranges, PAIRED).run(model)
    assert_names_are_unique(model)
    assert noise(expected["y"], run(model, feeds)["y"]) < 0.05


def test_an_activation_inside_a_subgraph_is_no_part_of_the_layer(parse, run):
    """Only one branch reads the convolution's output, through a Relu of its own."""
    text = (
        "g (float[N,4,8,8] x, bool flag) => (float[N,8,6,6] y) { a = Conv (x, w, b)"
        " y = If (flag) <then_branch = t () => (float[N,8,6,6] p) { p = Relu (a) },"
        " else_branch = e () => (float[N,8,6,6] q) { q = Conv (x, w) }> }"
    )
    model = parse(text, **CONV)
    layer = next(x for x in find_layers(model) if x.op == "Conv")
    assert layer.activation is None
    feeds = {"x": floats(2, 4, 8, 8), "flag": np.array(True)}
    expected = run(model, feeds)
    ranges = {"x": (-4.0, 4.0), "a": (-30.0, 30.0)}
    QuantizeLayers(forms_of(model, {"Conv": INT8}), ranges, PAIRED).run(model)
    assert noise(expected["y"], run(model, feeds)["y"]) < 0.05


@pytest.mark.parametrize("channels", [8, 2])
def test_a_layer_that_was_left_in_float_keeps_its_weights(channels, parse, run, kernels):
    """Output channels of very different size: one scale for all would round the small ones away."""
    middle = floats(8, channels, 3, 3) * np.geomspace(1e-3, 1, 8).reshape(8, 1, 1, 1)
    model = parse(
        IMAGE + "(float[N,8,6,6] y) { a = Conv <pads = [1,1,1,1]> (x, w) c = Conv (a, u)"
        " y = Conv (c, v) }",
        w=floats(channels, 4, 3, 3, scale=0.2),
        u=middle.astype(np.float32),
        v=(np.diag(np.geomspace(1e3, 1, 8)).reshape(8, 8, 1, 1)).astype(np.float32),
    )
    feeds = feeds_of(model)
    ranges = ranges_of(model, feeds, run)
    quantized = model.clone()
    QuantizeLayers({"a": INT8, "y": INT8}, ranges, PAIRED).run(quantized)
    ran = kernels(quantized, feeds)
    assert ran.count("QLinearConv") == 2
    assert any(kernel in FLOAT_CONV for kernel in ran)
    found, reference = run(quantized, feeds)["y"], run(quantized, feeds, optimised=False)["y"]
    assert noise(reference, found) < 1e-3


def test_nothing_to_do_says_so(parse):
    model = parse(CASES["conv"].text, **CONV)
    before = to_text(model, weights=True)
    assert not QuantizeLayers({}, {}).run(model)
    assert not QuantizeLayers({"y": Form.FLOAT, "nobody": INT8}, {}).run(model)
    assert to_text(model, weights=True) == before


def test_float_weights_are_not_shipped_beside_integers(parse, run):
    model, _, forms, ranges = build(CASES["conv_chain"], parse, run)
    QuantizeLayers(forms, ranges, PAIRED).run(model)
    large = [v for v in model.graph.initializers.values() if v.const_value.size > 16]
    assert {v.dtype for v in large} == {ir.DataType.INT8}


def test_shared_weights_are_stored_once(parse, run):
    model, _, forms, ranges = build(CASES["shared_weights"], parse, run)
    QuantizeLayers(forms, ranges, PAIRED).run(model)
    assert sum(v.dtype is ir.DataType.INT8 and v.const_value.size > 16
               for v in model.graph.initializers.values()) == 1  # fmt: skip


@pytest.mark.parametrize("name", ["x", "c", "y"])
def test_round_value_disturbs_one_value_by_at_most_half_a_step(name, parse, run):
    model = parse(CASES["outputs_inside_a_chain"].text, **CASES["outputs_inside_a_chain"].tensors)
    feeds = feeds_of(model)
    expected = run(model, feeds)
    low, high = ranges_of(model, feeds, run)[name]
    assert round_value(model, name, low, high)
    found = run(model, feeds)
    assert list(found) == ["c", "y"]
    if name == "x":
        assert 0 < noise(expected["c"], found["c"]) < 0.05
    else:
        assert 0 < np.abs(found[name] - expected[name]).max() <= (high - low) / 255 * 0.51
    if name == "y":
        np.testing.assert_array_equal(found["c"], expected["c"])


def test_is_fused_tells_integer_kernels_from_float_ones():
    assert is_fused(["QuantizeLinear", "QLinearConv", "DequantizeLinear"], INT8)
    assert not is_fused(["DequantizeLinear", "Conv", "QuantizeLinear"], INT8)
    assert not is_fused(["QuantizeLinear", "DequantizeLinear", "Gemm"], OUT)
    assert is_fused(["MaxPool"], INT8)
    assert is_fused(["Conv"], Form.FLOAT)
