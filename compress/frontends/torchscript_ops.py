"""Operators that only TorchScript files contain, in terms of those that have an ONNX form.

torch records them when it traces convolutions, and attention in evaluation mode (its fused path).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Operator -> Python function of the same arguments, for `run_decompositions`."""
    import torch

    aten = torch.ops.aten
    return {
        aten._convolution.default: _convolution,
        aten._native_multi_head_attention.default: _attention,
        aten._transformer_encoder_layer_fwd.default: _encoder_layer,
    }


def _convolution(
    image: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    *_backend_flags: bool,
) -> Any:
    import torch

    return torch.ops.aten.convolution.default(
        image, weight, bias, stride, padding, dilation, transposed, output_padding, groups
    )


def _attention(
    query: Any,
    key: Any,
    value: Any,
    embed_dim: int,
    num_heads: int,
    qkv_weight: Any,
    qkv_bias: Any,
    proj_weight: Any,
    proj_bias: Any,
    mask: Any = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
) -> tuple[Any, Any]:
    """Attention of (batch, length, embed_dim) tensors; (output, weights or an empty tensor)."""
    import torch
    from torch.nn.functional import linear

    def heads(tensor: Any, part: int) -> Any:
        rows = slice(part * embed_dim, (part + 1) * embed_dim)
        projected = linear(tensor, qkv_weight[rows], qkv_bias[rows])
        return projected.unflatten(-1, (num_heads, -1)).transpose(1, 2)

    q, k, v = (heads(tensor, part) for part, tensor in enumerate((query, key, value)))
    scores = (q / math.sqrt(embed_dim // num_heads)) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(_spread(mask, mask_type), float("-inf"))
    weights = scores.softmax(-1)
    output = linear((weights @ v).transpose(1, 2).flatten(2), proj_weight, proj_bias)
    if not need_weights:
        return output, torch.empty(0)
    return output, weights.mean(1) if average_attn_weights else weights


def _encoder_layer(
    src: Any,
    embed_dim: int,
    num_heads: int,
    qkv_weight: Any,
    qkv_bias: Any,
    proj_weight: Any,
    proj_bias: Any,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    norm_weight_1: Any,
    norm_bias_1: Any,
    norm_weight_2: Any,
    norm_bias_2: Any,
    ffn_weight_1: Any,
    ffn_bias_1: Any,
    ffn_weight_2: Any,
    ffn_bias_2: Any,
    mask: Any = None,
    mask_type: int | None = None,
) -> Any:
    """torch.nn.TransformerEncoderLayer in evaluation mode; src: (batch, length, embed_dim)."""
    from torch.nn.functional import gelu, layer_norm, linear, relu

    def first_norm(x: Any) -> Any:
        return layer_norm(x, (embed_dim,), norm_weight_1, norm_bias_1, eps)

    def second_norm(x: Any) -> Any:
        return layer_norm(x, (embed_dim,), norm_weight_2, norm_bias_2, eps)

    def attend(x: Any) -> Any:
        projections = (qkv_weight, qkv_bias, proj_weight, proj_bias)
        return _attention(
            x, x, x, embed_dim, num_heads, *projections, mask, False, True, mask_type
        )[0]

    def feed_forward(x: Any) -> Any:
        hidden = linear(x, ffn_weight_1, ffn_bias_1)
        return linear(gelu(hidden) if use_gelu else relu(hidden), ffn_weight_2, ffn_bias_2)

    if norm_first:
        src = src + attend(first_norm(src))
        return src + feed_forward(second_norm(src))
    src = first_norm(src + attend(src))
    return second_norm(src + feed_forward(src))


def _spread(mask: Any, mask_type: int | None) -> Any:
    """A boolean mask (true: do not attend) that broadcasts to (batch, heads, length, length)."""
    if mask_type == 0 and mask.dim() == 2:
        return mask.bool()[None, None]
    if mask_type == 1 and mask.dim() == 2:
        return mask.bool()[:, None, None, :]
    if mask.dim() == 4:
        return mask.bool()
    raise NotImplementedError(f"attention mask of type {mask_type}")
