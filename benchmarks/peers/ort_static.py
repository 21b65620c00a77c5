"""onnxruntime.quantization, static: U8 activations, S8 weights per channel, QDQ."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from benchmarks.peers import inputs
from benchmarks.peers.ort_prepare import prepared

COMPUTE = ["Conv", "MatMul", "Gemm"]
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, folder: Path) -> None:
        self._samples: Iterator[dict[str, Any]] = inputs.samples(folder)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._samples, None)


def depthwise_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions with one input channel per group and more than one group."""
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "Conv"
        and any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
        and shapes.get(node.input[1], [0, 0])[1] == 1
    ]


def main() -> None:
    parser = inputs.parser(__doc__)
    parser.add_argument("--operators", choices=("all", "compute", "no-depthwise"), default="all")
    parser.add_argument("--calibration", choices=tuple(METHODS), default="minmax")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source = prepared(arguments.model, Path(scratch))
        model = onnx.load(source)
        quantize_static(
            source,
            arguments.output,
            _Reader(arguments.data),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=None if arguments.operators == "all" else COMPUTE,
            nodes_to_exclude=(
                depthwise_nodes(model) if arguments.operators == "no-depthwise" else None
            ),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=METHODS[arguments.calibration],
        )


if __name__ == "__main__":
    main()
