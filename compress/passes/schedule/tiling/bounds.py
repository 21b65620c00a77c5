"""What every plan has to move behind a cut, and the room that it needs at least."""

from __future__ import annotations

from compress.passes.schedule.tiling.groups import TilingOptions
from compress.passes.schedule.tiling.operators import StripedGraph, StripedOperator
from compress.passes.schedule.tiling.rows import last_row, needed_rows
from compress.passes.schedule.tiling.sides import State


class Behind:
    """Lower bounds by cut, of a graph in its order.

    Weights are loaded, outputs are stored, and planes that are needed and not resident are loaded.
    """

    def __init__(self, graph: StripedGraph, options: TilingOptions) -> None:
        self.graph, self.options = graph, options
        count = len(graph.operators)
        self.fixed = [0] * (count + 1)
        for cut in range(count - 1, -1, -1):
            operator = graph.operators[cut]
            stores = sum(graph.moved_bytes(v) for v in operator.outputs if graph.planes[v].kept)
            self.fixed[cut] = self.fixed[cut + 1] + operator.weight_bytes + stores
        self.live = [self._live(cut) for cut in range(count + 1)]
        self.total = [
            fixed + sum(live.values()) for fixed, live in zip(self.fixed, self.live, strict=True)
        ]

    def _live(self, cut: int) -> dict[str, int]:
        """By plane that exists and is read behind the cut, bytes of the rows that are read."""
        graph = self.graph
        found: dict[str, int] = {}
        for name, readers in graph.consumers.items():
            if not readers or readers[-1] < cut or graph.producers.get(name, -1) >= cut:
                continue
            plane = graph.planes[name]
            rows = 0
            for reader in readers:
                operator = graph.operators[reader]
                if reader >= cut:
                    made = max(graph.wanted[v] for v in operator.outputs)
                    rows = max(rows, last_row(operator.kind, operator.window, made, plane.height))
            found[name] = rows * plane.row_bytes
        return found

    def least(self, cut: int, state: State) -> int:
        """Off-chip bytes behind a cut, from a state."""
        live = self.live[cut]
        return self.total[cut] - sum(live[name] for name, _ in state)

    def resident_bytes(self, state: State) -> int:
        """Room for what is resident."""
        return sum(self.options.room(self.graph.moved_bytes(name)) for name, _ in state)


def least_room(graph: StripedGraph, options: TilingOptions) -> tuple[int, str]:
    """The bytes that some operator needs in any order and any group, and that operator.

    Found at once, and a lower bound of `smallest_scratchpad`: one row of the output with the rows
    of the inputs that it needs, all of both where an operator needs everything, and a block of the
    weights.
    """
    needs = [(_least_room(graph, operator, options), operator.name) for operator in graph.operators]
    return max(needs, key=lambda need: need[0], default=(0, ""))


def _least_room(graph: StripedGraph, operator: StripedOperator, options: TilingOptions) -> int:
    whole = operator.kind == "whole"
    room = options.stream_bytes(operator)
    for name in operator.outputs:
        rows = graph.wanted[name] if whole else 1
        room += options.room(rows * graph.planes[name].row_bytes)
    middle = graph.wanted[operator.outputs[0]] // 2
    for name in operator.inputs:
        plane = graph.planes[name]
        made = (middle, middle + 1)
        low, high = needed_rows(operator.kind, operator.window, made, plane.height)
        room += options.room((high - low) * plane.row_bytes)
    return room
