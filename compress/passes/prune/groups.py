"""Coupling groups: the channels of a network that can only be removed together."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.passes.prune.coupling import (
    SINGLE,
    Couplings,
    Slot,
    Tensor,
    UnknownShapeError,
    reason_of,
)
from compress.passes.prune.rules import RULES

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One axis that loses indices when a unit of the group is removed.

    Attributes:
        value: name of the value or initialiser.
        axis: not negative.
        indices: (units, indices per unit) int64; row u goes with unit u. The rows are disjoint and
            sorted, and need not cover the axis: other groups may have the rest (Concat).
        constant: whether it is an initialiser.
        reader: (node, position of the input) for a vector, which each reader has to itself;
            None: all readers of the value lose the same.
    """

    value: str
    axis: int
    indices: Array = dataclasses.field(repr=False)
    constant: bool
    reader: tuple[str, int] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that go together wherever they appear; removing unit u removes row u everywhere.

    Attributes:
        name: of the first layer that produces the channels; `.2`, `.3`... are added where one layer
            is the first of several groups.
        channels: number of units that can be removed, one at a time; at least one must stay.
        granularity: output channels of the first producer per unit: 1 for plain convolutions, the
            head's columns for attention heads.
        producers: layers (and embeddings) whose output channels these are, in the graph's order.
        consumers: layers that read them as input channels.
        carriers: depthwise and grouped convolutions that lose whole groups: they do both.
        members: every axis concerned, constants and values.
        removable: whether units can be removed at all.
        reason: why not; empty for removable groups.
        exact: whether removing channels that are zero leaves the network's function as it is; not
            where they enter a mean or variance with others (LayerNormalization).
    """

    name: str
    channels: int
    granularity: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    carriers: tuple[str, ...]
    members: tuple[Member, ...] = dataclasses.field(repr=False)
    removable: bool
    reason: str = ""
    exact: bool = True

    def member(self, value: str, axis: int) -> Member | None:
        """The member that is this axis of this value or initialiser, if any."""
        found = (m for m in self.members if m.value == value and m.axis == axis)
        return next(found, None)


def find_groups(model: ir.Model) -> tuple[ChannelGroup, ...]:
    """The coupling groups of a canonical model, in the order of their first producers.

    The idea is that of DepGraph (Fang et al., CVPR 2023): removing an output channel of one layer
    forces the removal of what is added to it, read from it, normalised with it... We keep one
    label per *index* of every axis instead of one per layer, let each operator's rule say which
    labels are the same, and read the groups off the connected components. Offsets (Concat, Split),
    blocks (Flatten), attention heads and partial overlaps need no special case that way, and
    channels that go through different places of one layer form different groups.

    Groups that cannot be removed are listed as well, with the reason. Operators without a rule,
    graph inputs and outputs, axes of dynamic size and subgraphs block what they touch. Grouped
    convolutions lose whole groups, or equally many channels in every group (`whole_groups`).

    Args:
        model: in canonical form, shapes inferred; it is not changed.
    """
    exhausted: set[str] = set()
    carriers: dict[str, int] = {}
    while True:
        couplings = _couple(model, carriers)
        labels, reasons, inexact = couplings.components()
        retry = False
        for name, (count, atoms) in couplings.choices.items():
            if name in exhausted or (reasons[labels[atoms]] < 0).any():
                continue
            carriers[name] = carriers.get(name, 0) + 1
            if carriers[name] >= count:
                carriers[name] = 0
                exhausted.add(name)
            retry = True
        if not retry:
            break
    units = _units(couplings, labels)
    order = {str(node.name): i for i, node in enumerate(model.graph)}
    groups = [_group(couplings, order, u, labels, reasons, inexact) for u in units]
    found = sorted(
        ((key, group) for key, group in groups if group.producers), key=lambda item: item[0]
    )
    return tuple(_named(group for _, group in found))


def _couple(model: ir.Model, carriers: dict[str, int]) -> Couplings:
    """The couplings of all nodes, with blocks where something must stay."""
    c = Couplings(carriers)
    for value in model.graph.inputs:
        c.block_all(value, f"it is the model's input {value.name}")
    for value in model.graph.outputs:
        c.block_all(value, f"it is the model's output {value.name}")
    for node in model.graph:
        captured = list(_captured(node))
        operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        rule = None if captured else RULES.get(operator)
        c.begin_node()
        if rule is None:
            c.block_node(node, reason_of(node))
            for value in captured:
                c.block_all(value, reason_of(node))
            continue
        try:
            rule(c, node)
        except UnknownShapeError:
            c.block_node(node, f"shapes around {node.op_type} {node.name} are not known")
            continue
        c.end_node(node)
    return c


def _captured(node: ir.Node) -> Iterator[ir.Value]:
    """What the subgraphs of a node read, their own values included."""
    for attribute in node.attributes.values():
        graphs: Sequence[ir.Graph] = ()
        if attribute.type == ir.AttributeType.GRAPH:
            graphs = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs = list(attribute.as_graphs())
        for graph in graphs:
            yield from (v for v in graph.outputs if v is not None)
            for inner in graph:
                yield from (v for v in inner.inputs if v is not None)
                yield from _captured(inner)


def _units(c: Couplings, labels: Array) -> list[dict[tuple[Slot, int], Array]]:
    """Components that touch the same axes equally often, as (axis -> (units, per unit) indices).

    Only those that some layer produces. Rows are in the order of the component's first index on
    the first axis that it touches.
    """
    produced = np.zeros(c.count, bool)
    for (slot, axis), roles in c.roles.items():
        atoms = c.tensors[slot].atoms[axis]
        if atoms is not None and any(role == "produces" for role, _ in roles):
            produced[labels[atoms]] = True
    touched: dict[int, list[tuple[int, Array]]] = collections.defaultdict(list)
    axes: list[tuple[Slot, int]] = []
    for slot, tensor in c.tensors.items():
        for axis, atoms in enumerate(tensor.atoms):
            if atoms is None or not produced[labels[atoms]].any():
                continue
            found = np.flatnonzero(produced[labels[atoms]])
            axes.append((slot, axis))
            own = labels[atoms[found]]
            order = np.argsort(own, kind="stable")
            starts = np.flatnonzero(np.diff(own[order], prepend=-1))
            for label, indices in zip(
                own[order][starts], np.split(found[order], starts[1:]), strict=True
            ):
                touched[int(label)].append((len(axes) - 1, indices))
    alike: dict[tuple[tuple[int, int], ...], list[int]] = collections.defaultdict(list)
    for label, places in touched.items():
        alike[tuple((axis, len(indices)) for axis, indices in places)].append(label)
    return [
        {
            axes[axis]: np.stack([touched[label][place][1] for label in members])
            for place, (axis, _) in enumerate(signature)
        }
        for signature, members in alike.items()
    ]


def _group(
    c: Couplings,
    order: dict[str, int],
    unit: dict[tuple[Slot, int], Array],
    labels: Array,
    reasons: Array,
    inexact: Array,
) -> tuple[tuple[int, int], ChannelGroup]:
    """(sort key, group): by the first producer's place and its first output channel."""
    roles: dict[str, dict[str, int]] = {"produces": {}, "consumes": {}, "carries": {}}
    for (slot, axis), indices in unit.items():
        for role, node in c.roles.get((slot, axis), ()):
            roles[role].setdefault(node, int(indices.min()))
    producers = sorted(roles["produces"], key=order.__getitem__)
    first = producers[0] if producers else ""
    (slot, axis), indices = next(
        (item for item in unit.items() if ("produces", first) in c.roles.get(item[0], ())),
        next(iter(unit.items())),
    )
    arrangement = np.argsort(indices[:, 0], kind="stable")
    atoms = c.tensors[slot].atoms[axis]
    assert atoms is not None
    own = labels[atoms[indices[:, 0]]]
    why = reasons[own]
    removable = bool((why < 0).all()) and len(indices) > 1
    blocking = why[why >= 0]
    reason = "" if removable else (c.reasons[blocking.min()] if len(blocking) else SINGLE)
    group = ChannelGroup(
        name=first,
        channels=len(indices),
        granularity=indices.shape[1],
        producers=tuple(producers),
        consumers=tuple(sorted(roles["consumes"], key=order.__getitem__)),
        carriers=tuple(sorted(roles["carries"], key=order.__getitem__)),
        members=tuple(_members(c, unit, arrangement)),
        removable=removable,
        reason=reason,
        exact=not inexact[own].any(),
    )
    return (order.get(first, -1), int(indices.min())), group


def _members(
    c: Couplings, unit: dict[tuple[Slot, int], Array], arrangement: Array
) -> Iterator[Member]:
    for (slot, axis), indices in unit.items():
        tensor: Tensor = c.tensors[slot]
        rows = np.sort(indices[arrangement], axis=1).astype(np.int64)
        yield Member(slot.value, axis, rows, tensor.constant, slot.reader)


def _named(groups: Iterator[ChannelGroup]) -> Iterator[ChannelGroup]:
    """Numbers groups with the same first producer."""
    seen: collections.Counter[str] = collections.Counter()
    for group in groups:
        seen[group.name] += 1
        number = seen[group.name]
        yield group if number == 1 else dataclasses.replace(group, name=f"{group.name}.{number}")
