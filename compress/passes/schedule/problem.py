"""What a scratchpad is scheduled for: operators, the tensors between them, and plans.

A scratchpad is memory whose content the program decides. Operators run one at a time, each with
all of its inputs, outputs and workspace resident. What does not fit leaves to off-chip memory and
returns before it is used. A plan says when, and where everything lies.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from compress.errors import ModelError


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One value.

    Attributes:
        name: unique.
        bytes: that it occupies, at least 1.
        external: it is off chip from the start, as inputs of the network and weights that several
            operators read are. Loading it once is compulsory; it never has to be stored.
        kept: it has to be off chip in the end, as outputs of the network are. Storing it once is
            compulsory.
    """

    name: str
    bytes: int
    external: bool = False
    kept: bool = False


@dataclasses.dataclass(frozen=True)
class Share:
    """An input of an operator that may lie inside its output.

    Elementwise operators write over their input (offset 0); the parts of a concatenation lie one
    behind the other in it. Where the input is resident for the last time, its bytes and those of
    the output are the same memory.

    Attributes:
        input, output: tensors of the operator, by index.
        offset: of the input inside the output, in bytes.
    """

    input: int
    output: int
    offset: int = 0


@dataclasses.dataclass(frozen=True)
class Operator:
    """One step.

    Attributes:
        name: unique.
        inputs, outputs: tensors, by index; no tensor twice.
        workspace: bytes that it needs besides them while it runs: weights that nobody else reads,
            buffers of its own.
        streamed: compulsory off-chip bytes of its own (such weights).
        shares: inputs that may lie inside an output.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    workspace: int = 0
    streamed: int = 0
    shares: tuple[Share, ...] = ()


@dataclasses.dataclass(frozen=True)
class Graph:
    """Operators in a valid order (the one they came in), and their tensors.

    Raises:
        ModelError: an operator reads what nobody makes before it, two make the same tensor, or a
            size is not positive.
    """

    operators: tuple[Operator, ...]
    tensors: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        made: set[int] = {i for i, t in enumerate(self.tensors) if t.external}
        for tensor in self.tensors:
            if tensor.bytes < 1:
                raise ModelError(f"tensor {tensor.name} has {tensor.bytes} bytes")
        for operator in self.operators:
            for index in operator.inputs:
                if index not in made:
                    name = self.tensors[index].name
                    raise ModelError(
                        f"operator {operator.name} reads {name} before it is made: "
                        f"the graph has a cycle or is not in order"
                    )
            for index in operator.outputs:
                if index in made:
                    raise ModelError(f"tensor {self.tensors[index].name} is made twice")
                made.add(index)
        for index, tensor in enumerate(self.tensors):
            if index not in made:
                raise ModelError(f"tensor {tensor.name} is made by no operator")

    @functools.cached_property
    def producers(self) -> tuple[int | None, ...]:
        """By tensor, the operator that makes it; None for external ones."""
        result: list[int | None] = [None] * len(self.tensors)
        for number, operator in enumerate(self.operators):
            for index in operator.outputs:
                result[index] = number
        return tuple(result)

    @functools.cached_property
    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """By tensor, the operators that read it, in the graph's order."""
        result: list[list[int]] = [[] for _ in self.tensors]
        for number, operator in enumerate(self.operators):
            for index in operator.inputs:
                result[index].append(number)
        return tuple(tuple(readers) for readers in result)

    @functools.cached_property
    def predecessors(self) -> tuple[frozenset[int], ...]:
        """By operator, those that it waits for."""
        return tuple(
            frozenset(p for i in o.inputs if (p := self.producers[i]) is not None)
            for o in self.operators
        )

    @property
    def compulsory_bytes(self) -> int:
        """Off-chip bytes of any plan: each external tensor that is read is loaded once, each kept
        one is stored once, weights are streamed once."""
        loads = sum(t.bytes for i, t in enumerate(self.tensors) if t.external and self.consumers[i])
        stores = sum(t.bytes for t in self.tensors if t.kept and not t.external)
        return loads + stores + sum(o.streamed for o in self.operators)

    def working_set(self, operator: int) -> int:
        """Bytes that an operator needs to run at all, sharing left out."""
        own = self.operators[operator]
        return sum(self.tensors[i].bytes for i in (*own.inputs, *own.outputs)) + own.workspace

    @property
    def largest_working_set(self) -> int:
        """M_R: no plan without tiling works below it (below, less what operators share)."""
        return max((self.working_set(i) for i in range(len(self.operators))), default=0)


@dataclasses.dataclass(frozen=True)
class Stay:
    """One time that a tensor spends in the scratchpad.

    Attributes:
        tensor: by index.
        first, last: positions in the order, both included. It begins with the step that makes the
            tensor or, `loaded`, right before a step that reads it.
        loaded: from off-chip memory.
        address: of its first byte; None where addresses have not been assigned.
    """

    tensor: int
    first: int
    last: int
    loaded: bool
    address: int | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """An order, what is resident when, and what is known about how good that is.

    Attributes:
        order: operators by position.
        stays: of all tensors, by tensor and time. A tensor that comes back was stored right after
            its first stay, unless it is external.
        extra_bytes: off-chip bytes beyond the compulsory ones (as the method counts them; the
            replay counts again).
        bound: proven lower bound of them, over all orders; 0 if nothing is known.
        status: "optimal", "feasible" or "infeasible"; "unknown" if time ran out before anything
            was found.
        method: what found it.
        seconds: that it took.
        peak: highest address in use plus one; the largest sum of resident bytes where there are
            no addresses.
        workspaces: address of each operator's workspace, by operator, where addresses are
            assigned.
    """

    order: tuple[int, ...]
    stays: tuple[Stay, ...]
    extra_bytes: int
    bound: int = 0
    status: str = "feasible"
    method: str = ""
    seconds: float = 0.0
    peak: int = 0
    workspaces: tuple[int | None, ...] = ()

    @property
    def gap(self) -> float:
        """Share by which the plan may miss the optimum."""
        if self.extra_bytes <= self.bound:
            return 0.0
        return 1.0 - self.bound / self.extra_bytes

    @property
    def packed(self) -> bool:
        return all(stay.address is not None for stay in self.stays)


def extra_bytes(graph: Graph, stays: Sequence[Stay]) -> int:
    """Off-chip bytes beyond the compulsory ones.

    An external tensor's first load is compulsory. Any other one that is loaded was stored once
    before, which is compulsory only if it is kept.
    """
    loads: dict[int, int] = {}
    for stay in stays:
        if stay.loaded:
            loads[stay.tensor] = loads.get(stay.tensor, 0) + 1
    total = 0
    for index, count in loads.items():
        tensor = graph.tensors[index]
        if tensor.external:
            total += (count - 1) * tensor.bytes
        else:
            total += (count + (not tensor.kept)) * tensor.bytes
    return total
