"""The networks that are compared: MobileNetV2-224, and the shipped example."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from benchmarks.tflite.description import Activation, Float32, Layer, Network, Value

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "fashion_mnist" / "model.onnx"

MOBILENET_V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""(expansion, channels, blocks, stride of the first block): Table 2 of "MobileNetV2: Inverted
Residuals and Linear Bottlenecks" (CVPR 2018)."""

IMAGE_SCALE, RELU6_SCALE, LINEAR_SCALE = 1 / 64, 6 / 255, 1 / 16
NORM_EPSILON = 1e-5


def mobilenet_v2(*, side: int = 224, seed: int = 0) -> Network:
    """MobileNetV2 of width 1.0 with its skips, pooling and classifier.

    Weights are drawn from a Laplace distribution (trained ones have tails like it rather than a
    normal distribution's), scaled to keep the signal's variance, and rounded per output channel to
    -127..127.
    """
    built = _Builder("mobilenet_v2_224", (side, side, 3), np.random.default_rng(seed))
    source, channels, number = built.random_conv("stem", "image", 32, 3, 2, "relu6"), 32, 0
    for expansion, width, blocks, stride in MOBILENET_V2_STAGES:
        for block in range(blocks):
            number += 1
            step = stride if block == 0 else 1
            name, made = f"block{number}", source
            if expansion > 1:
                made = built.random_conv(
                    f"{name}_expand", made, channels * expansion, 1, 1, "relu6"
                )
            made = built.random_conv(f"{name}_depthwise", made, None, 3, step, "relu6")
            made = built.random_conv(f"{name}_project", made, width, 1, 1, "")
            if step == 1 and channels == width:
                made = built.add(f"{name}_add", source, made, "")
            source, channels = made, width
    source = built.random_conv("last", source, 1280, 1, 1, "relu6")
    return built.finished(built.random_dense("logits", built.average("pool", source), 1000))


def stem(channels: int, *, side: int = 224, seed: int = 0) -> Network:
    """MobileNetV2's first layer alone, for images of any number of channels."""
    built = _Builder(f"stem_{channels}", (side, side, channels), np.random.default_rng(seed))
    return built.finished(built.random_conv("stem", "image", 32, 3, 2, "relu6"))


def fashion_mnist() -> Network:
    """The shipped example, a residual network for 28x28 images, with its trained weights.

    Normalization is folded and weights are rounded per channel. The activations' scales are not
    calibrated: they decide about the accuracy, not about memory.
    """
    arrays = {t.name: numpy_helper.to_array(t) for t in onnx.load(EXAMPLE).graph.initializer}
    built = _Builder("fashion_mnist", (28, 28, 1), np.random.default_rng(0))

    def conv(name: str, source: str, conv: str, norm: str, stride: int, act: Activation) -> str:
        gain = arrays[f"{norm}.weight"] / np.sqrt(arrays[f"{norm}.running_var"] + NORM_EPSILON)
        weights = arrays[f"{conv}.weight"] * gain[:, None, None, None]
        bias = arrays[f"{norm}.bias"] - arrays[f"{norm}.running_mean"] * gain
        return built.conv(name, source, weights.transpose(0, 2, 3, 1), bias, stride, act)

    source, channels, number = conv("stem", "image", "stem", "stem_norm", 1, "relu"), 16, 0
    while f"blocks.{number}.conv1.weight" in arrays:
        block, name = f"blocks.{number}", f"block{number}"
        width = arrays[f"{block}.conv1.weight"].shape[0]
        stride = 1 if width == channels else 2
        made = conv(f"{name}_1", source, f"{block}.conv1", f"{block}.norm1", stride, "relu")
        made = conv(f"{name}_2", made, f"{block}.conv2", f"{block}.norm2", 1, "")
        if f"{block}.shortcut.0.weight" in arrays:
            shortcut = f"{block}.shortcut"
            source = conv(f"{name}_3", source, f"{shortcut}.0", f"{shortcut}.1", stride, "")
        source, channels, number = built.add(f"{name}_add", source, made, "relu"), width, number + 1
    pooled = built.average("pool", source)
    return built.finished(built.dense("logits", pooled, arrays["head.weight"], arrays["head.bias"]))


class _Builder:
    def __init__(self, name: str, image: tuple[int, int, int], random: np.random.Generator) -> None:
        self.name, self.random = name, random
        self.values = {"image": Value("image", image, IMAGE_SCALE, 0)}
        self.layers: list[Layer] = []

    def finished(self, output: str) -> Network:
        return Network(self.name, self.values, tuple(self.layers), "image", output)

    def random_conv(
        self,
        name: str,
        source: str,
        channels: int | None,
        kernel: int,
        stride: int,
        activation: Activation,
    ) -> str:
        """Channels None: depthwise."""
        read = self.values[source].shape[2]
        if channels is None:
            shape: tuple[int, ...] = (1, kernel, kernel, read)
            fan_in, count = kernel * kernel, read
        else:
            shape, fan_in, count = (
                (channels, kernel, kernel, read),
                kernel * kernel * read,
                channels,
            )
        weights = self._draw(shape, fan_in)
        bias = self.random.normal(0.5 if activation else 0.0, 0.5, count)
        return self.conv(name, source, weights, bias, stride, activation, channels is None)

    def random_dense(self, name: str, source: str, features: int) -> str:
        read = int(np.prod(self.values[source].shape))
        bias = self.random.normal(0.0, 0.5, features)
        return self.dense(name, source, self._draw((features, read), read), bias)

    def _draw(self, shape: tuple[int, ...], fan_in: int) -> npt.NDArray[np.float64]:
        return self.random.laplace(0.0, 1 / np.sqrt(2 * fan_in), shape)

    def conv(
        self,
        name: str,
        source: str,
        weights: npt.NDArray[np.floating],
        bias: npt.NDArray[np.floating],
        stride: int,
        activation: Activation,
        depthwise: bool = False,
    ) -> str:
        """Float weights (out, kh, kw, in), or (1, kh, kw, channels) of depthwise ones."""
        axis = 3 if depthwise else 0
        largest = np.abs(weights).max(axis=tuple(a for a in range(4) if a != axis))
        scales = (np.maximum(largest, 1e-6) / 127).astype(np.float32)
        spread = scales.reshape([-1 if a == axis else 1 for a in range(4)])
        height, width = (-(-size // stride) for size in self.values[source].shape[:2])
        self._make(name, (height, width, weights.shape[axis]), activation)
        self.layers.append(
            Layer(
                name,
                "depthwise" if depthwise else "conv",
                (source,),
                weights.shape[1],
                stride,
                activation,
                np.rint(weights / spread).astype(np.int8),
                scales,
                np.rint(bias / (self.values[source].scale * scales)).astype(np.int32),
            )
        )
        return name

    def dense(
        self,
        name: str,
        source: str,
        weights: npt.NDArray[np.floating],
        bias: npt.NDArray[np.floating],
    ) -> str:
        scale: Float32 = np.array([np.abs(weights).max() / 127], np.float32)
        self._make(name, (weights.shape[0],), "")
        self.layers.append(
            Layer(
                name,
                "dense",
                (source,),
                weights=np.rint(weights / scale).astype(np.int8),
                weight_scales=scale,
                bias=np.rint(bias / (self.values[source].scale * scale)).astype(np.int32),
            )
        )
        return name

    def add(self, name: str, one: str, other: str, activation: Activation) -> str:
        self._make(name, self.values[one].shape, activation)
        self.layers.append(Layer(name, "add", (one, other), activation=activation))
        return name

    def average(self, name: str, source: str) -> str:
        read = self.values[source]
        self.values[name] = Value(name, (1, 1, read.shape[2]), read.scale, read.zero_point)
        self.layers.append(Layer(name, "average", (source,), kernel=read.shape[0]))
        return name

    def _make(self, name: str, shape: tuple[int, ...], activation: Activation) -> None:
        scale = {"": LINEAR_SCALE, "relu": LINEAR_SCALE, "relu6": RELU6_SCALE}[activation]
        self.values[name] = Value(name, shape, scale, -128 if activation else 0)
