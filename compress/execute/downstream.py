"""Re-running only what lies behind a change: a model cut into tails that start from kept values."""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.execute.memory import give_back
from compress.execute.runtime import Samples
from compress.execute.session import Runner, with_outputs
from compress.graph.traversal import is_constant

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]

SEGMENTS = 8
KEPT_BYTES = 64 * 2**20
"""The most that kept values of one segment may take, over all samples."""


class Tail:
    """The part of a model from one cut to its outputs, with the cut's values for every sample."""

    def __init__(
        self, model: ir.Model, inputs: Sequence[str], outputs: Sequence[str], feeds: Samples
    ) -> None:
        self._model = model
        self._inputs = inputs
        self._outputs = outputs
        self._feeds = feeds

    def run(self, change: Callable[[ir.Model], object]) -> list[dict[str, Array]]:
        """The outputs behind the cut for every sample, with `change` applied to a copy."""
        graph = ir.convenience.extract(self._model.graph, self._inputs, self._outputs)
        graph.opset_imports.update(self._model.opset_imports)
        model = ir.Model(graph, ir_version=self._model.ir_version)
        change(model)
        runner = Runner(model, frugal=True, own=True)
        result = [runner({name: f[name] for name in runner.inputs}) for f in self._feeds]
        del runner
        give_back()
        return result


class Downstream:
    """A model with samples, prepared so that late changes cost little.

    Values at a cut are computed when its tail is opened and dropped when it is closed: one tail's
    worth of values is in memory at a time.
    """

    def __init__(self, model: ir.Model, samples: Samples, *, segments: int = SEGMENTS) -> None:
        self._model = model
        self._samples = samples
        self._nodes = list(model.graph)
        self._position = {str(n.name): i for i, n in enumerate(self._nodes)}
        self._produced = {
            str(v.name): i for i, node in enumerate(self._nodes) for v in node.outputs
        }
        count = max(1, min(segments, len(self._nodes) // 8))
        self._starts = sorted({i * len(self._nodes) // count for i in range(count)})

    def start_of_value(self, name: str) -> int:
        """The latest cut behind which the named value is still computed (or an input)."""
        return self._start(self._produced.get(name, 0))

    def start_of_node(self, name: str) -> int:
        """The latest cut before the named node."""
        return self._start(self._position[name])

    def _start(self, position: int) -> int:
        return self._starts[bisect.bisect_right(self._starts, position) - 1]

    @contextlib.contextmanager
    def tail(self, start: int) -> Iterator[Tail]:
        """The part of the model from the cut before node `start` on."""
        if start == 0:
            inputs = [str(v.name) for v in self._model.graph.inputs]
            outputs = [str(v.name) for v in self._model.graph.outputs]
            yield Tail(self._model, inputs, outputs, self._samples)
            return
        inputs = self._cut(start)
        outputs = [
            str(v.name)
            for v in self._model.graph.outputs
            if self._produced.get(str(v.name), -1) >= start
        ]
        given = {str(v.name) for v in self._model.graph.inputs}
        computed = [name for name in inputs if name not in given]
        runner = (
            Runner(with_outputs(self._model, computed), frugal=True, own=True) if computed else None
        )
        feeds: list[Feeds] = []
        size = 0
        for sample in self._samples:
            kept = {name: sample[name] for name in inputs if name in given}
            if runner is not None:
                kept.update(runner(sample))
            size += sum(np.asarray(a).nbytes for a in kept.values())
            if size > KEPT_BYTES and feeds:
                break
            feeds.append(kept)
        del runner
        give_back()
        yield Tail(self._model, inputs, outputs, feeds)

    def _cut(self, start: int) -> list[str]:
        """Values computed before `start` (or given) that nodes from `start` on read."""
        names: dict[str, None] = {}
        for node in self._nodes[start:]:
            for value in _all_inputs(node):
                name = str(value.name)
                if not is_constant(value) and self._produced.get(name, -1) < start:
                    names[name] = None
        return list(names)


def _all_inputs(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads, values captured by its subgraphs included."""
    for value in node.inputs:
        if value is not None:
            yield value
    for attribute in node.attributes.values():
        graphs = []
        if attribute.type == ir.AttributeType.GRAPH:
            graphs = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs = list(attribute.as_graphs())
        for graph in graphs:
            inside = {id(v) for n in graph for v in n.outputs} | {id(v) for v in graph.inputs}
            for inner in graph:
                yield from (v for v in _all_inputs(inner) if id(v) not in inside)
