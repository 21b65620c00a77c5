"""NNCF post-training quantization in OpenVINO's own format: OUT is the .xml, weights beside it."""

from __future__ import annotations

import nncf
import openvino

from benchmarks.peers import inputs


def main() -> None:
    parser = inputs.parser(__doc__)
    parser.add_argument("--preset", choices=("performance", "mixed"), default="performance")
    parser.add_argument("--transformer", action="store_true", help="model_type=TRANSFORMER")
    arguments = parser.parse_args()
    samples = list(inputs.samples(arguments.data))
    quantized = nncf.quantize(
        openvino.Core().read_model(str(arguments.model)),
        nncf.Dataset(samples),
        preset=nncf.QuantizationPreset(arguments.preset),
        subset_size=len(samples),
        model_type=nncf.ModelType.TRANSFORMER if arguments.transformer else None,
    )
    openvino.save_model(quantized, str(arguments.output), compress_to_fp16=False)


if __name__ == "__main__":
    main()
