"""A Model as a torch module."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch

from compress.errors import ModelError, UsageError
from compress.execute.differentiable.registry import (
    Attributes,
    Mode,
    find_operator,
    refusal,
    to_ir,
    to_torch,
)
from compress.graph.order import node_label, shown, topological_order
from compress.graph.traversal import is_op

FLOATS = frozenset(
    {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}
)
STATISTICS = (3, 4)
"""The inputs of BatchNormalization that training updates without a gradient."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One node, without its place in a graph. Names are None where an input or output is absent."""

    label: str
    compute: Callable[..., Any]
    attributes: Attributes
    inputs: tuple[str | None, ...]
    outputs: tuple[str | None, ...]


Plan = tuple[tuple[Step, tuple[str, ...]], ...]
"""Steps in order, each with the values that nobody needs after it."""


def unsupported(model: ir.Model) -> list[ir.Node]:
    """The nodes of the main graph that `TorchModel` cannot run, in the graph's order."""
    return [node for node in model.graph if refusal(node) is not None]


class TorchModel(torch.nn.Module):  # type: ignore[misc]
    """A canonical Model as a torch module; its float initialisers are parameters.

    Outputs agree with onnxruntime's up to rounding. Float initialisers with at least one dimension
    are parameters, all others are buffers, so `.double()` and `.to(device)` move everything. After
    `.double()`, FLOAT stands for float64 in the whole graph, casts included.

    In `train()` mode BatchNormalization normalises by the batch's statistics and updates its
    running ones, which are buffers, and Dropout drops. Subgraphs (If, Loop, Scan) do not run.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __init__(self, model: ir.Model, *, trainable: Collection[str] | None = None) -> None:
        """Copies the initialisers; `model` is not kept.

        Args:
            trainable: names of float initialisers that require gradients; by default all with at
                least one dimension, but for the running statistics of batch normalisations.

        Raises:
            ModelError: an operator, or what one of its attributes asks for, is not supported.
            UsageError: `trainable` names something else than a float initialiser that is read.
        """
        super().__init__()
        self.inputs = tuple(str(value.name) for value in model.graph.inputs)
        self.outputs = tuple(str(value.name) for value in model.graph.outputs)
        self._mode = Mode()
        self._steps = tuple(self._step(node) for node in topological_order(model.graph))
        self._producers = {
            name: index
            for index, step in enumerate(self._steps)
            for name in step.outputs
            if name is not None
        }
        self._plans: dict[tuple[tuple[str, ...], frozenset[str]], Plan] = {}
        self._add_initializers(model, trainable)
        # follows the module's dtype, and so tells what FLOAT stands for
        self.register_buffer("_floats", torch.zeros(()), persistent=False)
        self.eval()

    def _step(self, node: ir.Node) -> Step:
        reason, found = refusal(node), find_operator(node)
        if reason is not None or found is None:
            raise ModelError(f"{node_label(node)} cannot be trained or differentiated: {reason}")
        return Step(
            node_label(node),
            found.compute,
            Attributes(node, self._mode),
            tuple(None if value is None else _name(value) for value in node.inputs),
            tuple(_name(value) for value in node.outputs),
        )

    def _add_initializers(self, model: ir.Model, trainable: Collection[str] | None) -> None:
        statistics = {
            str(value.name)
            for node in model.graph
            if is_op(node, "BatchNormalization")
            for value in (node.inputs[index] for index in STATISTICS)
            if value is not None
        }
        self._parameters_of: dict[str, int] = {}
        self._buffers_of: dict[str, str] = {}
        self._statistics: list[str] = []
        self._weights = torch.nn.ParameterList()
        unknown = dict.fromkeys(trainable or ())
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            if tensor is None or not (value.uses() or value.is_graph_output()):
                continue
            data = to_torch(tensor)
            learns = tensor.dtype in FLOATS and name not in statistics
            if learns and (data.ndim > 0 or name in unknown):
                self._parameters_of[name] = len(self._weights)
                wanted = trainable is None or name in unknown
                self._weights.append(torch.nn.Parameter(data, requires_grad=wanted))
                unknown.pop(name, None)
            else:
                self._buffers_of[name] = f"_constant_{len(self._buffers_of)}"
                self.register_buffer(self._buffers_of[name], data)
                if name in statistics:
                    self._statistics.append(name)
        if unknown:
            listed = ", ".join(shown(name) for name in unknown)
            raise UsageError(f"no float initialiser that a gradient could change: {listed}")

    def parameter(self, name: str) -> torch.nn.Parameter:
        """The parameter of the initialiser called `name`.

        Raises:
            KeyError: there is none: it is no float, a scalar, or a running statistic.
        """
        return self._weights[self._parameters_of[name]]

    def _constant(self, name: str) -> torch.Tensor:
        if name in self._parameters_of:
            return self.parameter(name)
        return self._buffers[self._buffers_of[name]]

    def forward(
        self, feeds: Mapping[str, torch.Tensor], outputs: Sequence[str] | None = None
    ) -> dict[str, torch.Tensor]:
        """The values named, computed from `feeds`.

        Only the nodes that lie between the two run, and values are dropped after their last use,
        but for what a gradient needs.

        Args:
            feeds: tensors by name. They may stand for any values of the main graph, which are then
                not computed, and for initialisers, which are then not read.
            outputs: names of any values of the main graph; by default the graph's outputs.

        Raises:
            UsageError: no such output, or an input that it needs is not in `feeds`.
            ModelError: a node refuses its inputs.
        """
        names = tuple(self.outputs if outputs is None else outputs)
        self._mode.training = self.training
        self._mode.floats = self._floats.dtype
        key = (names, frozenset(feeds))
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._planned(names, feeds)
        values = dict(feeds)
        for step, freed in plan:
            arguments = [
                None if name is None else self._value(values, name) for name in step.inputs
            ]
            for name, result in zip(step.outputs, _results(step, arguments), strict=False):
                # of the outputs of one node, some may be fed and others not
                if name is not None and name not in feeds:
                    values[name] = result
            del arguments
            for name in freed:
                values.pop(name, None)
        return {name: self._value(values, name) for name in names}

    def _value(self, values: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
        found = values.get(name)
        return self._constant(name) if found is None else found

    def _planned(self, names: tuple[str, ...], feeds: Collection[str]) -> Plan:
        needed: set[int] = set()
        waiting, seen = list(names), set(feeds)
        while waiting:
            name = waiting.pop()
            if name in seen or name in self._parameters_of or name in self._buffers_of:
                continue
            seen.add(name)
            producer = self._producers.get(name)
            if producer is None:
                kind = "the input" if name in self.inputs else "a value called"
                raise UsageError(f"there is nothing to compute {kind} {shown(name)} from")
            if producer not in needed:
                needed.add(producer)
                waiting.extend(name for name in self._steps[producer].inputs if name is not None)
        steps = [self._steps[index] for index in sorted(needed)]
        return tuple(zip(steps, _freed_after(steps, set(names) | set(feeds)), strict=True))

    def write_back(self, model: ir.Model) -> None:
        """Puts what training changes into the initialisers of `model` that have the same names.

        That is parameters that require gradients, and the running statistics of batch
        normalisations. Dtypes stay those of `model`; tensors are new, never written in place.

        Raises:
            ModelError: `model` lacks one of the initialisers, or has another shape for it.
        """
        changed = [n for n in self._parameters_of if self.parameter(n).requires_grad]
        for name in (*changed, *self._statistics):
            initializer, values = model.graph.initializers.get(name), self._constant(name)
            tensor = None if initializer is None else initializer.const_value
            if initializer is None or tensor is None:
                raise ModelError(f"the model has no initialiser {shown(name)} to write back to")
            if tuple(tensor.shape.numpy()) != tuple(values.shape):
                raise ModelError(
                    f"the initialiser {shown(name)} has another shape than was trained"
                )
            initializer.const_value = to_ir(values, tensor.dtype, name)


def _name(value: ir.Value) -> str | None:
    return value.name or None


def _results(step: Step, arguments: list[torch.Tensor | None]) -> Sequence[torch.Tensor]:
    try:
        result = step.compute(step.attributes, *arguments)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{step.label} does not fit its inputs: {reason}") from error
    return result if isinstance(result, tuple | list) else (result,)


def _freed_after(steps: Sequence[Step], kept: Collection[str]) -> Iterator[tuple[str, ...]]:
    """For each step the values, computed so far, that no later one reads; never those `kept`."""
    last: dict[str, int] = {}
    for index, step in enumerate(steps):
        # an output that nobody reads goes at once
        last.update((name, index) for name in step.outputs if name is not None)
        last.update((name, index) for name in step.inputs if name in last)
    freed: list[list[str]] = [[] for _ in steps]
    for name, index in last.items():
        if name not in kept:
            freed[index].append(name)
    yield from map(tuple, freed)
