"""Small torch modules that the tests of several formats share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Classifier(nn.Module):
    """image (n, 3, h, w) -> {'logits': (n, 5), 'features': (n, 8)}."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)
        self.register_buffer("scale", torch.tensor([2.0]))

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        features = torch.relu(self.bn(self.conv(image))).mean((2, 3))
        return {"logits": self.fc(features) * self.scale, "features": features}


class Encoder(nn.Module):
    """input_ids (n, length) int64 -> (n, length, 16); weights that ONNX needs transposed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(50, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 16, bias=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embed(input_ids)))


class Gated(nn.Module):
    """x (n, 4) -> (n, 4), doubled where a sum over the data says so."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, factor: float = 2.0) -> torch.Tensor:
        y = self.fc(x)
        if y.sum() > 0:
            y = y * factor
        return y


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, left: torch.Tensor, right: torch.Tensor, bias: Any = None) -> Any:
        total = self.fc(left) + right
        if bias is not None:
            total = total + bias
        return total, [left - right]


def image_batch(n: int = 2, height: int = 8, width: int = 8) -> torch.Tensor:
    return torch.rand((n, 3, height, width), generator=torch.Generator().manual_seed(1))


def save_pt2(
    path: Any, module: nn.Module | None = None, *inputs: Any, dynamic: bool = False
) -> Any:
    """Export `module` (default: the classifier) to `path`; returns the exported program."""
    module = (module or Classifier()).eval()
    shapes: Any = None
    if dynamic:
        size = torch.export.Dim("half", min=2, max=64)
        shapes = {"image": {0: torch.export.Dim("batch"), 2: 2 * size}}
    program = torch.export.export(module, inputs or (image_batch(),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return program
