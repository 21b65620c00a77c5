"""Networks for depth merging and pruning, as plain torch modules.

`mobilenet_v2` and `resnet34` have the published ImageNet layouts and random weights: enough to
check algebra and to time. `mobilenet_fmnist`, `vgg_fmnist` and `resnet_fmnist` are small enough to
train on two CPU cores in minutes; they take images of 28x28 in [0, 1].

This module needs torch; import it only where a network is built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

INPUT_NAME, OUTPUT_NAME = "image", "logits"
CLASSES = 10
FMNIST_SHAPE = (1, 28, 28)
IMAGENET_SHAPE = (3, 224, 224)


class Stage(NamedTuple):
    """A run of blocks of one width; only the first of them has the stride."""

    channels: int
    blocks: int
    stride: int
    expand: int = 6


# (channels, blocks, stride, expand) from Table 2 of "MobileNetV2: Inverted Residuals and Linear
# Bottlenecks" (CVPR 2018).
MOBILENET_V2_STAGES = (
    Stage(16, 1, 1, expand=1),
    Stage(24, 2, 2),
    Stage(32, 3, 2),
    Stage(64, 4, 2),
    Stage(96, 3, 1),
    Stage(160, 3, 2),
    Stage(320, 1, 1),
)
# Thirteen blocks, ten of them residual, in runs of one width. Most of the work is at 14x14 and 7x7:
# at 28x28 training would spend its time on the memory traffic of the expanded images.
MOBILENET_FMNIST_STAGES = (Stage(16, 2, 2), Stage(48, 6, 1), Stage(128, 5, 2))
# Table 1 of "Deep Residual Learning for Image Recognition" (CVPR 2016), the 34-layer column.
RESNET34_STAGES = (Stage(64, 3, 1), Stage(128, 4, 2), Stage(256, 6, 2), Stage(512, 3, 2))
RESNET_FMNIST_STAGES = (Stage(16, 3, 1), Stage(32, 4, 2), Stage(96, 3, 2))
# Every stage ends with a max-pooling that halves the resolution.
VGG_FMNIST_STAGES = (Stage(32, 3, 1), Stage(64, 3, 1), Stage(128, 3, 1))


def conv_norm(
    channels_in: int,
    channels_out: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    activation: Callable[[], nn.Module] | None = None,
) -> nn.Sequential:
    """Convolution without bias, padded by half its kernel, batch norm and the activation if any."""
    layers: list[nn.Module] = [
        nn.Conv2d(
            channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(channels_out),
    ]
    if activation is not None:
        layers.append(activation())
    return nn.Sequential(*layers)


class InvertedResidual(nn.Module):  # type: ignore[misc]
    """1x1 expansion, depthwise 3x3, linear 1x1 projection; a skip where the shape is kept."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = channels_in * expand
        layers: list[nn.Module] = []
        if expand != 1:
            layers.append(conv_norm(channels_in, hidden, 1, activation=nn.ReLU6))
        layers.append(conv_norm(hidden, hidden, 3, stride, groups=hidden, activation=nn.ReLU6))
        layers.append(conv_norm(hidden, channels_out, 1))
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.residual else y


class BasicBlock(nn.Module):  # type: ignore[misc]
    """Two 3x3 convolutions and a skip, which is a 1x1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv_norm(channels_in, channels_out, 3, stride, activation=nn.ReLU)
        self.conv2 = conv_norm(channels_out, channels_out)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.skip = conv_norm(channels_in, channels_out, 1, stride)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.conv2(self.conv1(x)) + self.skip(x))
        return y


class Head(nn.Module):  # type: ignore[misc]
    """Mean over the image and a linear classifier: (batch, channels, h, w) -> (batch, classes)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.flatten(self.pool(x)))
        return logits


def inverted_residuals(channels_in: int, stages: Sequence[Stage]) -> list[nn.Module]:
    """The blocks of a MobileNetV2, in order."""
    blocks: list[nn.Module] = []
    for stage in stages:
        for index in range(stage.blocks):
            stride = stage.stride if index == 0 else 1
            blocks.append(InvertedResidual(channels_in, stage.channels, stride, stage.expand))
            channels_in = stage.channels
    return blocks


def basic_blocks(channels_in: int, stages: Sequence[Stage]) -> list[nn.Module]:
    """The blocks of a ResNet without bottlenecks, in order."""
    blocks: list[nn.Module] = []
    for stage in stages:
        for index in range(stage.blocks):
            blocks.append(
                BasicBlock(channels_in, stage.channels, stage.stride if index == 0 else 1)
            )
            channels_in = stage.channels
    return blocks


def mobilenet_v2(seed: int) -> nn.Module:
    """MobileNetV2-1.0 for (batch, 3, 224, 224) -> (batch, 1000), random weights and statistics."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        conv_norm(3, 32, 3, 2, activation=nn.ReLU6),
        *inverted_residuals(32, MOBILENET_V2_STAGES),
        conv_norm(320, 1280, 1, activation=nn.ReLU6),
        Head(1280, 1000),
    )
    return randomize(network, seed)


def resnet34(seed: int) -> nn.Module:
    """ResNet-34 for (batch, 3, 224, 224) -> (batch, 1000), random weights and statistics."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        conv_norm(3, 64, 7, 2, activation=nn.ReLU),
        nn.MaxPool2d(3, 2, 1),
        *basic_blocks(64, RESNET34_STAGES),
        Head(512, 1000),
    )
    return randomize(network, seed)


def mobilenet_fmnist() -> nn.Module:
    """Inverted residuals for (batch, 1, 28, 28) -> (batch, 10), untrained."""
    stages = MOBILENET_FMNIST_STAGES
    return nn.Sequential(
        conv_norm(1, stages[0].channels, activation=nn.ReLU6),
        *inverted_residuals(stages[0].channels, stages),
        conv_norm(stages[-1].channels, 4 * stages[-1].channels, 1, activation=nn.ReLU6),
        Head(4 * stages[-1].channels, CLASSES),
    )


def vgg_fmnist() -> nn.Module:
    """Plain 3x3 convolutions with pooling for (batch, 1, 28, 28) -> (batch, 10), untrained."""
    layers: list[nn.Module] = []
    channels = 1
    for stage in VGG_FMNIST_STAGES:
        for _ in range(stage.blocks):
            layers.append(conv_norm(channels, stage.channels, activation=nn.ReLU))
            channels = stage.channels
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, Head(channels, CLASSES))


def resnet_fmnist() -> nn.Module:
    """Basic residual blocks for (batch, 1, 28, 28) -> (batch, 10), untrained."""
    stages = RESNET_FMNIST_STAGES
    return nn.Sequential(
        conv_norm(1, stages[0].channels, activation=nn.ReLU),
        *basic_blocks(stages[0].channels, stages),
        Head(stages[-1].channels, CLASSES),
    )


FMNIST_NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mobilenet_fmnist": mobilenet_fmnist,
    "vgg_fmnist": vgg_fmnist,
    "resnet_fmnist": resnet_fmnist,
}


def randomize(network: nn.Module, seed: int) -> nn.Module:
    """Draws all convolutions and all of every batch norm, and puts the network in eval mode.

    Fresh batch norms are the identity, which hides mistakes in folding; torch's fresh convolutions
    shrink their input, so that the logits of a deep network hardly depend on the image, which
    hides every mistake. Convolutions are drawn to keep the variance through a ReLU ("Delving Deep
    into Rectifiers", ICCV 2015). Changes and returns `network`.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.2, generator=generator)
    return network.eval()


def macs(network: nn.Module, shape: Sequence[int]) -> int:
    """Multiply-accumulates of the convolutions and linear layers for one image of `shape`."""
    total = 0

    def count(module: Any, _: object, output: Tensor) -> None:
        nonlocal total
        # Every output element is one product with one filter or row of the weights.
        total += output.numel() * module.weight[0].numel()

    handles = [
        module.register_forward_hook(count)
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    was_training = network.training
    with torch.no_grad():
        network.eval()(torch.zeros(1, *shape))
    network.train(was_training)
    for handle in handles:
        handle.remove()
    return total


def export_onnx(network: nn.Module, path: Path, shape: Sequence[int] = FMNIST_SHAPE) -> None:
    """Writes the network in evaluation mode as one ONNX file with its batch norms folded.

    `image`: ("batch", *shape) float32 -> `logits`: ("batch", classes) float32.
    """
    # Two images: the exporter would take a batch of one for a constant.
    example = torch.zeros(2, *shape)
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network.eval(), (example,), dynamic_shapes=dynamic)
    # Traces would put the folders of the machine that exports into the file.
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    converted: Any = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        input_names=[INPUT_NAME],
        output_names=[OUTPUT_NAME],
    )
    for value in (*converted.model.graph.inputs, *converted.model.graph.outputs):
        value.shape[0] = "batch"
    converted.save(path, external_data=False)
