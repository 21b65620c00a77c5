"""onnxruntime.quantization, dynamic: S8 weights per channel, ranges taken at run time."""

from __future__ import annotations

import tempfile
from pathlib import Path

from onnxruntime.quantization import QuantType, quantize_dynamic

from benchmarks.peers import inputs
from benchmarks.peers.ort_prepare import prepared


def main() -> None:
    parser = inputs.parser(__doc__)
    parser.add_argument("--operators", choices=("all", "matmul"), default="all")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        quantize_dynamic(
            prepared(arguments.model, Path(scratch)),
            arguments.output,
            op_types_to_quantize=None if arguments.operators == "all" else ["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )


if __name__ == "__main__":
    main()
