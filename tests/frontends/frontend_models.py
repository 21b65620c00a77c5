"""Small models in every form, and running what was loaded."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper


def onnx_model(opset: int = 17, weight: np.ndarray | None = None) -> onnx.ModelProto:
    """x (batch, 3) -> y (batch, 4): a matrix product with weight 'w', and a Relu."""
    if weight is None:
        weight = np.arange(12, dtype=np.float32).reshape(3, 4) - 5
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    return model


def run(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by name, as onnxruntime computes them from the serialised model."""
    session = ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feeds)), strict=True))


def shapes_of(values: Any) -> dict[str, list[int | str]]:
    return {v.name: [d if isinstance(d, int) else d.value for d in v.shape] for v in values}


def rewrite_zip(path: Path, change: Callable[[str, bytes], bytes | None], **extra: bytes) -> None:
    """Replace members of the archive: `change(name, content)` gives the new content, None drops.

    `extra`: members to add, name -> content, '__' in names standing for '/'.
    """
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(members)).split("/")[0]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            changed = change(name, content)
            if changed is not None:
                archive.writestr(name, changed)
        for name, content in extra.items():
            archive.writestr(f"{root}/{name.replace('__', '/')}", content)


class Touch:
    """Unpickling an instance creates the file `target`."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.target), "w"))
