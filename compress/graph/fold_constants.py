"""Compute beforehand what depends on initialisers alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from compress.graph.base import Pass
from compress.graph.merge_duplicates import RANDOM_OPS
from compress.graph.order import all_graphs, subgraphs
from compress.graph.rewrite import (
    Names,
    add_initializer,
    initializer_tensor,
    remove_nodes,
    replace_value,
)
from compress.graph.traversal import is_op, static_shape

if TYPE_CHECKING:
    import onnxruntime

_NEVER = (*RANDOM_OPS, "Constant", "Identity", "QuantizeLinear", "DequantizeLinear", "EyeLike")
"""Random; handled elsewhere; or, for the quantised pair, folding would undo the quantisation."""

_MAY_GROW = (
    "ConstantOfShape", "Expand", "Loop", "OneHot", "Pad", "Range", "Resize", "Scan", "Tile",
)  # fmt: skip
"""Operators whose output may be far larger than their inputs: folded where its size is known."""

_SMALL_ELEMENTS = 1024
_NATIVE = frozenset(
    getattr(ir.DataType, name)
    for name in (
        "FLOAT", "FLOAT16", "DOUBLE", "BOOL", "INT8", "INT16", "INT32", "INT64",
        "UINT8", "UINT16", "UINT32", "UINT64",
    )
)  # fmt: skip


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Nodes that read initialisers only are replaced by what they compute.

    Given:  `init %a {2}`, `init %b {3}`, `%c = Add(%a, %b)`, `%y = Mul(%x, %c)`
    Result: `init %c {5}`, `%y = Mul(%x, %c)`

    1. onnxruntime computes them, all of a graph at once, so that nothing changes numerically.
    2. An output may be as large as what it is made of, or `max_output_bytes`; all that a run adds
       beyond what it is made of stays below `max_total_bytes`.
    3. Random operators, quantisation, control flow and domains other than the standard stay.
    """

    name: ClassVar[str] = "fold-constants"
    max_output_bytes: int = 4 << 20
    max_total_bytes: int = 256 << 20

    def run(self, model: ir.Model) -> bool:
        """Fold in every graph; shapes are inferred and the graphs in topological order."""
        budget = self.max_total_bytes
        changed = False
        for graph in all_graphs(model.graph):
            chosen: dict[ir.Node, None] = {}
            for node in graph:
                growth = self._growth(node, chosen)
                if growth is not None and growth <= budget:
                    budget -= max(growth, 0)
                    chosen[node] = None
            if chosen:
                changed |= _fold(graph, list(chosen), model)
        return changed

    def _growth(self, node: ir.Node, chosen: dict[ir.Node, None]) -> int | None:
        """Bytes that the outputs of `node` have beyond its inputs; None if it must stay."""
        if not is_op(node, node.op_type) or node.op_type in _NEVER or not node.inputs:
            return None
        if any(True for _ in subgraphs(node)):
            return None
        outputs = [v for v in node.outputs if v.name]
        if any(not isinstance(v.type, ir.TensorType) or v.dtype not in _NATIVE for v in outputs):
            return None
        read, small = 0, True
        for value in node.inputs:
            if value is None:
                continue
            tensor = initializer_tensor(value)
            if tensor is not None and tensor.dtype in _NATIVE:
                read += tensor.nbytes
                small &= tensor.size <= _SMALL_ELEMENTS
            elif value.producer() in chosen:
                dims = static_shape(value)
                size = math.prod(dims) if dims is not None else _SMALL_ELEMENTS
                read += size * _itemsize(value)
                small &= size <= _SMALL_ELEMENTS
            else:
                return None
        written = 0
        for value in node.outputs:
            dims = static_shape(value)
            if dims is None:
                if not small or node.op_type in _MAY_GROW:
                    return None
                continue
            written += math.prod(dims) * _itemsize(value)
        growth = written - read
        return growth if growth <= 0 or written <= self.max_output_bytes else None


def _itemsize(value: ir.Value) -> int:
    return 1 if value.dtype is None else math.ceil(value.dtype.itemsize)


def _fold(graph: ir.Graph, nodes: Sequence[ir.Node], model: ir.Model) -> bool:
    computed, results = _evaluate(nodes, model)
    names = Names(model)
    chosen = set(computed)
    for node in computed:
        for output in _boundary(node, chosen):
            name = output.name or ""
            if output.is_graph_output():
                name = names.value(f"{name}/folded")
            else:
                output.name = None
            value = add_initializer(graph, name, results[output])
            value.metadata_props.update(output.metadata_props)
            replace_value(output, value, node)
    remove_nodes(computed)
    return bool(computed)


def _boundary(node: ir.Node, chosen: set[ir.Node]) -> list[ir.Value]:
    """Outputs of `node` that something outside `chosen` reads."""
    return [
        value
        for value in node.outputs
        if value.is_graph_output() or any(user not in chosen for user in value.consumers())
    ]


def _evaluate(
    nodes: Sequence[ir.Node], model: ir.Model
) -> tuple[Sequence[ir.Node], dict[ir.Value, npt.NDArray[np.generic]]]:
    """Those of `nodes` that onnxruntime can compute, and at least the values that leave them."""
    chosen = set(nodes)
    wanted = [value for node in nodes for value in _boundary(node, chosen)]
    try:
        return nodes, dict(zip(wanted, _run(nodes, wanted, {}, model), strict=True))
    except Exception:
        # One operator that onnxruntime lacks must not keep the others from being folded.
        computed: list[ir.Node] = []
        results: dict[ir.Value, npt.NDArray[np.generic]] = {}
        for node in nodes:
            outputs = [v for v in node.outputs if v.name]
            try:
                results.update(zip(outputs, _run([node], outputs, results, model), strict=True))
            except Exception:
                continue
            computed.append(node)
        return computed, results


def _run(
    nodes: Sequence[ir.Node],
    wanted: Sequence[ir.Value],
    known: dict[ir.Value, npt.NDArray[np.generic]],
    model: ir.Model,
) -> list[npt.NDArray[np.generic]]:
    """`wanted` as computed by `nodes`, whose inputs are initialisers or `known`."""
    made = {value for node in nodes for value in node.outputs}
    reads = dict.fromkeys(v for n in nodes for v in n.inputs if v is not None and v not in made)
    feeds: dict[str, npt.NDArray[np.generic]] = {}
    for value in reads:
        tensor = initializer_tensor(value)
        array = known[value] if tensor is None else np.asarray(tensor.numpy())
        feeds[value.name or ""] = array
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            [ir.to_proto(node) for node in nodes],
            "constants",
            [
                onnx.helper.make_tensor_value_info(
                    name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
                )
                for name, array in feeds.items()
            ],
            [onnx.helper.make_empty_tensor_value_info(v.name or "") for v in wanted],
        ),
        opset_imports=[onnx.helper.make_opsetid(d, v) for d, v in model.opset_imports.items()],
        ir_version=model.ir_version,
    )
    return list(_session(proto).run([v.name or "" for v in wanted], feeds))


def _session(proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
