"""Turns an artifact into the `run` that evaluations and timings call, one thread each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.zoo.case import Arrays, Run

Call = Callable[[], object]


def onnxruntime_session(path: Path) -> Any:
    """A single-threaded CPU session with onnxruntime's default optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def onnxruntime_run(path: Path) -> Run:
    """`run(inputs by name) -> outputs by name` in onnxruntime."""
    session = onnxruntime_session(path)
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return run


def openvino_request(path: Path) -> Any:
    """A single-threaded OpenVINO inference request, tuned for latency."""
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    return openvino.Core().compile_model(str(path), "CPU", options).create_infer_request()


def openvino_run(path: Path) -> Run:
    """`run(inputs by name) -> outputs by name` in OpenVINO."""
    request = openvino_request(path)
    names = [output.get_any_name() for output in request.model_outputs]

    def run(inputs: Arrays) -> Arrays:
        request.infer(dict(inputs))
        # Copies, since the request reuses its output buffers.
        values = [np.array(tensor.data) for tensor in request.output_tensors]
        return dict(zip(names, values, strict=True))

    return run


def onnxruntime_call(path: Path, inputs: Arrays) -> Call:
    """One inference on `inputs`, with as little around it as the runtime allows."""
    session = onnxruntime_session(path)
    feed = dict(inputs)
    return lambda: session.run(None, feed)


def openvino_call(path: Path, inputs: Arrays) -> Call:
    """One inference on `inputs`, with as little around it as the runtime allows."""
    import openvino

    request = openvino_request(path)
    kept = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
    for name, array in kept.items():
        request.set_tensor(name, openvino.Tensor(array, shared_memory=True))

    def call() -> object:
        request.infer()
        return kept  # holds the memory that the request reads

    return call


@dataclass(frozen=True)
class Runtime:
    """How a runtime is asked for outputs, and how it is timed."""

    run: Callable[[Path], Run]
    call: Callable[[Path, Arrays], Call]


RUNTIMES = {
    "onnxruntime": Runtime(onnxruntime_run, onnxruntime_call),
    "openvino": Runtime(openvino_run, openvino_call),
}
