"""What guides a recovery: inner values to be learned besides the outputs, layers to leave alone."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

from compress.evidence.distortion import OutputKind
from compress.execute.torch_threads import threads_of_torch
from compress.graph.layers import find_layers
from compress.graph.traversal import constant, static_shape
from compress.passes.recover.distill import as_tensors, trainable
from compress.passes.recover.pool import Pool

MOST_HINTS = 3

SAMPLES = 64
"""That sensitivities are taken on."""

SHARE_LEFT_ALONE = 0.005
"""Of the sum of all sensitivities: what the layers that are frozen have together at most."""


def find_hints(student: ir.Model, teacher: ir.Model, *, most_floats: float) -> dict[str, str]:
    """Values of the student -> the same values of its teacher, which it should still have.

    They are the ends of layers that both networks have in one shape and that depend on something
    that was changed; evenly spread over the depth, the last one among them. What was not changed
    before a value needs no hint there.

    Args:
        most_floats: elements of one sample that all hints together may have.
    """
    own = {str(layer.output.name): layer.output for layer in find_layers(student)}
    others = {str(layer.output.name): layer.output for layer in find_layers(teacher)}
    final = {str(value.name) for value in student.graph.outputs}
    touched = _touched(student, teacher)
    candidates = []
    for name, value in own.items():
        size = _elements(value)
        same = name in others and size is not None and size == _elements(others[name])
        if same and name in touched and name not in final and value.type == others[name].type:
            candidates.append(name)
    while candidates:
        count = min(MOST_HINTS, len(candidates))
        places = {round((i + 1) * len(candidates) / count) - 1 for i in range(count)}
        chosen = [candidates[i] for i in sorted(places)]
        if sum(_elements(own[name]) or 0 for name in chosen) <= most_floats:
            return {name: name for name in chosen}
        # the early ones are the large ones
        candidates = candidates[1:]
    return {}


def _elements(value: ir.Value) -> int | None:
    """Of one sample; None where sizes other than that of the batch are not known."""
    if value.shape is None or len(value.shape) < 2:
        return None
    sizes = list(value.shape.dims)[1:]
    if not all(isinstance(size, int) for size in sizes):
        return None
    return math.prod(int(size) for size in sizes if isinstance(size, int))


def _touched(student: ir.Model, teacher: ir.Model) -> set[str]:
    """Names of the student's values that depend on anything that the teacher has otherwise."""
    before: dict[str, ir.Node] = {}
    for node in teacher.graph:
        before |= {str(value.name): node for value in node.outputs}
    touched: set[str] = set()
    for node in student.graph:
        names = [str(value.name) for value in node.outputs]
        reads = any(v is not None and str(v.name) in touched for v in node.inputs)
        if reads or any(not _same(node, before.get(name)) for name in names):
            touched.update(names)
    return touched


def _same(node: ir.Node, other: ir.Node | None) -> bool:
    if other is None or node.op_type != other.op_type or len(node.inputs) != len(other.inputs):
        return False
    for own, theirs in zip(node.inputs, other.inputs, strict=True):
        mine, its = constant(own), constant(theirs)
        if mine is not None and its is not None:
            if mine.shape != its.shape or not (mine == its).all():
                return False
        elif (own and own.name) != (theirs and theirs.name):
            return False
    return True


def insensitive(
    student: ir.Model,
    pool: Pool,
    kinds: Mapping[str, OutputKind],
    *,
    threads: int = 1,
    share: float = SHARE_LEFT_ALONE,
) -> frozenset[str]:
    """Weights that matter so little that training need not change them.

    SAFT (arXiv 2306.03076) ranks layers by how much noise in them is felt at the outputs and trains
    only those where it is. Here the noise is proportional to the weights: by the outputs'
    derivatives along a random direction u, E[(sum_i u . dy/dw_i w_i)^2] = sum_i (w_i dy/dw_i)^2,
    from one backward pass per batch. Frozen is the longest tail of the ranking that has `share` of
    the sum.
    """
    weights = [n for n in trainable(student) if _rank(student, n) > 1]
    felt = dict.fromkeys(weights, 0.0)
    with threads_of_torch(threads):
        import torch

        from compress.execute.differentiable import TorchModel

        module = TorchModel(student, trainable=weights)
        names = [name for name, kind in kinds.items() if kind is not OutputKind.IGNORED]
        generator = torch.Generator().manual_seed(0)
        seen = 0
        for batch in pool.batches(16):
            found = module(as_tensors(pool.feeds(batch)), outputs=names)
            total = torch.zeros(())
            for value in found.values():
                direction = torch.randn(value.shape, generator=generator)
                total = total + (value * direction).sum() / value.detach().norm().clamp_min(1e-12)
            module.zero_grad(set_to_none=True)
            total.backward()
            for name in weights:
                parameter = module.parameter(name)
                if parameter.grad is not None:
                    felt[name] += float((parameter.grad * parameter.detach()).square().sum())
            seen += len(batch)
            if seen >= SAMPLES:
                break
    limit = share * sum(felt.values())
    frozen = []
    for name in sorted(weights, key=lambda n: (felt[n], n)):
        limit -= felt[name]
        if limit < 0:
            break
        frozen.append(name)
    return frozenset(frozen)


def _rank(model: ir.Model, name: str) -> int:
    return len(static_shape(model.graph.initializers[name]) or ())
