"""What the tests of pruning share: zeroing channels where they are read, or where they are made."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from compress.graph.eliminate_dead import EliminateDead
from compress.graph.traversal import new_initializer


def _zeroed(model, group, removed, role):
    """A copy whose weights with `role` ("consumes" or "produces") are zero for some units.

    "produces" zeroes biases of the producers as well.
    """
    result = model.clone()
    nodes = {str(n.name): n for n in result.graph}
    names = group.consumers if role == "consumes" else (*group.producers, *group.carriers)
    for name in names:
        node = nodes[name]
        for position in (1, 2) if role == "produces" else (1,):
            value = node.inputs[position] if position < len(node.inputs) else None
            if value is None:
                continue
            axes = _axes(node, role) if position == 1 else [-1]
            for member in group.members:
                own = member.reader == (name, position)
                here = own or (member.reader is None and member.value == value.name)
                rank = len(value.shape)
                if not here or member.axis not in [a % rank for a in axes]:
                    continue
                array = value.const_value.numpy().copy()
                index = [slice(None)] * rank
                index[member.axis] = member.indices[removed].reshape(-1)
                array[tuple(index)] = 0
                if not own:
                    # other readers of a matrix lose the same
                    value.const_value = ir.tensor(array, name=value.name)
                    continue
                value = new_initializer(result.graph, f"{value.name}.zeroed", array)
                node.replace_input_with(position, value)
    EliminateDead().run(result)
    return result


def _axes(node, role):
    transposed = "transB" in node.attributes and node.attributes["transB"].as_int()
    rows = {"Conv": 1, "ConvTranspose": 0, "Gemm": 1 if transposed else 0, "MatMul": -2}
    columns = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0 if transposed else 1, "MatMul": -1}
    return [(rows if role == "consumes" else columns)[node.op_type]]


@pytest.fixture
def zeroed():
    return _zeroed
