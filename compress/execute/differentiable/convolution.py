"""Convolutions of one to three dimensions."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from compress.execute.differentiable.registry import Attributes, operator
from compress.execute.differentiable.windows import as_pad, limits, windows

CONVOLUTIONS: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@operator("Conv", refuse=limits)
def convolution(
    attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    place = windows(attributes, x.shape[2:], weight.shape[2:])
    padding = place.before
    if not place.symmetric or min(place.before) < 0:
        x, padding = F.pad(x, as_pad(place.before, place.after)), (0,) * len(padding)
    return CONVOLUTIONS[x.ndim - 2](
        x, weight, bias, place.strides, padding, place.dilations, attributes.integer("group", 1)
    )


@operator("ConvTranspose", refuse=limits)
def transposed_convolution(
    attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """All that the kernel reaches is computed, and cut to where the output lies."""
    count = x.ndim - 2
    place = windows(attributes, x.shape[2:], weight.shape[2:])
    extra = attributes.integers("output_padding") or (0,) * count
    before, after = place.before, place.after
    full = [
        (n - 1) * s + r for n, s, r in zip(x.shape[2:], place.strides, place.reach, strict=True)
    ]
    auto = attributes.text("auto_pad", "NOTSET")
    sizes = attributes.integers("output_shape")
    if sizes is None and auto.startswith("SAME"):
        sizes = tuple(n * s for n, s in zip(x.shape[2:], place.strides, strict=True))
    if sizes is not None:
        total = [f + e - n for f, e, n in zip(full, extra, sizes[-count:], strict=True)]
        small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        before, after = (small, large) if auto == "SAME_UPPER" else (large, small)
    groups = attributes.integer("group", 1)
    function = TRANSPOSED[count]
    if before == after and not any(extra) and min(before) >= 0:
        return function(x, weight, bias, place.strides, before, 0, groups, place.dilations)
    y = function(x, weight, None, place.strides, 0, 0, groups, place.dilations)
    # where the output reaches beyond the kernel there is the bias alone
    cut = [-b for b in before], [e - a for e, a in zip(extra, after, strict=True)]
    y = F.pad(y, as_pad(*cut))
    return y if bias is None else y + bias.reshape(-1, *(1,) * count)
