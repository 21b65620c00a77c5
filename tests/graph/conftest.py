"""What the tests of the graph package share: running a model, comparing, golden texts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest

from compress.graph.base import Pass
from compress.graph.printer import to_text

Arrays = dict[str, npt.NDArray[np.generic]]
GOLDEN = Path(__file__).parent.parent / "golden" / "graph"


def _run(model: ir.Model | onnx.ModelProto, feeds: Mapping[str, npt.NDArray[np.generic]]) -> Arrays:
    import onnxruntime

    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    wanted = {i.name for i in session.get_inputs()}
    results = session.run(names, {k: v for k, v in feeds.items() if k in wanted})
    return dict(zip(names, results, strict=True))


def _parse(text: str, **initializers: npt.ArrayLike) -> ir.Model:
    header = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1, "own" : 1]>'
    proto = onnx.parser.parse_model(text if text.lstrip().startswith("<") else header + text)
    for name, data in initializers.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(data), name))
    return ir.from_proto(proto)


@pytest.fixture
def parse() -> Callable[..., ir.Model]:
    """A model from onnx's text (opset 21 if it has no header) and initialisers by name."""
    return _parse


@pytest.fixture
def run() -> Callable[..., Arrays]:
    """Run a model in onnxruntime without its optimisations: (model, feeds) -> outputs by name."""
    return _run


@pytest.fixture
def assert_same() -> Callable[..., None]:
    """Assert that two models have the same outputs, by name, shape, dtype and value."""

    def check(
        before: ir.Model | onnx.ModelProto,
        after: ir.Model | onnx.ModelProto,
        feeds: Mapping[str, npt.NDArray[np.generic]],
        tolerance: float = 1e-5,
    ) -> None:
        expected, found = _run(before, feeds), _run(after, feeds)
        assert list(found) == list(expected)
        for name, array in expected.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_allclose(
                found[name], array, rtol=tolerance, atol=tolerance, err_msg=name
            )

    return check


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compare a text with tests/golden/graph/NAME.txt; UPDATE_GOLDEN=1 writes it instead."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / f"{name}.txt"
        if os.environ.get("UPDATE_GOLDEN"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8")

    return check


@pytest.fixture
def golden_pass_once(golden: Callable[[str, str], None]) -> Callable[[str, ir.Model, Pass], None]:
    """Run a pass on a model, and compare the texts before and after with a golden file."""

    def check(name: str, model: ir.Model, rewrite: Pass) -> None:
        before = to_text(model)
        assert rewrite.run(model)
        golden(name, f"{before}--- {rewrite.name}\n{to_text(model)}")

    return check


@pytest.fixture
def golden_pass(golden_pass_once: Callable[..., None]) -> Callable[[str, ir.Model, Pass], None]:
    """As `golden_pass_once`; a second run must neither change anything nor say so."""

    def check(name: str, model: ir.Model, rewrite: Pass) -> None:
        golden_pass_once(name, model, rewrite)
        after = to_text(model)
        assert not rewrite.run(model)
        assert to_text(model) == after

    return check
