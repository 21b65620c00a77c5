"""NNCF post-training quantization of an ONNX model (run with the interpreter that has NNCF)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nncf
import onnx

from benchmarks.peers import inputs
from benchmarks.peers.ort_prepare import prepared


def main() -> None:
    parser = inputs.parser(__doc__)
    parser.add_argument("--preset", choices=("performance", "mixed"), default="performance")
    parser.add_argument("--transformer", action="store_true", help="model_type=TRANSFORMER")
    arguments = parser.parse_args()
    samples = list(inputs.samples(arguments.data))
    with tempfile.TemporaryDirectory() as scratch:
        # NNCF itself asks for this; without shapes it leaves more of the network in float.
        model = onnx.load(prepared(arguments.model, Path(scratch)))
    quantized = nncf.quantize(
        model,
        nncf.Dataset(samples),
        preset=nncf.QuantizationPreset(arguments.preset),
        subset_size=len(samples),
        model_type=nncf.ModelType.TRANSFORMER if arguments.transformer else None,
    )
    onnx.save(quantized, arguments.output)


if __name__ == "__main__":
    main()
