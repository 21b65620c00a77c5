"""Batch normalisation is trained unfolded and folded afterwards."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest

from compress.errors import ModelError, UsageError
from compress.execute.session import Runner
from compress.graph.fold_batch_norm import FoldBatchNorm
from compress.graph.infer_shapes import InferShapes

torch = pytest.importorskip("torch")

from compress.execute.differentiable import TorchModel, unsupported  # noqa: E402

RNG = np.random.default_rng(11)
TEXT = (
    '<ir_version: 10, opset_import: ["" : 21]> g (float[N,3,8,8] x) => (float[N,5] y) {'
    " a = Conv <pads = [1,1,1,1]> (x, w1, c1)"
    " b = BatchNormalization <momentum = 0.8, epsilon = 0.001> (a, s1, b1, m1, v1)"
    " c = Relu (b) d = Conv <strides = [2,2]> (c, w2)"
    " e = BatchNormalization (d, s2, b2, m2, v2) f = Relu (e)"
    " g1 = GlobalAveragePool (f) g2 = Flatten (g1)"
    " y = Gemm <transB = 1> (g2, head) }"
)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def network() -> ir.Model:
    proto = onnx.parser.parse_model(TEXT)
    weights = {"w1": floats(4, 3, 3, 3), "c1": floats(4), "w2": floats(6, 4, 3, 3),
               "head": floats(5, 6)}  # fmt: skip
    for index, channels in ((1, 4), (2, 6)):
        weights[f"s{index}"] = 1 + floats(channels) / 4
        weights[f"b{index}"] = floats(channels)
        weights[f"m{index}"] = floats(channels)
        weights[f"v{index}"] = 1 + floats(channels) ** 2
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(proto)
    InferShapes().run(model)
    return model


def trained(model: ir.Model) -> TorchModel:
    module = TorchModel(model)
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.05)
    module.train()
    for _ in range(5):
        x = torch.from_numpy(floats(16, 3, 8, 8))
        optimizer.zero_grad()
        module({"x": x})["y"].square().mean().backward()
        optimizer.step()
    return module.eval()


def test_evaluation_uses_the_statistics_in_the_file():
    model, x = network(), floats(3, 3, 8, 8)
    expected = Runner(model)({"x": x})["y"]
    found = TorchModel(model)({"x": torch.from_numpy(x)})["y"].detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_training_does_what_torch_does():
    """Batch statistics, gradients, running statistics: as torch's own layers."""
    model = network()
    weights = {n: torch.from_numpy(v.const_value.numpy().copy())
               for n, v in model.graph.initializers.items()}  # fmt: skip
    norms = []
    for index, channels, momentum, epsilon in ((1, 4, 0.2, 1e-3), (2, 6, 0.1, 1e-5)):
        norm = torch.nn.BatchNorm2d(channels, eps=epsilon, momentum=momentum)
        norm.load_state_dict({
            "weight": weights[f"s{index}"], "bias": weights[f"b{index}"],
            "running_mean": weights[f"m{index}"], "running_var": weights[f"v{index}"],
            "num_batches_tracked": torch.tensor(0)})  # fmt: skip
        norms.append(norm)
    conv = torch.nn.functional.conv2d

    module = TorchModel(model).train()
    for _ in range(2):
        x = torch.from_numpy(floats(4, 3, 8, 8))
        hidden = torch.relu(norms[0](conv(x, weights["w1"], weights["c1"], padding=1)))
        hidden = torch.relu(norms[1](conv(hidden, weights["w2"], stride=2))).mean((2, 3))
        found, expected = module({"x": x})["y"], hidden @ weights["head"].T
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(module.parameter("s1").grad, norms[0].weight.grad,
                               rtol=1e-3, atol=1e-3)  # fmt: skip
    module.write_back(model)
    for index, norm in ((1, norms[0]), (2, norms[1])):
        for name, expected in ((f"m{index}", norm.running_mean), (f"v{index}", norm.running_var)):
            found = model.graph.initializers[name].const_value.numpy()
            np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_what_was_trained_can_be_folded():
    model, x = network(), floats(3, 3, 8, 8)
    before = Runner(model)({"x": x})["y"]
    module = trained(model)
    module.write_back(model)
    expected = module({"x": torch.from_numpy(x)})["y"].detach().numpy()
    assert np.abs(expected - before).max() > 0.01 * np.abs(before).max()
    np.testing.assert_allclose(Runner(model)({"x": x})["y"], expected, rtol=1e-4, atol=1e-5)
    assert FoldBatchNorm().run(model)
    assert "BatchNormalization" not in {node.op_type for node in model.graph}
    folded = Runner(model)({"x": x})["y"]
    np.testing.assert_allclose(folded, expected, rtol=1e-4, atol=1e-5)


def test_evaluation_changes_no_statistics():
    model = network()
    module = TorchModel(model)
    module({"x": torch.from_numpy(floats(4, 3, 8, 8))})
    old = {name: model.graph.initializers[name].const_value.numpy() for name in ("m1", "v2")}
    module.write_back(model)
    for name, array in old.items():
        np.testing.assert_array_equal(model.graph.initializers[name].const_value.numpy(), array)


def test_statistics_are_no_parameters():
    model = network()
    module = TorchModel(model)
    with pytest.raises(KeyError):
        module.parameter("m1")
    with pytest.raises(UsageError, match="'v2'"):
        TorchModel(model, trainable=["w2", "v2"])


def test_training_in_double_precision():
    module = TorchModel(network()).double().train()
    y = module({"x": torch.from_numpy(floats(4, 3, 8, 8)).double()})["y"]
    assert y.dtype == torch.float64


@pytest.mark.parametrize(
    "node",
    [
        "y = BatchNormalization <training_mode = 1> (x, s, b, m, v)",
        "y = BatchNormalization (x, s, b, mean, v)",
    ],
)
def test_statistics_that_are_not_kept_are_refused(node):
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]>'
        f" g (float[N,3,8,8] x, float[3] mean) => (float[N,3,8,8] y) {{ {node} }}"
    )
    for name in "sbmv":
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(3, np.float32), name))
    model = ir.from_proto(proto)
    assert [refused.op_type for refused in unsupported(model)] == ["BatchNormalization"]
    with pytest.raises(ModelError, match="BatchNormalization node 'y'"):
        TorchModel(model)
