"""What the tests of the passes share: small float models, running them, golden texts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from compress.graph.canonical import canonicalize
from compress.graph.simplify import simplify

GOLDEN = Path(__file__).parent.parent / "golden" / "passes"
HEADER = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>'


def _parse(text: str, **initializers: np.ndarray) -> ir.Model:
    proto = onnx.parser.parse_model(HEADER + text)
    for name, data in initializers.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(data), name))
    return simplify(canonicalize(ir.from_proto(proto)))


def _run(model, feeds, *, optimised=True, checked=True, profile=None):
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    )
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    proto = ir.to_proto(model)
    if checked:
        onnx.checker.check_model(proto)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    result = dict(zip(names, session.run(names, feeds), strict=True))
    if profile is None:
        return result
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return [e["args"]["op_name"] for e in events if e.get("name", "").endswith("_kernel_time")]


@pytest.fixture
def parse() -> Callable[..., ir.Model]:
    """The simplified canonical model of onnx's text and initialisers by name."""
    return _parse


@pytest.fixture
def run() -> Callable[..., dict[str, np.ndarray]]:
    """(model, feeds) -> outputs by name, in onnxruntime, after onnx's checker had its say."""
    return _run


@pytest.fixture
def kernels(tmp_path: Path) -> Callable[..., list[str]]:
    """(model, feeds) -> the kernels that onnxruntime ran, in its order."""
    return lambda model, feeds: _run(model, feeds, profile=tmp_path / "profile")


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compare a text with tests/golden/passes/NAME.txt; UPDATE_GOLDEN=1 writes it instead."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / f"{name}.txt"
        if os.environ.get("UPDATE_GOLDEN"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8")

    return check
