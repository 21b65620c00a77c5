"""Derive the dtype and shape of every value anew, from the inputs and initialisers alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx
import onnx_ir as ir

from compress.graph.base import Pass
from compress.graph.order import all_graphs
from compress.graph.proto_inference import Dims, infer_types


@dataclass(frozen=True)
class InferShapes(Pass):
    """Fresh dtypes and shapes; what the file said about inner values is forgotten first.

    Given:  `input %x:f32[?,3,8,8]`, `%y:f32[1,9,9,9] = Relu(%x)` (stale)
    Result: `input %x:f32[x_d0,3,8,8]`, `%y:f32[x_d0,3,8,8] = Relu(%x)`

    1. Every dynamic dimension of an input has a name; those without one get `<input>_d<axis>`.
    2. Outputs of operators nobody knows keep the dtype and shape that the file gives them.
    3. Dimensions that inference cannot derive are named `_d0`, `_d1`... in the order of the nodes;
       the same name then means the same number.
    4. A graph output keeps its declared dimension where inference knows nothing better.

    Values have names (`NameValues` ran), and the rules are those of `onnx.shape_inference`.
    """

    name: ClassVar[str] = "infer-shapes"

    def run(self, model: ir.Model) -> bool:
        """Replace all types and shapes; whether any of them differs from before.

        Raises:
            ModelError: shape inference refuses the model altogether.
        """
        name_input_dims(model)
        before = {value: (value.type, value.shape) for value in _produced(model)}
        symbols = _Symbols(model, [v for v in before if _is_foreign(v, model)])
        for value in before:
            if not _is_foreign(value, model):
                value.type = value.shape = None
        types = infer_types(model)
        outputs = set(model.graph.outputs)
        for value, (old_type, old_shape) in before.items():
            found = types.get(value.name or "")
            if found is not None:
                value.type, dims = found
                if value in outputs:
                    value.shape = _output_shape(value, dims, old_shape, symbols)
                else:
                    value.shape = None if dims is None else ir.Shape(map(symbols.rename, dims))
            elif _is_foreign(value, model) or value in outputs:
                value.type, value.shape = old_type, old_shape
        return any((v.type, v.shape) != old for v, old in before.items())


def name_input_dims(model: ir.Model) -> None:
    """Name the unnamed dynamic dimensions of the model's inputs, negative numbers among them."""
    taken = {d for v in model.graph.inputs for d in _named_dims(v.shape)}
    taken |= {d for v in model.graph.outputs for d in _named_dims(v.shape)}
    for value in model.graph.inputs:
        if value.shape is None:
            continue
        dims: list[int | ir.SymbolicDim] = []
        for axis, dim in enumerate(value.shape):
            known = dim >= 0 if isinstance(dim, int) else bool(dim.value)
            if known:
                dims.append(dim)
                continue
            name = base = f"{_dim_prefix(value)}_d{axis}"
            count = 0
            while name in taken:
                count += 1
                name = f"{base}_{count}"
            taken.add(name)
            dims.append(ir.SymbolicDim(name))
        value.shape = ir.Shape(dims)


class _Symbols:
    """The names that dimensions have from outside, and fresh ones for those that inference made."""

    def __init__(self, model: ir.Model, foreign: list[ir.Value]) -> None:
        given = [*model.graph.inputs, *foreign]
        self.given = {d for v in given for d in _named_dims(v.shape)}
        self._taken = self.given | {d for v in model.graph.outputs for d in _named_dims(v.shape)}
        self._renamed: dict[str, str] = {}
        self._count = 0

    def rename(self, dim: int | str | None) -> int | str | None:
        """`dim`, or its `_d` name if inference made it up."""
        if not isinstance(dim, str) or dim in self.given:
            return dim
        if dim not in self._renamed:
            while f"_d{self._count}" in self._taken:
                self._count += 1
            self._renamed[dim] = f"_d{self._count}"
            self._count += 1
        return self._renamed[dim]


def _named_dims(shape: ir.Shape | None) -> Iterator[str]:
    for dim in shape or ():
        if isinstance(dim, ir.SymbolicDim) and dim.value:
            yield str(dim.value)


def _produced(model: ir.Model) -> list[ir.Value]:
    """Every value that has a producer, and the inputs of subgraphs, which inference types too."""
    found: dict[ir.Value, None] = {}
    for graph in all_graphs(model.graph):
        if graph is not model.graph:
            found.update(dict.fromkeys(graph.inputs))
        for node in graph:
            found.update((v, None) for v in node.outputs if v.name)
    return list(found)


def _is_foreign(value: ir.Value, model: ir.Model) -> bool:
    """Whether `value` comes out of an operator that shape inference has no rule for."""
    node = value.producer()
    if node is None:
        return True
    version = model.opset_imports.get(node.domain)
    if version is None:
        return True
    return not onnx.defs.has(node.op_type, version, node.domain)


def _output_shape(
    value: ir.Value, dims: Dims | None, declared: ir.Shape | None, symbols: _Symbols
) -> ir.Shape | None:
    """What a graph output's shape is: `dims` as inferred, `declared` as the file says.

    A number and a symbol given from outside are inferred for certain. Otherwise the declared
    dimension stands, or a name of the output's own, so that inferring again gives the same.
    """
    wanted: Dims = [
        (d if d >= 0 else None) if isinstance(d, int) else (d.value and str(d.value))
        for d in declared or ()
    ]
    if dims is None:
        return None if declared is None else ir.Shape(wanted)
    if len(dims) != len(wanted):
        wanted = [None] * len(dims)
    own = _dim_prefix(value)
    return ir.Shape(
        dim if isinstance(dim, int) or dim in symbols.given else want or f"{own}_d{axis}"
        for axis, (dim, want) in enumerate(zip(dims, wanted, strict=True))
    )


def _dim_prefix(value: ir.Value) -> str:
    """The name of `value` as far as a dimension may be called so."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", value.name or "value")
