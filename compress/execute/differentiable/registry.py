"""Operators as data: (domain, op_type) -> the function that computes it in torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
import torch

from compress.graph.order import DEFAULT_DOMAINS

DTYPES: dict[int, torch.dtype] = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.BOOL: torch.bool,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.uint16,
    ir.DataType.UINT32: torch.uint32,
    ir.DataType.UINT64: torch.uint64,
}
"""What torch calls the element types of ONNX; the others do not run."""


@dataclasses.dataclass
class Mode:
    """What one model's operators share: whether it trains, and the dtype that FLOAT stands for."""

    training: bool = False
    floats: torch.dtype = torch.float32


class Attributes:
    """The attributes of one node as plain values, and the mode of the model it belongs to."""

    def __init__(self, node: ir.Node, mode: Mode) -> None:
        self._values: dict[str, Any] = {
            name: attribute.value
            for name, attribute in node.attributes.items()
            if attribute.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        }
        self.outputs = len(node.outputs)
        self.mode = mode

    def integer(self, name: str, default: int) -> int:
        return int(self._values.get(name, default))

    def number(self, name: str, default: float) -> float:
        return float(self._values.get(name, default))

    def text(self, name: str, default: str) -> str:
        value = self._values.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def integers(self, name: str) -> tuple[int, ...] | None:
        value = self._values.get(name)
        return None if value is None else tuple(int(i) for i in value)

    def tensor(self, name: str) -> torch.Tensor | None:
        value = self._values.get(name)
        return None if value is None else to_torch(value)

    def has(self, name: str) -> bool:
        return name in self._values

    def dtype(self, onnx_dtype: int) -> torch.dtype:
        """The torch dtype that runs for an element type: one dtype for all floats after a
        change of the whole module's, such as `.double()`."""
        dtype = DTYPES[onnx_dtype]
        changed = self.mode.floats is not torch.float32
        return self.mode.floats if changed and dtype.is_floating_point else dtype


Refusal = Callable[[Attributes, ir.Node], str | None]
Kernel = TypeVar("Kernel", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Operator:
    """How an operator runs.

    Attributes:
        compute: (attributes, one tensor or None per input) -> a tensor, or one per output.
        outputs: how many of its outputs are computed; None for all.
        refuse: why a node of this operator is not supported, or None if it is.
    """

    compute: Callable[..., Any]
    outputs: int | None
    refuse: Refusal


OPERATORS: dict[tuple[str, str], Operator] = {}
"""(domain, op_type) -> how it runs. The modules beside this one fill it."""


def _accept(attributes: Attributes, node: ir.Node) -> str | None:
    return None


def operator(
    *op_types: str, domain: str = "", outputs: int | None = 1, refuse: Refusal = _accept
) -> Callable[[Kernel], Kernel]:
    """Registers the decorated function as what computes these operators."""

    def register(function: Kernel) -> Kernel:
        for op_type in op_types:
            OPERATORS[domain, op_type] = Operator(function, outputs, refuse)
        return function

    return register


def find_operator(node: ir.Node) -> Operator | None:
    domain = "" if node.domain in DEFAULT_DOMAINS else node.domain
    return OPERATORS.get((domain, node.op_type))


def refusal(node: ir.Node) -> str | None:
    """Why `node` cannot run here, in a few words, or None if it can."""
    found = find_operator(node)
    if found is None:
        return "the operator has no differentiable form"
    count = len(node.outputs) if found.outputs is None else found.outputs
    for extra in node.outputs[count:]:
        if extra.uses() or extra.is_graph_output():
            return f"output {extra.name} is not computed"
    for value in (*node.inputs, *node.outputs):
        if value is None:
            continue
        if value.type is not None and not isinstance(value.type, ir.TensorType):
            return f"{value.name} is no tensor"
        dtype = value.dtype if value.const_value is None else value.const_value.dtype
        if dtype is not None and dtype not in DTYPES:
            return f"torch has no {dtype.name}"
    return found.refuse(Attributes(node, Mode()), node)


def to_torch(tensor: ir.TensorProtocol) -> torch.Tensor:
    """A copy of a tensor whose dtype is in `DTYPES`."""
    array = np.array(tensor.numpy())
    if tensor.dtype == ir.DataType.BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_ir(values: torch.Tensor, dtype: ir.DataType, name: str | None) -> ir.Tensor[Any]:
    """A copy of torch's values as a tensor of this dtype."""
    values = values.detach().to("cpu", DTYPES[dtype]).contiguous()
    if dtype == ir.DataType.BFLOAT16:
        array = values.view(torch.int16).numpy().copy().view(dtype.numpy())
    else:
        array = values.numpy().copy()
    return ir.Tensor(array, dtype=dtype, name=name)
