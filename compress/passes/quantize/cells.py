"""Latency of one layer in one form, measured in the neighbourhood that it will be shipped in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from compress.errors import DeviceError
from compress.evidence.store import EvidenceStore
from compress.execute.session import kernel_times
from compress.graph.layers import Layer
from compress.passes.quantize.forms import BLOCK_SIZE, Form
from compress.passes.quantize.qdq import QuantizeLayers

BOUNDARY_KERNELS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "Transpose", "ReorderInput", "ReorderOutput"}
)
"""Conversions of number format or layout that onnxruntime inserts around a layer."""

TARGET_US = 15_000.0
"""Time spent per cell: short layers run more often."""

MIN_RUNS, MAX_RUNS = 8, 60


@dataclasses.dataclass(frozen=True)
class CellLatency:
    """Microseconds of one layer in one form.

    `core_us` is paid wherever the layer stands; `entry_us` (quantize, change of layout) only if the
    value arrives in the other domain, `exit_us` (dequantize, change of layout back) only if it has
    to leave this one. `fused` is whether the kernels are those that the form promises.
    """

    core_us: float
    entry_us: float
    exit_us: float
    fused: bool = True
    kernels: tuple[str, ...] = ()


def signature(layer: Layer, shapes: Mapping[str, tuple[int, ...]], form: Form) -> dict[str, Any]:
    """What the latency depends on, apart from the machine: no weights, no names."""
    node = layer.node
    weight = layer.weight.const_value if layer.weight is not None else None
    return {
        "op": layer.op,
        "attributes": {k: repr(a.value) for k, a in sorted(node.attributes.items())},
        "inputs": [list(shapes[str(v.name)]) for v in layer.inputs],
        "weight": [list(weight.shape.numpy()), weight.dtype.name] if weight is not None else None,
        "bias": layer.bias is not None,
        "activation": layer.activation.op_type if layer.activation is not None else None,
        "form": form.value,
        "block": BLOCK_SIZE if form is Form.BLOCK else None,
    }


def measure_cell(
    model: ir.Model,
    layer: Layer,
    shapes: Mapping[str, tuple[int, ...]],
    form: Form,
    store: EvidenceStore,
    host: str,
) -> CellLatency:
    """The latency of `layer` alone in `form`, from the store or measured now.

    The layer is cut out with its fused bias and activation, fed float, and run under onnxruntime's
    profiler; leading and trailing conversions are told apart from the layer itself.

    Args:
        model: the float model that the layer belongs to.
        shapes: concrete shapes of the layer's inputs for the typical sample.
        host: fingerprint of the machine and its runtime.
    """
    key = store.key("cell_latency", signature(layer, shapes, form), host)
    known = store.get(key)
    if isinstance(known, dict):
        return CellLatency(**{**known, "kernels": tuple(known["kernels"])})
    cell = cut_out(model, layer, shapes)
    if form is not Form.FLOAT:
        names = [str(v.name) for v in layer.inputs] + [str(layer.node.outputs[0].name)]
        ranges = dict.fromkeys(names, (-1.0, 1.0))
        # behind a Relu or Clip nothing is negative, and the integer range makes it superfluous
        ranges[str(layer.output.name)] = (0.0, 1.0) if layer.saturating else (-1.0, 1.0)
        QuantizeLayers({layer.name: form}, ranges).run(cell)
    try:
        times = time_cell(cell, shapes)
    except DeviceError as error:
        raise DeviceError(f"layer {layer.name} cannot be measured as {form}: {error}") from error
    result = split(times, form)
    store.put(key, dataclasses.asdict(result))
    return result


def time_cell(
    cell: ir.Model, shapes: Mapping[str, tuple[int, ...]]
) -> list[tuple[str, str, float]]:
    """(node name, kernel, microseconds) of a cell on random inputs of these shapes."""
    generator = np.random.default_rng(0)
    feeds = {
        str(v.name): generator.uniform(-1, 1, shapes[str(v.name)]).astype(np.float32)
        for v in cell.graph.inputs
    }
    times = kernel_times(cell, feeds, runs=MIN_RUNS)
    total = sum(t for _, _, t in times)
    runs = int(np.clip(TARGET_US / max(total, 1.0), 0, MAX_RUNS))
    return kernel_times(cell, feeds, runs=runs) if runs > MIN_RUNS else times


def split(times: Sequence[tuple[str, str, float]], form: Form) -> CellLatency:
    """Tells the layer's own kernels from the conversions before and behind it."""
    kernels = [kernel for _, kernel, _ in times]
    own = [i for i, kernel in enumerate(kernels) if kernel not in BOUNDARY_KERNELS]
    if not own:
        # a layer that only moves values may itself be a Transpose
        own = [len(kernels) // 2]
    first, last = own[0], own[-1]
    return CellLatency(
        core_us=sum(t for _, _, t in times[first : last + 1]),
        entry_us=sum(t for _, _, t in times[:first]),
        exit_us=sum(t for _, _, t in times[last + 1 :]),
        fused=is_fused(kernels, form),
        kernels=tuple(kernels),
    )


INTEGER_KERNELS = {
    Form.INT8: ("QLinear", "QGemm", "QAttention"),
    Form.INT8_TO_FLOAT: ("MatMulIntegerToFloat", "QGemm"),
    Form.DYNAMIC: ("DynamicQuantizeMatMul", "MatMulIntegerToFloat"),
    Form.BLOCK: ("MatMulNBits",),
}


def is_fused(kernels: Sequence[str], form: Form) -> bool:
    """Whether the form's integer kernel really ran (movers have none: nothing to fuse)."""
    if form is Form.FLOAT:
        return True
    arithmetic = [k for k in kernels if k not in BOUNDARY_KERNELS]
    floats = {"Conv", "FusedConv", "Gemm", "MatMul", "FusedMatMul", "Add", "Mul", "Concat"}
    return any(k.startswith(INTEGER_KERNELS[form]) for k in kernels) or not (
        set(arithmetic) & floats
    )


def cut_out(model: ir.Model, layer: Layer, shapes: Mapping[str, tuple[int, ...]]) -> ir.Model:
    """The layer as a model of its own with fixed input shapes."""
    inputs = list(dict.fromkeys(layer.inputs))
    graph = ir.convenience.extract(model.graph, inputs, [layer.output])
    for value in graph.inputs:
        value.shape = ir.Shape(shapes[str(value.name)])
    for node in graph:
        for value in node.outputs:
            value.shape = None
    return ir.Model(graph, ir_version=model.ir_version)
