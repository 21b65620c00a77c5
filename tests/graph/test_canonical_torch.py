"""What torch exports becomes small: batch norms folded, shape arithmetic gone, batch dynamic."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from compress.graph.canonical import canonicalize
from compress.graph.printer import to_text

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from torch import nn  # noqa: E402


class Residual(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, x):
        y = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(y)) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(Residual(8, 8, 1), Residual(8, 16, 2))
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.drop(self.body(self.stem(x)).mean((2, 3))))


class Attention(nn.Module):
    """One layer with its shapes spelled out as views, as in many models."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(50, 32)
        self.project = nn.Linear(32, 96)
        self.out = nn.Linear(32, 32)
        self.norm = nn.LayerNorm(32)

    def forward(self, ids, mask):
        hidden = self.words(ids)
        batch, length, width = hidden.shape
        parts = self.project(hidden).view(batch, length, 3, 4, 8).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        bias = (1.0 - mask[:, None, None, :].to(hidden.dtype)) * -1e9
        weights = torch.softmax(query @ key.transpose(-1, -2) / 8**0.5 + bias, -1)
        mixed = (weights @ value).transpose(1, 2).reshape(batch, length, width)
        return self.norm(hidden + self.out(mixed))


def exported(module, arguments, shapes):
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    with torch.no_grad():
        program = torch.onnx.export(
            module.eval(), arguments, dynamic_shapes=shapes, dynamo=True, verbose=False,
            optimize=False,
        )  # fmt: skip
    return ir.from_proto(program.model_proto)


@pytest.mark.filterwarnings("ignore")
def test_resnet(assert_same):
    torch.manual_seed(0)
    batch = torch.export.Dim("batch", min=1, max=64)
    model = exported(ResNet(), (torch.randn(2, 3, 16, 16),), ({0: batch},))
    result = canonicalize(model)
    counts = {op: to_text(result).count(f" {op}(") for op in ("BatchNormalization", "Conv")}
    assert counts == {"BatchNormalization": 0, "Conv": 7}
    assert len(result.graph) == 16
    assert str(result.graph.outputs[0].shape) == "[batch,10]"
    [x] = [v.name for v in result.graph.inputs]
    image = np.random.default_rng(0).standard_normal((5, 3, 16, 16)).astype(np.float32)
    assert_same(model, result, {x: image})
    assert to_text(canonicalize(result), weights=True) == to_text(result, weights=True)


@pytest.mark.filterwarnings("ignore")
def test_transformer_layer(assert_same):
    torch.manual_seed(0)
    axes = {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("length", max=60)}
    arguments = (torch.randint(0, 50, (2, 9)), torch.ones(2, 9, dtype=torch.long))
    model = exported(Attention(), arguments, (axes, axes))
    result = canonicalize(model)
    kinds = {n.op_type for n in result.graph}
    assert not kinds & {"Shape", "Concat", "Expand", "Identity", "Constant"}
    assert all(
        isinstance(d, int) or d.value in ("batch", "length")
        for n in result.graph for v in n.outputs for d in v.shape
    )  # fmt: skip
    rng = np.random.default_rng(0)
    mask = np.ones((3, 12), np.int64)
    mask[1, 7:] = 0
    assert_same(model, result, {"ids": rng.integers(0, 50, (3, 12)), "mask": mask})
    assert to_text(canonicalize(result), weights=True) == to_text(result, weights=True)
