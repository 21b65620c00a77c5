"""Activations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.execute.differentiable.registry import Attributes, operator


@operator("Relu")
def relu(attributes: Attributes, x: Tensor) -> Tensor:
    return torch.relu(x)


@operator("Clip")
def clip(
    attributes: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None
) -> Tensor:
    if low is None and high is None:
        return x
    bounds = [_as_number(low), _as_number(high)]
    if any(isinstance(bound, Tensor) for bound in bounds):
        return torch.clamp(x, low, high)
    return torch.clamp(x, *bounds)


def _as_number(bound: Tensor | None) -> Tensor | float | None:
    """A bound that nobody trains as a number, with which torch is several times faster."""
    return bound if bound is None or bound.requires_grad else bound.item()


@operator("Sigmoid")
def sigmoid(attributes: Attributes, x: Tensor) -> Tensor:
    return torch.sigmoid(x)


@operator("HardSigmoid")
def hard_sigmoid(attributes: Attributes, x: Tensor) -> Tensor:
    slope, offset = attributes.number("alpha", 0.2), attributes.number("beta", 0.5)
    return torch.clamp(slope * x + offset, 0, 1)


@operator("HardSwish")
def hard_swish(attributes: Attributes, x: Tensor) -> Tensor:
    return F.hardswish(x)


@operator("Swish")
def swish(attributes: Attributes, x: Tensor) -> Tensor:
    return x * torch.sigmoid(attributes.number("alpha", 1.0) * x)


@operator("LeakyRelu")
def leaky_relu(attributes: Attributes, x: Tensor) -> Tensor:
    return F.leaky_relu(x, attributes.number("alpha", 0.01))


@operator("PRelu")
def parametric_relu(attributes: Attributes, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


@operator("ThresholdedRelu")
def thresholded_relu(attributes: Attributes, x: Tensor) -> Tensor:
    return F.threshold(x, attributes.number("alpha", 1.0), 0.0)


@operator("Elu")
def elu(attributes: Attributes, x: Tensor) -> Tensor:
    return F.elu(x, attributes.number("alpha", 1.0))


@operator("Selu")
def selu(attributes: Attributes, x: Tensor) -> Tensor:
    alpha = attributes.number("alpha", 1.67326319217681884765625)
    gamma = attributes.number("gamma", 1.05070102214813232421875)
    return gamma * F.elu(x, alpha)


@operator("Celu")
def celu(attributes: Attributes, x: Tensor) -> Tensor:
    return F.celu(x, attributes.number("alpha", 1.0))


@operator("Softplus")
def softplus(attributes: Attributes, x: Tensor) -> Tensor:
    return F.softplus(x)


@operator("Softsign")
def softsign(attributes: Attributes, x: Tensor) -> Tensor:
    return F.softsign(x)


@operator("Mish")
def mish(attributes: Attributes, x: Tensor) -> Tensor:
    return F.mish(x)


@operator("Shrink")
def shrink(attributes: Attributes, x: Tensor) -> Tensor:
    bias, threshold = attributes.number("bias", 0.0), attributes.number("lambd", 0.5)
    outside = torch.where(x > 0, x - bias, x + bias)
    return torch.where(x.abs() > threshold, outside, torch.zeros_like(x))


@operator("Gelu")
def gelu(attributes: Attributes, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=attributes.text("approximate", "none"))


@operator("Gelu", domain="com.microsoft")
def exact_gelu(attributes: Attributes, x: Tensor) -> Tensor:
    return F.gelu(x)


@operator("BiasGelu", domain="com.microsoft")
def bias_gelu(attributes: Attributes, x: Tensor, bias: Tensor) -> Tensor:
    return F.gelu(x + bias)


@operator("FastGelu", domain="com.microsoft")
def fast_gelu(attributes: Attributes, x: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("QuickGelu", domain="com.microsoft")
def quick_gelu(attributes: Attributes, x: Tensor) -> Tensor:
    return x * torch.sigmoid(attributes.number("alpha", 1.702) * x)


@operator("Softmax")
def softmax(attributes: Attributes, x: Tensor) -> Tensor:
    return torch.softmax(x, attributes.integer("axis", -1))


@operator("LogSoftmax")
def log_softmax(attributes: Attributes, x: Tensor) -> Tensor:
    return torch.log_softmax(x, attributes.integer("axis", -1))


@operator("Hardmax")
def hardmax(attributes: Attributes, x: Tensor) -> Tensor:
    axis = attributes.integer("axis", -1)
    first = x.argmax(axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, first, 1)


@operator("Dropout", outputs=2)
def dropout(
    attributes: Attributes, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Nothing in evaluation; the module's mode decides, not the graph's `training_mode`."""
    share = 0.5 if ratio is None else float(ratio)
    kept = torch.ones_like(x, dtype=torch.bool)
    if not attributes.mode.training or share == 0:
        return x, kept
    kept = torch.rand_like(x) >= share
    return torch.where(kept, x / (1 - share), torch.zeros_like(x)), kept
