"""Saturation of integer kernels, found out by trying."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from compress.errors import DeviceError
from compress.execute import arithmetic
from compress.execute.arithmetic import adds_pairs_in_16_bits
from compress.graph.layers import find_layers
from compress.passes.quantize.forms import Form
from compress.passes.quantize.qdq import QuantizeLayers


def test_what_is_found_is_what_the_runtime_does():
    text = """<ir_version: 10, opset_import: ["" : 21]> g (uint8[1,8] x, int8[8,1] w) =>
        (int32[1,1] y) { y = MatMulInteger (x, w) }"""
    session = onnxruntime.InferenceSession(onnx.parser.parse_model(text).SerializeToString())
    feeds = {"x": np.full((1, 8), 255, np.uint8), "w": np.full((8, 1), 127, np.int8)}
    exact = session.run(None, feeds)[0].item() == 8 * 255 * 127
    assert adds_pairs_in_16_bits() is not exact


def test_a_runtime_without_integer_kernels_needs_no_care(monkeypatch):
    class Refuses:
        def __init__(self, *_: object) -> None:
            raise DeviceError("no kernel")

    monkeypatch.setattr(arithmetic, "Runner", Refuses)
    assert adds_pairs_in_16_bits.__wrapped__() is False


@pytest.mark.parametrize(
    ("shape", "group"),
    [((16, 16, 1, 1), 1), ((8, 3, 3, 3), 1), ((8, 4, 3, 3), 4), ((16, 1, 3, 3), 16), ((8, 5, 3), 1),
     ((6, 7, 5, 5), 1)],
)  # fmt: skip
def test_the_largest_weights_and_activations_are_added_exactly(shape, group):
    """Inputs at 255 and 0, weights near their ends: what saturates, if anything does."""
    generator = np.random.default_rng(3)
    w = generator.choice([1.0, 0.98, -1.0, 0.3], shape, p=[0.5, 0.3, 0.1, 0.1]).astype(np.float32)
    channels, spatial = shape[1] * group, len(shape) - 2
    size = ",".join(["9"] * spatial)
    left = ",".join(str(10 - k) for k in shape[2:])
    text = f"""<ir_version: 10, opset_import: ["" : 21]> g (float[1,{channels},{size}] x) =>
        (float[1,{shape[0]},{left}] y) {{ y = Conv <group = {group}> (x, w) }}"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    model = ir.from_proto(proto)
    feeds = {"x": generator.choice([0.0, 1.0], (1, channels, *[9] * spatial), p=[0.2, 0.8])}
    feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
    largest = float(np.abs(w).sum(axis=tuple(range(1, w.ndim))).max())
    layer = find_layers(model)[0]
    ranges = {"x": (0.0, 1.0), "y": (-largest, largest)}
    QuantizeLayers({layer.name: Form.INT8}, ranges, adds_pairs_in_16_bits()).run(model)
    outputs = []
    for level in (
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    ):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        content = ir.to_proto(model).SerializeToString()
        outputs.append(onnxruntime.InferenceSession(content, options).run(None, feeds)[0])
    step = 2 * largest / 255
    assert np.abs(outputs[0] - outputs[1]).max() <= 1.01 * step
