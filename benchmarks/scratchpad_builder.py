"""Graphs of operators from layer tables: shapes and counts only, no weights.

One element is one byte: activations of 8 bits. Weights take no scratchpad, as in COSMA
(arXiv 2311.18246); they are counted, so that a table can be checked against what is published.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from compress.passes.schedule.problem import Graph, Operator, Share, Tensor

Pair = int | tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor of a network that is being built.

    Attributes:
        index: among the tensors.
        shape: (channels, height, width) of one image, or (tokens, features).
    """

    index: int
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class Builder:
    """Operators in the order in which they are asked for.

    A convolution comes with its batch norm and activation, a linear layer with its bias and
    activation: none of these is an operator of its own. Sums and activations may write over an
    input of theirs, and what is concatenated may lie in the result (channels come first and the
    batch is 1, so that each part is one piece of it).

    Attributes:
        parameters: of all layers so far; two per channel of a batch norm.
        macs: multiplications of all convolutions and linear layers so far.
    """

    def __init__(self) -> None:
        self.parameters = 0
        self.macs = 0
        self._operators: list[Operator] = []
        self._tensors: list[Tensor] = []

    def input(self, *shape: int) -> Value:
        """What the network is given: off chip from the start."""
        self._tensors.append(Tensor("input", math.prod(shape), external=True))
        return Value(len(self._tensors) - 1, shape)

    def conv(
        self,
        x: Value,
        channels: int,
        kernel: Pair = 1,
        stride: int = 1,
        *,
        padding: Pair | None = None,
        groups: int = 1,
        norm: bool = True,
    ) -> Value:
        """A convolution without bias. Padding is half the kernel where none is given."""
        high, wide = _pair(kernel)
        result = self._windowed("conv", x, channels, kernel, stride, padding)
        weights = channels * (x.channels // groups) * high * wide
        self.parameters += weights + (2 * channels if norm else 0)
        self.macs += weights * result.shape[1] * result.shape[2]
        return result

    def depthwise(self, x: Value, kernel: int, stride: int = 1, *, norm: bool = True) -> Value:
        """A convolution per channel. An activation before it is applied as it reads."""
        return self.conv(x, x.channels, kernel, stride, groups=x.channels, norm=norm)

    def pool(self, x: Value, kernel: int, stride: int, *, padding: Pair | None = None) -> Value:
        return self._windowed("pool", x, x.channels, kernel, stride, padding)

    def global_pool(self, x: Value) -> Value:
        return self._add("mean", (x,), (x.channels, 1, 1))

    def activation(self, x: Value, *, norm: bool = False) -> Value:
        """An elementwise operator: a batch norm and activation that nothing before can take in."""
        self.parameters += 2 * x.channels if norm else 0
        return self._add("activation", (x,), x.shape, shares=True)

    def add(self, *parts: Value) -> Value:
        return self._add("add", parts, parts[0].shape, shares=True)

    def concat(self, *parts: Value) -> Value:
        """Channels of all parts, one behind the other."""
        shape = (sum(part.channels for part in parts), *parts[0].shape[1:])
        offsets, offset = [], 0
        for part in parts:
            offsets.append(offset)
            offset += part.size
        return self._add("concat", parts, shape, shares=True, offsets=tuple(offsets))

    def gather(self, parts: Sequence[Value], shape: tuple[int, int]) -> Value:
        """A concatenation of features: those of one token lie apart in the parts, so it copies."""
        return self._add("gather", tuple(parts), shape)

    def linear(self, x: Value, features: int) -> Value:
        """A linear layer with bias on the last axis of tokens, or on all channels of 1x1."""
        tokens, inside = (1, x.size) if len(x.shape) == 3 else x.shape
        self.parameters += inside * features + features
        self.macs += tokens * inside * features
        return self._add("linear", (x,), (tokens, features))

    def layer_norm(self, x: Value) -> Value:
        self.parameters += 2 * x.shape[1]
        return self._add("layer norm", (x,), x.shape)

    def softmax(self, x: Value) -> Value:
        """Row by row, in place where possible."""
        return self._add("softmax", (x,), x.shape, shares=True)

    def matmul(self, a: Value, b: Value, shape: tuple[int, int]) -> Value:
        """A product of two activations, either of which may be read transposed."""
        return self._add("matmul", (a, b), shape)

    def graph(self, *results: Value) -> Graph:
        """What was built; `results` have to be off chip in the end."""
        tensors = list(self._tensors)
        for result in results:
            tensors[result.index] = dataclasses.replace(tensors[result.index], kept=True)
        return Graph(tuple(self._operators), tuple(tensors))

    def _windowed(
        self,
        kind: str,
        x: Value,
        channels: int,
        kernel: Pair,
        stride: int,
        padding: Pair | None,
    ) -> Value:
        high, wide = _pair(kernel)
        above, left = (high // 2, wide // 2) if padding is None else _pair(padding)
        height = (x.shape[1] + 2 * above - high) // stride + 1
        width = (x.shape[2] + 2 * left - wide) // stride + 1
        return self._add(kind, (x,), (channels, height, width))

    def _add(
        self,
        kind: str,
        parts: tuple[Value, ...],
        shape: tuple[int, ...],
        *,
        shares: bool = False,
        offsets: tuple[int, ...] = (),
    ) -> Value:
        result = Value(len(self._tensors), shape)
        name = f"{kind} {len(self._operators)}"
        self._tensors.append(Tensor(f"output of {name}", result.size))
        inside: tuple[Share, ...] = ()
        if shares:
            places = offsets or (0,) * len(parts)
            inside = tuple(
                Share(part.index, result.index, offset)
                for part, offset in zip(parts, places, strict=True)
            )
        inputs = tuple(part.index for part in parts)
        self._operators.append(Operator(name, inputs, (result.index,), shares=inside))
        return result


def _pair(value: Pair) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)
