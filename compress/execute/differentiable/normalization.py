"""Normalisation over batches, channels and features."""

from __future__ import annotations

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

from compress.execute.differentiable.registry import Attributes, operator
from compress.graph.traversal import is_constant


def _statistics_not_kept(attributes: Attributes, node: ir.Node) -> str | None:
    if attributes.integer("training_mode", 0):
        return "training_mode = 1"
    kept = all(is_constant(value) for value in node.inputs[3:5])
    return None if kept else "its statistics are not initialisers"


@operator("BatchNormalization", refuse=_statistics_not_kept)
def batch_normalization(
    attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    """In training by the batch's statistics; `mean` and `variance` then follow, in place.

    As in torch, and unlike in ONNX's training mode, the running variance is the unbiased one.
    """
    return F.batch_norm(
        x,
        mean,
        variance,
        scale,
        bias,
        training=attributes.mode.training,
        momentum=1.0 - attributes.number("momentum", 0.9),
        eps=attributes.number("epsilon", 1e-5),
    )


@operator("LayerNormalization", outputs=3)
def layer_normalization(
    attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor | tuple[Tensor, ...]:
    axis = attributes.integer("axis", -1) % x.ndim
    shape, epsilon = x.shape[axis:], attributes.number("epsilon", 1e-5)
    if scale.shape == shape and (bias is None or bias.shape == shape):
        y = F.layer_norm(x, shape, scale, bias, epsilon)
    else:
        y = F.layer_norm(x, shape, eps=epsilon) * scale
        y = y if bias is None else y + bias
    if attributes.outputs == 1:
        return y
    axes = tuple(range(axis, x.ndim))
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return y, mean, torch.rsqrt(variance + epsilon)


@operator("RMSNormalization")
def rms_normalization(attributes: Attributes, x: Tensor, scale: Tensor) -> Tensor:
    axes = tuple(range(attributes.integer("axis", -1) % x.ndim, x.ndim))
    mean = x.square().mean(axes, keepdim=True)
    return x * torch.rsqrt(mean + attributes.number("epsilon", 1e-5)) * scale


@operator("InstanceNormalization")
def instance_normalization(
    attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor
) -> Tensor:
    return F.group_norm(x, x.shape[1], scale, bias, attributes.number("epsilon", 1e-5))


@operator("GroupNormalization")
def group_normalization(attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Scale and bias are per channel since opset 21, and were per group before."""
    groups, channels = attributes.integer("num_groups", 1), x.shape[1]
    if scale.numel() != channels:
        scale = scale.repeat_interleave(channels // groups)
        bias = bias.repeat_interleave(channels // groups)
    return F.group_norm(x, groups, scale, bias, attributes.number("epsilon", 1e-5))


@operator("LpNormalization")
def lp_normalization(attributes: Attributes, x: Tensor) -> Tensor:
    """Zeros stay zeros."""
    axis, p = attributes.integer("axis", -1), attributes.integer("p", 2)
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)


@operator("MeanVarianceNormalization")
def mean_variance_normalization(attributes: Attributes, x: Tensor) -> Tensor:
    axes = attributes.integers("axes") or (0, 2, 3)
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    # the specification's function adds this to the deviation, not to the variance
    return (x - mean) / (torch.sqrt(variance) + 1e-9)


@operator("LRN")
def local_response_normalization(attributes: Attributes, x: Tensor) -> Tensor:
    size = attributes.integer("size", 1)
    flat = x.square().reshape(x.shape[0], 1, x.shape[1], -1)
    flat = F.pad(flat, (0, 0, (size - 1) // 2, size // 2))
    mean = F.avg_pool2d(flat, (size, 1), 1).reshape(x.shape)
    base = attributes.number("bias", 1.0) + attributes.number("alpha", 1e-4) * mean
    return x / base ** attributes.number("beta", 0.75)
