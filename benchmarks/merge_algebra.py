"""Every merge in whole networks against the layers that it stands for, borders included.

    python -m benchmarks.merge_algebra -o benchmarks/results/merge_algebra.md

MobileNetV2 and ResNet-34 with random weights and random batch-norm statistics. Each span of at most
`MOST_TAPS` taps is cut out with its inner activations left out, run in onnxruntime on a plane of
zeros around its input (so that nothing inside is padded: the padding moved to the front), and
compared with the merged operator. What is called lossless is compared with the span as it is.

Where the two differ by more than 1e-5, both are run once more in float64: what is left there is the
algebra's own error and that of rounding the merged weights to float32; the rest was the rounding of
sums along the unmerged chain, whose inner values are much larger than its output.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from benchmarks.environment import describe
from benchmarks.networks import architectures
from compress.execute.differentiable import TorchModel
from compress.execute.session import Runner, value_shapes
from compress.graph.canonical import canonicalize
from compress.graph.infer_shapes import InferShapes
from compress.graph.layers import find_layers
from compress.graph.simplify import simplify
from compress.graph.traversal import remove_dead, replace
from compress.passes.merge.rewrite import MergeSpans, Replacement
from compress.passes.merge.spans import Span, find_spans, folded, outline
from compress.passes.merge.technique import cut_span

MOST_TAPS = 81
SIDE = 64
"""Of the images: all borders are there, and it takes a tenth of the time that 224 would."""

TOLERANCE = 1e-5
Array = npt.NDArray[np.floating]
Execute = Callable[[ir.Model, dict[str, Array], str], Array]


def in_float32(model: ir.Model, feeds: dict[str, Array], name: str) -> Array:
    """In onnxruntime."""
    return Runner(model, threads=2)(feeds)[name]


def in_float64(model: ir.Model, feeds: dict[str, Array], name: str) -> Array:
    """In torch, every value and every weight."""
    with torch.no_grad():
        inputs = {k: torch.from_numpy(v).double() for k, v in feeds.items()}
        found = TorchModel(model).double()(inputs, outputs=[name])[name]
    return np.asarray(found.numpy())


def check(
    model: ir.Model,
    span: Span,
    shapes: dict[str, tuple[int, ...]],
    execute: Execute = in_float32,
) -> tuple[float, bool]:
    """(largest difference as a share of the largest output, whether the merge is lossless)."""
    linear = folded(span)
    assert linear is not None
    source, target = str(span.source.name), str(span.target.name)
    x = np.random.default_rng(0).standard_normal(shapes[source]).astype(np.float32)
    merged = cut_span(model, span, shapes)
    MergeSpans((Replacement(source, target, linear),)).run(merged)
    found = execute(merged, {source: x}, target)
    lossless = linear.exact and not span.activations
    apart = cut_span(model, span, shapes)
    if lossless:
        expected = execute(apart, {source: x}, target)
        return difference(found, expected), True
    inner = {str(node.name) for node in span.activations}
    for node in [n for n in apart.graph if str(n.name) in inner]:
        assert node.inputs[0] is not None
        replace(node.outputs[0], node.inputs[0])
        remove_dead([node])
    stride = linear.stride
    reach = max((*linear.kernel, *(abs(s) for s in linear.start)))
    margins = [-(-reach // s) * s for s in stride]
    for value in apart.graph.inputs:
        value.shape = ir.Shape([1, x.shape[1], *(None for _ in margins)])
    for node in apart.graph:
        for value in node.outputs:
            value.shape = None
    InferShapes().run(apart)
    padded = np.pad(x, [(0, 0), (0, 0), *((m, m) for m in margins)])
    plane = execute(apart, {source: padded}, target)
    starts = [m // s for m, s in zip(margins, stride, strict=True)]
    window = tuple(slice(a, a + n) for a, n in zip(starts, found.shape[2:], strict=True))
    return difference(found, plane[(slice(None), slice(None), *window)]), False


def difference(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-30))


def network(name: str) -> ir.Model:
    module = getattr(architectures, name)(0).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        architectures.export_onnx(module, path, (3, SIDE, SIDE))
        model = simplify(canonicalize(ir.load(path)))
        # weights are read before their file is gone
        for value in model.graph.initializers.values():
            assert value.const_value is not None
            value.const_value = ir.tensor(value.const_value.numpy().copy(), name=value.name)
    return model


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(output: Path | None) -> None:
    """Checks all spans; exit code 1 if one differs by more than 1e-5, in float64 as well."""
    lines = [
        "# Merged spans of whole networks",
        "",
        f"{describe().date}. Made by `python -m benchmarks.merge_algebra`, where it is described.",
        "",
        "| network | spans | lossless | largest difference, lossless | forced, float32 "
        "| above 1e-5 there | largest, those in float64 | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    worst = 0.0
    for name in ("mobilenet_v2", "resnet34"):
        started = time.monotonic()
        model = network(name)
        layers = find_layers(model)
        feed = {str(v.name): np.zeros((1, 3, SIDE, SIDE), np.float32) for v in model.graph.inputs}
        wanted = list(dict.fromkeys(str(x.output.name) for x in layers))
        shapes = {k: v for k, (v, _) in value_shapes(model, feed, wanted).items()}
        shapes |= {k: v.shape for k, v in feed.items()}
        found: dict[bool, list[float]] = {True: [], False: []}
        again: list[float] = []
        for span in find_spans(model):
            shape = outline(span)
            if shape is None or not shape.kernel or int(np.prod(shape.kernel)) > MOST_TAPS:
                continue
            error, lossless = check(model, span, shapes)
            found[lossless].append(error)
            if error > TOLERANCE:
                error, _ = check(model, span, shapes, in_float64)
                again.append(error)
                print(f"{name}: {span.key} differs by {error:.2g} in float64", file=sys.stderr)
            worst = max(worst, error)
        lines.append(
            f"| {name} | {len(found[True]) + len(found[False])} | {len(found[True])} "
            f"| {max(found[True], default=0.0):.1e} | {max(found[False], default=0.0):.1e} "
            f"| {len(again)} | {max(again, default=0.0):.1e} | {time.monotonic() - started:.0f} |"
        )
    text = "\n".join(lines) + "\n"
    if output is not None:
        output.write_text(text, encoding="utf-8")
    print(text)
    sys.exit(0 if worst <= TOLERANCE else 1)


if __name__ == "__main__":
    main()
