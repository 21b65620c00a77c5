"""What the machine's integer kernels do at the edge of their range, found out by trying."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.errors import DeviceError
from compress.execute.session import Runner

ELEMENTS = 64


@functools.cache
def adds_pairs_in_16_bits() -> bool:
    """Whether sums of products of uint8 and int8 saturate here in onnxruntime.

    They do on x86 without VNNI: 255 * 127 + 255 * 127 is 64770 and an int16 ends at 32767. The
    runtime is asked, not a table of processors: the same kernel is chosen in many ways.
    """
    x = ir.val("x", ir.DataType.UINT8, [1, ELEMENTS])
    constants: dict[str, npt.NDArray[Any]] = {
        "w": np.full((ELEMENTS, 1), 127, np.int8),
        "x_zero": np.zeros((), np.uint8),
        "w_zero": np.zeros((), np.int8),
    }
    inputs = [x, *(ir.val(k, const_value=ir.tensor(a, name=k)) for k, a in constants.items())]
    node = ir.node("MatMulInteger", inputs)
    output = node.outputs[0]
    output.name, output.type = "y", ir.TensorType(ir.DataType.INT32)
    graph = ir.Graph(
        [x], [output], nodes=[node], initializers=inputs[1:], opset_imports={"": 21}, name="probe"
    )
    try:
        found = Runner(ir.Model(graph, ir_version=10))({"x": np.full((1, ELEMENTS), 255, np.uint8)})
    except DeviceError:
        # no integer kernels at all: nothing to protect
        return False
    return int(found["y"].item()) != 255 * 127 * ELEMENTS
