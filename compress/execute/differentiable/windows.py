"""Where the windows of convolutions and pooling lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from compress.execute.differentiable.registry import Attributes
from compress.graph.traversal import rank


@dataclasses.dataclass(frozen=True)
class Windows:
    """One entry per spatial axis; `before` and `after` are the padding in positions."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """How many positions a window spans."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def symmetric(self) -> bool:
        return self.before == self.after


def limits(attributes: Attributes, node: ir.Node) -> str | None:
    """Why windows cannot be laid as the node asks for, if so."""
    ndim = rank(node.inputs[0])
    if ndim is not None and not 3 <= ndim <= 5:
        return f"{ndim - 2} spatial dimensions"
    dilated = any(d != 1 for d in attributes.integers("dilations") or ())
    # the specification counts the dilation in, onnxruntime does not, or refuses
    automatic = attributes.text("auto_pad", "NOTSET").startswith("SAME")
    return "dilations with automatic padding" if dilated and automatic else None


def windows(attributes: Attributes, sizes: Sequence[int], kernel: Sequence[int]) -> Windows:
    """The windows that a node's attributes ask for on an input of these spatial sizes."""
    count = len(sizes)
    strides = attributes.integers("strides") or (1,) * count
    dilations = attributes.integers("dilations") or (1,) * count
    pads = attributes.integers("pads") or (0,) * (2 * count)
    before, after = pads[:count], pads[count:]
    auto = attributes.text("auto_pad", "NOTSET")
    if auto != "NOTSET":
        before = after = (0,) * count
    found = Windows(tuple(kernel), strides, dilations, before, after)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max(0, (-(-size // stride) - 1) * stride + reach - size)
            for size, stride, reach in zip(sizes, strides, found.reach, strict=True)
        ]
        small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        before, after = (small, large) if auto == "SAME_UPPER" else (large, small)
        found = dataclasses.replace(found, before=before, after=after)
    return found


def as_pad(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Padding per axis in torch's order: the last axis first, before and after side by side."""
    return [p for pair in reversed(list(zip(before, after, strict=True))) for p in pair]
