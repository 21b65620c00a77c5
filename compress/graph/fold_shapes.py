"""Follow shapes through the integer arithmetic that exporters put around Reshape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from compress.graph.base import Pass
from compress.graph.order import all_graphs
from compress.graph.rewrite import (
    Names,
    add_initializer,
    initializer_tensor,
    input_of,
    remove_nodes,
    replace_value,
    small_integers,
)
from compress.graph.traversal import attribute_int, attribute_ints, is_op

Entry = int | str | None
"""A number, a symbol that always means the same number, or unknown."""

_LONGEST = 64


@dataclass(frozen=True)
class IntTensor:
    """An integer scalar or vector of which some entries are known."""

    entries: tuple[Entry, ...]
    is_scalar: bool

    @property
    def numbers(self) -> tuple[int, ...] | None:
        """All entries, if every one is a number."""
        known = tuple(e for e in self.entries if isinstance(e, int))
        return known if len(known) == len(self.entries) else None


@dataclass(frozen=True)
class FoldShapes(Pass):
    """Shape arithmetic over known dimensions becomes constants, also where others are dynamic.

    Given:  `%x:f32[N,8,16]`, `%s = Shape(%x)`, `%n = Gather(%s, 0)`, `%t = Concat(%n, {128})`,
            `%y = Reshape(%x, %t)`
    Result: `%y = Reshape(%x, {0, 128})`

    1. What Shape, Size, Gather, Slice, Concat, Squeeze, Unsqueeze, Reshape, Cast and integer
       arithmetic make of known numbers is a constant.
    2. A Reshape target with one dynamic entry gets -1 for it; entries that equal the input's
       dimension of the same position get 0.
    3. An Expand target whose dynamic entries equal the input's dimensions gets 1 for them.
    """

    name: ClassVar[str] = "fold-shapes"

    def run(self, model: ir.Model) -> bool:
        """Fold in every graph; shapes are inferred and the graphs in topological order."""
        known: dict[ir.Value, IntTensor] = {}
        names = Names(model)
        changed = False
        for graph in all_graphs(model.graph):
            for node in list(graph):
                rule = _RULES.get(node.op_type)
                if rule is not None and is_op(node, node.op_type):
                    found = rule(node, known)
                    if found is not None and len(found.entries) <= _LONGEST:
                        known[node.outputs[0]] = found
                        changed |= _become_constant(node, found)
                elif is_op(node, "Reshape", "Expand"):
                    changed |= _fix_target(node, known, names)
                if is_op(node, "Reshape") and node.graph is not None:
                    found = _reshaped(node, known)
                    if found is not None:
                        known[node.outputs[0]] = found
                        changed |= _become_constant(node, found)
        return changed


def _become_constant(node: ir.Node, found: IntTensor) -> bool:
    numbers, output = found.numbers, node.outputs[0]
    if numbers is None or output.is_graph_output() or output.dtype is None:
        return False
    graph, name, dtype = node.graph, output.name or "", output.dtype.numpy()
    assert graph is not None
    if dtype.kind not in "iu" or any(not _fits(number, dtype) for number in numbers):
        return False
    array = np.asarray(numbers, dtype=dtype)
    output.name = None
    value = add_initializer(graph, name, array.reshape(()) if found.is_scalar else array)
    value.metadata_props.update(output.metadata_props)
    replace_value(output, value, node)
    remove_nodes([node])
    return True


def _fits(number: int, dtype: np.dtype[np.integer]) -> bool:
    return bool(np.iinfo(dtype).min <= number <= np.iinfo(dtype).max)


def _fix_target(node: ir.Node, known: dict[ir.Value, IntTensor], names: Names) -> bool:
    x, target = input_of(node, 0), input_of(node, 1)
    if x is None or target is None or initializer_tensor(target) is not None:
        return False
    wanted = known.get(target)
    if wanted is None or wanted.is_scalar:
        return False
    dims = dimensions(x)
    if is_op(node, "Reshape"):
        constant = reshape_target(wanted.entries, dims)
    else:
        constant = _expand_target(wanted.entries, dims)
    if constant is None or node.graph is None:
        return False
    if attribute_int(node, "allowzero", 0):
        if 0 in wanted.entries:
            return False
        # From here on a 0 copies.
        del node.attributes["allowzero"]
    name = names.value(f"{node.outputs[0].name}/shape")
    node.replace_input_with(1, add_initializer(node.graph, name, np.asarray(constant, np.int64)))
    return True


def reshape_target(wanted: tuple[Entry, ...], dims: tuple[Entry, ...] | None) -> list[int] | None:
    """A constant target that reshapes `dims` to `wanted`; None where one cannot say it."""
    target: list[int] = []
    for position, entry in enumerate(wanted):
        here = dims[position] if dims is not None and position < len(dims) else None
        if isinstance(entry, int):
            target.append(entry)
        elif entry is not None and entry == here:
            target.append(0)
        else:
            target.append(-1)
    return target if target.count(-1) <= 1 else None


def _expand_target(wanted: tuple[Entry, ...], dims: tuple[Entry, ...] | None) -> list[int] | None:
    if dims is None:
        return None
    target: list[int] = []
    for position, entry in enumerate(wanted):
        axis = position - (len(wanted) - len(dims))
        here = dims[axis] if axis >= 0 else None
        if isinstance(entry, int):
            target.append(entry)
        elif entry is not None and entry == here:
            target.append(1)
        else:
            return None
    return target


def dimensions(value: ir.Value | None) -> tuple[Entry, ...] | None:
    """The dimensions of `value` as far as they are derived; None where not even the rank is."""
    if value is None or value.shape is None:
        return None
    # What a file declares of its outputs is a claim, not a derivation.
    trusted = not value.is_graph_output()
    return tuple(
        d if isinstance(d, int) else (str(d.value) if trusted and d.value else None)
        for d in value.shape
    )


def _entries(value: ir.Value | None, known: dict[ir.Value, IntTensor]) -> IntTensor | None:
    if value is None:
        return None
    if value in known:
        return known[value]
    array = small_integers(value, _LONGEST)
    if array is None or array.ndim > 1:
        return None
    return IntTensor(tuple(int(e) for e in array.ravel()), array.ndim == 0)


Known = dict[ir.Value, IntTensor]


def _shape(node: ir.Node, known: Known) -> IntTensor | None:
    dims = dimensions(input_of(node, 0))
    if dims is None:
        return None
    end = node.attributes.get("end")
    start = attribute_int(node, "start", 0)
    return IntTensor(dims[slice(start, None if end is None else end.as_int())], False)


def _size(node: ir.Node, known: Known) -> IntTensor | None:
    dims = dimensions(input_of(node, 0))
    numbers = None if dims is None else IntTensor(dims, False).numbers
    return None if numbers is None else IntTensor((int(np.prod(numbers)),), True)


def _gather(node: ir.Node, known: Known) -> IntTensor | None:
    data, at = (_entries(input_of(node, i), known) for i in (0, 1))
    if data is None or at is None or at.numbers is None or data.is_scalar:
        return None
    size = len(data.entries)
    if any(not -size <= i < size for i in at.numbers):
        return None
    return IntTensor(tuple(data.entries[i] for i in at.numbers), at.is_scalar)


def _slice(node: ir.Node, known: Known) -> IntTensor | None:
    data = _entries(input_of(node, 0), known)
    if data is None or data.is_scalar:
        return None
    bounds = [_bound(node, known, i, name) for i, name in ((1, "starts"), (2, "ends"))]
    step = 1 if input_of(node, 4) is None else _bound(node, known, 4, "steps")
    if bounds[0] is None or bounds[1] is None or step != 1:
        return None
    return IntTensor(data.entries[bounds[0] : bounds[1]], False)


def _bound(node: ir.Node, known: Known, index: int, attribute: str) -> int | None:
    """One number that is input `index`, or before opset 10 an attribute."""
    old_form = attribute_ints(node, attribute)
    found = _entries(input_of(node, index), known)
    numbers = old_form if found is None else found.numbers
    return numbers[0] if numbers is not None and len(numbers) == 1 else None


def _concat(node: ir.Node, known: Known) -> IntTensor | None:
    parts = [_entries(v, known) for v in node.inputs]
    entries: list[Entry] = []
    for value, part in zip(node.inputs, parts, strict=True):
        if part is not None and not part.is_scalar:
            entries.extend(part.entries)
        elif value is not None and value.shape is not None and len(value.shape) == 1:
            # Nothing is known but how many there are.
            length = value.shape[0]
            if not isinstance(length, int) or length > _LONGEST:
                return None
            entries.extend([None] * length)
        else:
            return None
    if node.outputs[0].dtype not in (ir.DataType.INT64, ir.DataType.INT32):
        return None
    return IntTensor(tuple(entries), False)


def _squeeze(node: ir.Node, known: Known) -> IntTensor | None:
    data = _entries(input_of(node, 0), known)
    return IntTensor(data.entries, True) if data is not None and len(data.entries) == 1 else None


def _unsqueeze(node: ir.Node, known: Known) -> IntTensor | None:
    data = _entries(input_of(node, 0), known)
    one_axis = node.outputs[0].shape is not None and len(node.outputs[0].shape) == 1
    return IntTensor(data.entries, False) if data is not None and one_axis else None


def _cast(node: ir.Node, known: Known) -> IntTensor | None:
    to = attribute_int(node, "to", 0)
    if to not in (ir.DataType.INT64.value, ir.DataType.INT32.value):
        return None
    return _entries(input_of(node, 0), known)


def _arithmetic(compute: Callable[[int, int], int | None]) -> Callable[..., IntTensor | None]:
    def rule(node: ir.Node, known: Known) -> IntTensor | None:
        left, right = (_entries(input_of(node, i), known) for i in (0, 1))
        if left is None or right is None:
            return None
        count = max(len(left.entries), len(right.entries))
        if not all(len(side.entries) in (1, count) and side.entries for side in (left, right)):
            return None
        pairs = zip(
            left.entries * (count // len(left.entries)),
            right.entries * (count // len(right.entries)),
            strict=True,
        )
        entries = [
            compute(a, b) if isinstance(a, int) and isinstance(b, int) else None for a, b in pairs
        ]
        # What overflows is left to the runtime.
        limit = np.iinfo(np.int64)
        return IntTensor(
            tuple(e if e is None or limit.min <= e <= limit.max else None for e in entries),
            left.is_scalar and right.is_scalar,
        )

    return rule


def _divided(a: int, b: int) -> int | None:
    # ONNX truncates towards zero; only where that and flooring agree is the answer taken.
    return a // b if b > 0 and a >= 0 else None


def _reshaped(node: ir.Node, known: Known) -> IntTensor | None:
    """A Reshape of an integer vector to a scalar or to a vector."""
    data = _entries(input_of(node, 0), known)
    target = _entries(input_of(node, 1), known)
    if data is None or target is None:
        return None
    if not target.entries:
        return IntTensor(data.entries, True)
    if target.entries in ((-1,), (len(data.entries),)):
        return IntTensor(data.entries, False)
    return None


_RULES: Mapping[str, Callable[[ir.Node, Known], IntTensor | None]] = {
    "Add": _arithmetic(lambda a, b: a + b),
    "Cast": _cast,
    "Concat": _concat,
    "Div": _arithmetic(_divided),
    "Gather": _gather,
    "Mul": _arithmetic(lambda a, b: a * b),
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _arithmetic(lambda a, b: a - b),
    "Unsqueeze": _unsqueeze,
}
