"""Random small networks for pruning: convolutions of all kinds, sums, concatenations, heads."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

ACTIVATIONS = ("Relu", "HardSwish", "Tanh", "LeakyRelu")
"""All map zero to zero."""

KINDS = "conv", "residual", "inverted", "concat", "grouped", "gate", "pool", "split", "slice"


class Network:
    """Text and initialisers of a network that is put together step by step."""

    def __init__(self, draw, seed):
        self.draw = draw
        self.rng = np.random.default_rng(seed)
        self.lines: list[str] = []
        self.tensors: dict[str, np.ndarray] = {}
        self.count = 0

    def floats(self, *shape):
        scale = np.sqrt(2.0 / max(1, int(np.prod(shape[1:]))))
        return (self.rng.standard_normal(shape) * scale).astype(np.float32)

    def emit(self, text):
        self.count += 1
        name = f"v{self.count}"
        self.lines.append(f"{name} = {text}")
        return name

    def weight(self, array, kind="w"):
        name = f"{kind}{len(self.tensors)}"
        self.tensors[name] = array
        return name

    def conv(self, x, inputs, outputs, kernel=1, group=1):
        weight = self.weight(self.floats(outputs, inputs // group, kernel, kernel))
        bias = self.weight(self.rng.standard_normal(outputs).astype(np.float32) * 0.1, "b")
        pad = kernel // 2
        return self.emit(
            f"Conv <pads = [{pad},{pad},{pad},{pad}], group = {group}> ({x}, {weight}, {bias})"
        )

    def activation(self, x):
        return self.emit(f"{self.draw(st.sampled_from(ACTIVATIONS))} ({x})")

    def block(self, x, channels):
        """(value, channels) behind one more block of a random kind."""
        kind = self.draw(st.sampled_from(KINDS))
        wide = self.draw(st.sampled_from([4, 6, 8]))
        match kind:
            case "conv":
                return self.activation(self.conv(x, channels, wide, 3)), wide
            case "residual":
                inner = self.activation(self.conv(x, channels, wide, 3))
                return self.activation(
                    self.emit(f"Add ({x}, {self.conv(inner, wide, channels, 1)})")
                ), channels
            case "inverted":
                inner = self.activation(self.conv(x, channels, wide))
                inner = self.activation(self.conv(inner, wide, wide, 3, group=wide))
                return self.emit(f"Add ({self.conv(inner, wide, channels)}, {x})"), channels
            case "concat":
                one = self.activation(self.conv(x, channels, wide))
                other = self.activation(self.conv(x, channels, 4, 3))
                return self.emit(f"Concat <axis = 1> ({one}, {x}, {other})"), wide + channels + 4
            case "grouped":
                inner = self.activation(self.conv(x, channels, 8))
                group = self.draw(st.sampled_from([2, 4]))
                return self.activation(self.conv(inner, 8, 12, 3, group=group)), 12
            case "gate":
                pooled = self.emit(f"GlobalAveragePool ({x})")
                gate = self.activation(self.conv(pooled, channels, 4))
                gate = self.emit(f"Sigmoid ({self.conv(gate, 4, channels)})")
                return self.emit(f"Mul ({x}, {gate})"), channels
            case "pool":
                return self.emit(
                    f"MaxPool <kernel_shape = [2,2], pads = [0,0,1,1]> ({x})"
                ), channels
            case "split":
                inner = self.conv(x, channels, 8)
                self.count += 1
                one, other = f"s{self.count}a", f"s{self.count}b"
                self.lines.append(f"{one}, {other} = Split <axis = 1, num_outputs = 2> ({inner})")
                one, other = (self.conv(part, 4, channels) for part in (one, other))
                return self.activation(self.emit(f"Add ({one}, {other})")), channels
            case _:
                inner = self.activation(self.conv(x, channels, 8))
                start, end, axis = (self.weight(np.array([n]), "i") for n in (2, 7, 1))
                part = self.emit(f"Slice ({inner}, {start}, {end}, {axis})")
                return self.emit(f"Concat <axis = 1> ({self.conv(part, 5, 4)}, {inner})"), 12

    def head(self, x, channels, height):
        """Flattened into a Gemm, or pooled first."""
        if self.draw(st.booleans()):
            x, height = self.emit(f"GlobalAveragePool ({x})"), 1
        size = channels * height * height
        if self.draw(st.booleans()):
            x = self.emit(f"Flatten <axis = 1> ({x})")
        else:
            x = self.emit(f"Reshape ({x}, {self.weight(np.array([0, size]), 'i')})")
        weight, bias = self.weight(self.floats(6, size)), self.weight(self.floats(6), "b")
        hidden = self.emit(f"Gemm <transB = 1> ({x}, {weight}, {bias})")
        hidden = self.activation(hidden)
        self.lines.append(f"y = MatMul ({hidden}, {self.weight(self.floats(6, 3))})")


@st.composite
def networks(draw):
    """(onnx's text, initialisers): input x (2, 3, 4, 4), output y (2, 3)."""
    network = Network(draw, draw(st.integers(0, 2**16)))
    x, channels = network.activation(network.conv("x", 3, 8, 3)), 8
    for _ in range(draw(st.integers(1, 4))):
        x, channels = network.block(x, channels)
    network.head(x, channels, 4)
    body = " ".join(network.lines)
    return f"g (float[2,3,4,4] x) => (float[2,3] y) {{ {body} }}", network.tensors
