"""Turns an artifact into the `run` that evaluations and timings call, one thread each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.zoo.case import Arrays, Run


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
