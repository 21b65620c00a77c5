"""What an int8 network is, whatever file it is written to.

This module needs numpy alone: it is read in the interpreter that has Vela as well.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]
Kind = Literal["conv", "depthwise", "add", "average", "dense"]
Activation = Literal["", "relu", "relu6"]


@dataclasses.dataclass(frozen=True)
class Value:
    """An int8 tensor of a batch of one.

    Attributes:
        shape: (height, width, channels), or (features,).
        scale, zero_point: real = scale * (stored - zero_point).
    """

    name: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int


@dataclasses.dataclass(frozen=True)
class Layer:
    """One operator; convolutions are padded so that only their stride changes the size ("SAME").

    Attributes:
        name: unique; also that of its output.
        kind: "average" is over the whole image; "dense" takes it flattened, in (h, w, c) order.
        inputs: values or earlier layers.
        kernel, stride: of convolutions, in both directions.
        activation: fused. The output's scale and zero point saturate exactly there.
        weights: conv (out, kh, kw, in); depthwise (1, kh, kw, channels); dense (out, in).
        weight_scales: (out,) of convolutions, (1,) of dense layers; zero points are 0.
        bias: (out,), in units of input scale * weight scale.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    kernel: int = 1
    stride: int = 1
    activation: Activation = ""
    weights: Int8 | None = None
    weight_scales: Float32 | None = None
    bias: Int32 | None = None


@dataclasses.dataclass(frozen=True)
class Network:
    """Layers in an order that runs.

    Attributes:
        values: the input and the output of every layer, by name.
        input, output: of the network.
    """

    name: str
    values: dict[str, Value]
    layers: tuple[Layer, ...]
    input: str
    output: str

    @property
    def constant_bytes(self) -> int:
        """Of weights and biases."""
        arrays = [array for layer in self.layers for array in (layer.weights, layer.bias)]
        return sum(array.nbytes for array in arrays if array is not None)


def padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """(before, after) of a "SAME" convolution along one dimension."""
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


ARRAYS = ("weights", "weight_scales", "bias")


def save(network: Network, path: Path) -> None:
    """Write a network as .npz."""
    arrays: dict[str, Any] = {}
    layers = []
    for layer in network.layers:
        plain = {f.name: getattr(layer, f.name) for f in dataclasses.fields(layer)}
        for field in ARRAYS:
            array = plain.pop(field)
            if array is not None:
                arrays[f"{layer.name}/{field}"] = array
        layers.append(plain)
    values = [dataclasses.asdict(value) for value in network.values.values()]
    meta = {"name": network.name, "input": network.input, "output": network.output}
    arrays["meta"] = np.array(json.dumps({**meta, "values": values, "layers": layers}))
    with path.open("wb") as file:
        np.savez(file, **arrays)


def load(path: Path) -> Network:
    """Read what `save` wrote."""
    content = np.load(path, allow_pickle=False)
    meta = json.loads(str(content["meta"]))
    values = {
        value["name"]: Value(**{**value, "shape": tuple(value["shape"])})
        for value in meta["values"]
    }
    layers = []
    for plain in meta["layers"]:
        keys = {field: f"{plain['name']}/{field}" for field in ARRAYS}
        arrays = {field: content[key] for field, key in keys.items() if key in content.files}
        layers.append(Layer(**{**plain, "inputs": tuple(plain["inputs"]), **arrays}))
    return Network(meta["name"], values, tuple(layers), meta["input"], meta["output"])
