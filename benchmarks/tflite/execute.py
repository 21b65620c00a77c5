"""Executes a TFLite file: `python -m benchmarks.tflite.execute MODEL.tflite INPUT.npy OUTPUT.npy`.

Runs in the interpreter that has LiteRT. Its reference kernels compute with the integers that the
format defines.
"""

from __future__ import annotations

import importlib
import sys

import numpy as np


def main() -> None:
    model, given, made = sys.argv[1:]
    runtime = importlib.import_module("ai_edge_litert.interpreter")
    interpreter = runtime.Interpreter(
        model_path=model,
        experimental_op_resolver_type=runtime.OpResolverType.BUILTIN_REF,
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.load(given))
    interpreter.invoke()
    np.save(made, interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))


if __name__ == "__main__":
    main()
