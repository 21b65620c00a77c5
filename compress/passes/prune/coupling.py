"""Which indices of which axes can only be removed together, gathered operator by operator."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.graph.traversal import is_constant

Array = npt.NDArray[Any]

SINGLE = "an axis of size one cannot become shorter"
MISMATCH = "sizes that belong together differ"


@dataclasses.dataclass(frozen=True)
class Slot:
    """A tensor of the graph.

    Vectors among the constants are told apart by who reads them, since equal ones are shared
    between layers that have nothing to do with each other; each reader may get its own part.

    Attributes:
        value: name of the value or initialiser.
        reader: (node, position among its inputs) of such a vector, else None.
    """

    value: str
    reader: tuple[str, int] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A slot with its dimensions, numbers or names, and the atoms of each axis.

    An atom stands for one index along one axis; axes of dynamic size have none (None).
    """

    slot: Slot
    dims: tuple[int | str, ...]
    atoms: tuple[Array | None, ...]
    constant: bool

    def size(self, axis: int) -> int | None:
        """The number of indices along an axis, None if it is dynamic."""
        dim = self.dims[axis]
        return dim if isinstance(dim, int) else None


class UnknownShapeError(Exception):
    """A tensor's rank is not known, so that nothing can be said about its axes."""


class Couplings:
    """Atoms, the links between them, and what must not be removed.

    Rules (see `rules`) call `link`, `block` and the like for one node at a time; axes of the
    node's tensors that its rule says nothing about are blocked.

    Attributes:
        carriers: node name -> which axis carries the channels where a Reshape leaves a choice.
        choices: node name -> (number of axes to choose from, atoms of the axis that is cut up).
    """

    def __init__(self, carriers: Mapping[str, int]) -> None:
        self.carriers = carriers
        self.choices: dict[str, tuple[int, Array]] = {}
        self.tensors: dict[Slot, Tensor] = {}
        self.roles: dict[tuple[Slot, int], list[tuple[str, str]]] = {}
        self.reasons: list[str] = []
        self._reason_of: list[Array] = []
        self._inexact: list[Array] = []
        self._links: list[tuple[Array, Array]] = []
        self._count = 0
        self._blocked = np.zeros(1024, bool)
        self._touched: set[tuple[Slot, int]] = set()

    @property
    def count(self) -> int:
        return self._count

    def tensor(self, value: ir.Value, reader: tuple[str, int] | None = None) -> Tensor:
        """The tensor of a value, made when it is first asked for.

        Raises:
            UnknownShapeError: its rank is not known.
        """
        constant = value.const_value if is_constant(value) else None
        fixed = () if constant is None else tuple(constant.shape.numpy())
        vector = constant is not None and constant.size == max(fixed, default=1)
        slot = Slot(str(value.name), reader if vector else None)
        if slot in self.tensors:
            return self.tensors[slot]
        if constant is not None:
            dims: tuple[int | str, ...] = fixed
        elif value.shape is None:
            raise UnknownShapeError
        else:
            dims = tuple(
                d if isinstance(d, int) else str(d.value or f"?{value.name}:{i}")
                for i, d in enumerate(value.shape)
            )
        tensor = Tensor(slot, dims, tuple(self._new_atoms(d) for d in dims), constant is not None)
        self.tensors[slot] = tensor
        for axis, dim in enumerate(dims):
            if dim == 1:
                self.block(tensor, axis, SINGLE)
        return tensor

    def _new_atoms(self, dim: int | str) -> Array | None:
        if not isinstance(dim, int):
            return None
        atoms = np.arange(self._count, self._count + dim)
        self._count += dim
        if self._count > len(self._blocked):
            grown = np.zeros(2 * self._count, bool)
            grown[: len(self._blocked)] = self._blocked
            self._blocked = grown
        return atoms

    def input(self, node: ir.Node, position: int) -> Tensor | None:
        """The tensor that a node reads; None if the input is absent."""
        value = node.inputs[position] if position < len(node.inputs) else None
        return None if value is None else self.tensor(value, (str(node.name), position))

    def output(self, node: ir.Node, position: int = 0) -> Tensor:
        return self.tensor(node.outputs[position])

    def link(
        self,
        one: Tensor,
        one_axis: int,
        other: Tensor,
        other_axis: int,
        indices: tuple[Array, Array] | None = None,
    ) -> None:
        """Index k of one axis goes with index k of the other, or indices[0][k] with indices[1][k].

        Where one of the axes is dynamic, the other is blocked.
        """
        one_axis, other_axis = one_axis % len(one.dims), other_axis % len(other.dims)
        first, second = one.atoms[one_axis], other.atoms[other_axis]
        if first is None or second is None:
            return
        if indices is not None:
            first, second = first[indices[0]], second[indices[1]]
        if len(first) != len(second):
            self.block(one, one_axis, MISMATCH)
            self.block(other, other_axis, MISMATCH)
            return
        self._touched |= {(one.slot, one_axis), (other.slot, other_axis)}
        self._links.append((first, second))
        # rules look at what is blocked so far: blocks travel with the flow of the graph
        either = self._blocked[first] | self._blocked[second]
        self._blocked[first[either]] = self._blocked[second[either]] = True

    def together(self, tensor: Tensor, axis: int, classes: Array) -> None:
        """Indices of an axis with the same number in `classes` go together."""
        axis %= len(tensor.dims)
        atoms = tensor.atoms[axis]
        if atoms is not None:
            _, first, inverse = np.unique(classes, return_index=True, return_inverse=True)
            self.link(tensor, axis, tensor, axis, (np.arange(len(atoms)), first[inverse]))

    def block(self, tensor: Tensor, axis: int, reason: str, indices: Array | None = None) -> None:
        """These indices (default: all) of an axis must not be removed."""
        axis %= len(tensor.dims)
        atoms = tensor.atoms[axis]
        self._touched.add((tensor.slot, axis))
        if atoms is None:
            return
        atoms = atoms if indices is None else atoms[indices]
        self.reasons.append(reason)
        self._reason_of.append(atoms)
        self._blocked[atoms] = True

    def allow(self, tensor: Tensor, axis: int) -> None:
        """The node does not mind what is removed along this axis."""
        self._touched.add((tensor.slot, axis % len(tensor.dims)))

    def inexact(self, tensor: Tensor, axis: int) -> None:
        """Removing zeros along this axis changes what the node computes for the others."""
        atoms = tensor.atoms[axis % len(tensor.dims)]
        if atoms is not None:
            self._inexact.append(atoms)

    def role(self, role: str, node: ir.Node, tensor: Tensor, axis: int) -> None:
        """`node` "produces", "consumes" or "carries" the channels along this axis of a weight."""
        key = (tensor.slot, axis % len(tensor.dims))
        self.roles.setdefault(key, []).append((role, str(node.name)))

    def blocked(self, tensor: Tensor, axis: int) -> bool:
        """Whether nothing along this axis can be removed, as far as is known by now."""
        atoms = tensor.atoms[axis]
        return atoms is None or bool(self._blocked[atoms].all())

    def block_all(self, value: ir.Value, reason: str) -> None:
        """Every axis of a value is blocked; does nothing if its rank is unknown."""
        if value.shape is not None or is_constant(value):
            tensor = self.tensor(value)
            for axis in range(len(tensor.dims)):
                self.block(tensor, axis, reason)

    def begin_node(self) -> None:
        """Forgets which axes the last rule spoke about."""
        self._touched.clear()

    def end_node(self, node: ir.Node) -> None:
        """Blocks the axes of the node's tensors that its rule did not speak about."""
        for tensor in self._tensors_of(node):
            for axis in range(len(tensor.dims)):
                if (tensor.slot, axis) not in self._touched:
                    self.block(tensor, axis, reason_of(node))

    def block_node(self, node: ir.Node, reason: str) -> None:
        """Blocks every axis of every tensor that the node reads or writes."""
        for tensor in self._tensors_of(node):
            for axis in range(len(tensor.dims)):
                self.block(tensor, axis, reason)

    def _tensors_of(self, node: ir.Node) -> Iterator[Tensor]:
        for position, value in enumerate(node.inputs):
            if value is not None and (is_constant(value) or value.shape is not None):
                yield self.tensor(value, (str(node.name), position))
        for value in node.outputs:
            if value.name and value.shape is not None:
                yield self.tensor(value)

    def components(self) -> tuple[Array, Array, Array]:
        """(labels, reasons, inexact): per atom, the smallest atom it goes with; per label, the
        position in `self.reasons` of why it is blocked (-1: it is not), and whether it is inexact.
        """
        labels = np.arange(self._count)
        if self._links:
            one = np.concatenate([a for a, _ in self._links])
            other = np.concatenate([b for _, b in self._links])
            labels = connected(self._count, one, other)
        reasons = np.full(self._count, -1)
        # backwards, so that the first reason in the order of the graph stands
        for number in range(len(self.reasons) - 1, -1, -1):
            reasons[labels[self._reason_of[number]]] = number
        inexact = np.zeros(self._count, bool)
        for atoms in self._inexact:
            inexact[labels[atoms]] = True
        return labels, reasons, inexact


def reason_of(node: ir.Node) -> str:
    """How a blocked group names the operator that blocks it."""
    operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return f"{operator} {node.name} needs all of them"


def connected(count: int, one: Array, other: Array) -> Array:
    """The smallest member of each of `count` nodes' component; edges are (one[k], other[k])."""
    labels = np.arange(count)
    while True:
        low = np.minimum(labels[one], labels[other])
        high = np.maximum(labels[one], labels[other])
        if (low == high).all():
            return labels
        np.minimum.at(labels, high, low)
        while (labels[labels] != labels).any():
            labels = labels[labels]
