"""What stripes are planned for: operators that say which rows of their inputs they need."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Literal

from compress.errors import ModelError
from compress.passes.schedule.tiling.rows import ROW_BY_ROW, Window, last_row


@dataclasses.dataclass(frozen=True)
class Plane:
    """One value: (channels, height, width), striped along its height.

    Attributes:
        name: unique; the value's in the model.
        channels, height, width: a value that is not (1, C, H, W) is one row: (size, 1, 1).
        element_bytes: of each element.
        external: an input of the network: off chip from the start.
        kept: an output of the network: off chip in the end.
    """

    name: str
    channels: int
    height: int
    width: int
    element_bytes: int = 1
    external: bool = False
    kept: bool = False

    @property
    def row_bytes(self) -> int:
        return self.channels * self.width * self.element_bytes

    @property
    def bytes(self) -> int:
        return self.row_bytes * self.height


@dataclasses.dataclass(frozen=True)
class StripedOperator:
    """One step of the network, as far as its rows and bytes go.

    Attributes:
        name: unique; the node's in the model.
        kind: "window": row r of the output needs the rows that the window covers; "pointwise":
            it needs row r of each input (of an input that has one row, that one): elementwise
            operators, and concatenations of channels; "whole": everything needs everything.
        inputs, outputs: names of planes, each once. Only "whole" operators have several outputs.
        window: of kind "window".
        weights: (name, bytes) of the constants that it loads. Several operators may name the same.
        blocks: number of pieces in which weights can be streamed, as output channels are computed.
    """

    name: str
    kind: Literal["window", "pointwise", "whole"]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    window: Window = ROW_BY_ROW
    weights: tuple[tuple[str, int], ...] = ()
    blocks: int = 1

    @property
    def weight_bytes(self) -> int:
        return sum(size for _, size in self.weights)


@dataclasses.dataclass(frozen=True)
class StripedGraph:
    """Operators in a valid order, and the planes between them.

    Raises:
        ModelError: an operator reads what nobody makes before it, or a size is not positive.
    """

    operators: tuple[StripedOperator, ...]
    planes: Mapping[str, Plane]

    def __post_init__(self) -> None:
        made = {name for name, plane in self.planes.items() if plane.external}
        for plane in self.planes.values():
            if min(plane.channels, plane.height, plane.width, plane.element_bytes) < 1:
                raise ModelError(f"tensor {plane.name} has no elements")
        for operator in self.operators:
            for name in operator.inputs:
                if name not in made:
                    raise ModelError(
                        f"operator {operator.name} reads {name} before it is made: "
                        "the graph has a cycle or is not in order"
                    )
            made.update(operator.outputs)

    @functools.cached_property
    def consumers(self) -> Mapping[str, tuple[int, ...]]:
        """By plane, the positions of the operators that read it."""
        result: dict[str, list[int]] = {name: [] for name in self.planes}
        for position, operator in enumerate(self.operators):
            for name in operator.inputs:
                result[name].append(position)
        return {name: tuple(readers) for name, readers in result.items()}

    @functools.cached_property
    def producers(self) -> Mapping[str, int]:
        """By plane, the position of the operator that makes it; external ones are missing."""
        return {name: i for i, operator in enumerate(self.operators) for name in operator.outputs}

    @functools.cached_property
    def wanted(self) -> Mapping[str, int]:
        """By plane, how many of its rows anybody needs, from the first one on.

        A convolution of stride 2 may leave out the last row. It is never computed or moved.
        """
        result = {name: plane.height if plane.kept else 0 for name, plane in self.planes.items()}
        for operator in reversed(self.operators):
            if operator.kind == "whole" or not any(self.consumers[v] for v in operator.outputs):
                result.update((v, self.planes[v].height) for v in operator.outputs)
            for name in operator.inputs:
                rows = max(result[v] for v in operator.outputs)
                needed = last_row(operator.kind, operator.window, rows, self.planes[name].height)
                result[name] = max(result[name], needed)
        return result

    def moved_bytes(self, name: str) -> int:
        """Bytes of the rows that anybody needs: what the plane takes in the scratchpad as a whole,
        and what one load or store of it costs."""
        return self.wanted[name] * self.planes[name].row_bytes

    @functools.cached_property
    def compulsory_bytes(self) -> int:
        """Off-chip bytes of any plan: inputs and weights are loaded once, outputs stored once."""
        moved = sum(
            self.moved_bytes(name)
            for name, plane in self.planes.items()
            if (plane.external and self.consumers[name]) or (plane.kept and not plane.external)
        )
        weights = {name: size for operator in self.operators for name, size in operator.weights}
        return moved + sum(weights.values())

    def working_set(self, position: int) -> int:
        """Bytes of all inputs, outputs and weights of an operator."""
        operator = self.operators[position]
        planes = sum(self.planes[v].bytes for v in (*operator.inputs, *operator.outputs))
        return planes + operator.weight_bytes

    def reordered(self, order: tuple[int, ...]) -> StripedGraph:
        """The same graph with its operators in another order."""
        return StripedGraph(tuple(self.operators[i] for i in order), self.planes)
