"""Fix dynamic dimensions of inputs, and whole inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.errors import UsageError
from compress.graph.base import Pass
from compress.graph.order import all_graphs, shown
from compress.graph.rewrite import add_initializer

_MOST_LISTED = 30
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class FixInputs(Pass):
    """Inputs get the shapes asked for, or become initialisers with the values asked for.

    Given:  `input %x:f32[N,3,H,W]`, `input %training:bool[]`, `output %y:f32[N,10]`,
            shapes={"x": (2, 3, 32, 32)}, values={"training": False}
    Result: `input %x:f32[2,3,32,32]`, `init %training:bool[] {False}`, `output %y:f32[2,10]`

    1. A dimension that a symbol names is fixed wherever the symbol occurs.
    2. A -1 in a shape leaves that dimension as it is.
    3. A value must fit the input's dtype without loss; a single one fills a static shape. Text is
       read as numbers or truth values, with commas between, as the dtype asks.
    """

    name: ClassVar[str] = "fix-inputs"
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    values: Mapping[str, object] = field(default_factory=dict)

    def run(self, model: ir.Model) -> bool:
        """Apply `shapes`, then `values`.

        Raises:
            UsageError: a name, rank, dimension or value does not fit the model.
        """
        inputs = {v.name or "": v for v in model.graph.inputs}
        for name in (*self.shapes, *self.values):
            if name not in inputs:
                there = ", ".join(shown(n)[1:-1] for n in list(inputs)[:_MOST_LISTED]) or "none"
                more = ", ..." if len(inputs) > _MOST_LISTED else ""
                raise UsageError(
                    f"the model has no input {shown(name)}; its inputs are: {there}{more}"
                )
        symbols: dict[str, int] = {}
        for name, shape in self.shapes.items():
            _fix_shape(inputs[name], shape, symbols)
        if symbols:
            _replace_symbols(model, symbols)
        for name, wanted in self.values.items():
            _fix_value(model.graph, inputs[name], wanted)
        return bool(self.shapes or self.values)


def _fix_shape(value: ir.Value, wanted: Sequence[int], symbols: dict[str, int]) -> None:
    text = "x".join(str(d) for d in wanted)
    if any(d == 0 or d < -1 for d in wanted):
        raise UsageError(
            f"shape {text} for input {shown(value.name)}: dimensions are positive, or -1"
        )
    present: list[int | ir.SymbolicDim] = (
        [ir.SymbolicDim(None) for _ in wanted] if value.shape is None else list(value.shape)
    )
    if len(present) != len(wanted):
        raise UsageError(
            f"shape {text} for input {shown(value.name)} has {len(wanted)} dimensions; "
            f"the model's has {len(present)}: {_dims_text(present)}"
        )
    fixed: list[int | ir.SymbolicDim] = []
    for dim, number in zip(present, wanted, strict=True):
        if number == -1 or dim == number:
            fixed.append(dim)
            continue
        if isinstance(dim, int) and dim >= 0:
            raise UsageError(
                f"shape {text} for input {shown(value.name)} does not fit the model's "
                f"{_dims_text(present)}"
            )
        symbol = str(dim.value) if isinstance(dim, ir.SymbolicDim) and dim.value else None
        if symbol is not None and symbols.setdefault(symbol, int(number)) != number:
            raise UsageError(
                f"shape {text} for input {shown(value.name)} makes the dimension {shown(symbol)} "
                f"both {symbols[symbol]} and {number}"
            )
        fixed.append(int(number))
    value.shape = ir.Shape(fixed)


def _dims_text(dims: Sequence[int | ir.SymbolicDim]) -> str:
    return "x".join(str(d) if isinstance(d, int) else str(d.value or "?") for d in dims) or "scalar"


def _replace_symbols(model: ir.Model, symbols: Mapping[str, int]) -> None:
    for graph in all_graphs(model.graph):
        values = [*graph.inputs, *graph.outputs, *(v for node in graph for v in node.outputs)]
        for value in values:
            if value.shape is not None and value.shape.is_dynamic():
                value.shape = ir.Shape(
                    [
                        symbols.get(str(d.value), d)
                        if isinstance(d, ir.SymbolicDim) and d.value
                        else d
                        for d in value.shape
                    ]
                )


def _fix_value(graph: ir.Graph, value: ir.Value, wanted: object) -> None:
    array = _as_array(value, wanted)
    name = value.name or ""
    graph.inputs.remove(value)
    if value.is_initializer():
        del graph.initializers[name]
    constant = add_initializer(graph, f"{name}/value" if value.is_graph_output() else name, array)
    value.replace_all_uses_with(constant, replace_graph_outputs=True)
    if constant.name != name:
        constant.name = name


def _as_array(value: ir.Value, wanted: object) -> npt.NDArray[np.generic]:
    if value.dtype is None or value.dtype == ir.DataType.STRING:
        raise UsageError(f"input {shown(value.name)} cannot be fixed: it is no numeric tensor")
    dtype = value.dtype.numpy()
    refusal = UsageError(
        f"{wanted!r} cannot be the value of input {shown(value.name)} ({value.dtype})"
    )
    if isinstance(wanted, str):
        try:
            numbers = [_number(part.strip().lower(), dtype.kind) for part in wanted.split(",")]
        except (KeyError, ValueError):
            raise refusal from None
        wanted = numbers if len(numbers) > 1 else numbers[0]
    data = np.asarray(wanted)
    if data.dtype.kind not in "biuf" and data.dtype != dtype:
        raise refusal
    with np.errstate(all="ignore"):
        array = data.astype(dtype)
    if dtype.kind in "biu" and not np.array_equal(array.astype(data.dtype), data):
        raise refusal
    return _fitted(array, value)


def _number(text: str, kind: str) -> bool | int | float:
    """`text` as a truth value, a whole number or any number, for dtypes of this numpy kind."""
    if kind == "b":
        return _TRUTHS[text]
    return int(text) if kind in "iu" else float(text)


def _fitted(array: npt.NDArray[np.generic], value: ir.Value) -> npt.NDArray[np.generic]:
    """`array` in the input's shape; one number fills it."""
    if value.shape is None:
        return array
    dims = list(value.shape)
    if array.size == 1 and array.ndim != len(dims):
        numbers = [d for d in dims if isinstance(d, int) and d >= 0]
        if len(numbers) != len(dims):
            raise UsageError(
                f"input {shown(value.name)} has the dynamic shape {_dims_text(dims)}: "
                "fix it with --shape, or give a value of that shape"
            )
        return np.full(numbers, array.reshape(()))
    fits = array.ndim == len(dims) and all(
        not isinstance(d, int) or d < 0 or d == size
        for d, size in zip(dims, array.shape, strict=True)
    )
    if not fits:
        raise UsageError(
            f"the value of input {shown(value.name)} has shape {'x'.join(map(str, array.shape))}; "
            f"the model's is {_dims_text(dims)}"
        )
    return array
