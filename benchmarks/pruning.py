"""Layer-wise sparsity: what is predicted, what is measured, and what simple rules would have lost.

    python -m benchmarks.pruning -o benchmarks/results/pruning.md

Rate-distortion curves of the shipped example's layers (magnitude pruning, one layer at a time), on
real and on Gaussian inputs; the exact knapsack picks one sparsity per layer for a share of weights
that may stay, and the whole network is masked and run. One shot: nothing is trained or made up for.
Uniform, ERK and LAMP allocations are masked by the same magnitudes. Three draws of the samples.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from benchmarks.environment import describe
from benchmarks.zoo import fashion_mnist
from compress.evidence.distortion import Comparison, output_kinds
from compress.execute.session import Runner
from compress.graph.canonical import canonicalize
from compress.graph.layers import Layer, find_layers
from compress.graph.simplify import simplify
from compress.graph.traversal import constant
from compress.passes.knapsack import solve_knapsack
from compress.passes.prune.curves import (
    Curve,
    erk_sparsities,
    gaussian_samples,
    lamp_sparsities,
    pruning_curves,
    uniform_sparsities,
)
from compress.passes.prune.masks import ApplyMasks, magnitude_mask

SPARSITIES = (0.5, 0.8, 0.95)
SEEDS = 3
SAMPLES = 48

Array = npt.NDArray[np.floating]
Samples = list[dict[str, npt.NDArray[np.generic]]]


def allocate(curves: list[Curve], density: float, figure: str) -> tuple[Array, float]:
    """(sparsity per layer, predicted distortion): the exact optimum over all curves."""
    sizes = [c.size for c in curves]
    budget = int(density * sum(sizes))
    costs = [c.size - np.floor(c.phi * c.size + 1e-6).astype(np.int64) for c in curves]
    found = solve_knapsack(costs, [getattr(c, figure) for c in curves], budget)
    chosen = found.choices
    predicted = sum(float(c.distortion[i]) for c, i in zip(curves, chosen, strict=True))
    return np.array([c.phi[i] for c, i in zip(curves, chosen, strict=True)]), predicted


def masked(model: ir.Model, layers: list[Layer], sparsities: Array) -> ir.Model:
    """The network with every layer's smallest weights at zero."""
    masks = {}
    for layer, sparsity in zip(layers, sparsities, strict=True):
        weight = constant(layer.weight)
        assert weight is not None
        masks[layer.name] = magnitude_mask(weight, float(sparsity))
    result = model.clone()
    ApplyMasks(masks).run(result)
    return result


def distortion(model: ir.Model, candidate: ir.Model, samples: Samples) -> float:
    """Of the candidate's outputs."""
    comparison = Comparison(output_kinds(model))
    first, second = Runner(model), Runner(candidate)
    for sample in samples:
        comparison.add(first(sample), second(sample))
    return comparison.result().distortion


def drawn(seed: int) -> tuple[Samples, Samples]:
    """(samples for curves, others to measure on)."""
    images = np.concatenate([s["image"] for s in fashion_mnist.calibration()])
    order = np.random.default_rng(seed).permutation(len(images))
    picked = [{"image": images[i : i + 1]} for i in order[: 2 * SAMPLES]]
    return picked[:SAMPLES], picked[SAMPLES:]


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(output: Path | None) -> None:
    """Curves, allocations, measurements."""
    model = simplify(canonicalize(ir.load(fashion_mnist.model_path())))
    layers = [x for x in find_layers(model) if x.weight is not None]
    weights = [np.asarray(constant(x.weight)) for x in layers]
    sizes = [w.size for w in weights]
    rows: dict[tuple[float, str], list[tuple[float, float, float]]] = {}
    for seed in range(SEEDS):
        for_curves, others = drawn(seed)
        shapes = {"image": ((1, 1, 28, 28), np.dtype(np.float32))}
        sources = {
            "ours": for_curves,
            "ours, without data": gaussian_samples(shapes, SAMPLES, seed),
        }
        curves = {
            name: list(pruning_curves(model, layers, samples).values())
            for name, samples in sources.items()
        }
        for sparsity in SPARSITIES:
            density = 1.0 - sparsity
            plans = {name: allocate(found, density, "distortion") for name, found in curves.items()}
            plans["uniform"] = uniform_sparsities(sizes, density), float("nan")
            plans["ERK"] = erk_sparsities([w.shape for w in weights], density), float("nan")
            plans["LAMP"] = lamp_sparsities(weights, density), float("nan")
            for name, (chosen, predicted) in plans.items():
                candidate = masked(model, layers, chosen)
                runner = Runner(candidate, threads=2)
                quality = float(np.mean(fashion_mnist.scores(lambda f, r=runner: r(dict(f)))))
                measured = distortion(model, candidate, others)
                rows.setdefault((sparsity, name), []).append((predicted, measured, quality))
                print(
                    f"seed {seed}, {sparsity:.0%}, {name}: {rows[sparsity, name][-1]}", flush=True
                )
    text = table(rows, Runner(model, threads=2))
    if output is not None:
        output.write_text(text, encoding="utf-8")
    print(text)


def table(rows: dict[tuple[float, str], list[tuple[float, float, float]]], runner: Runner) -> str:
    """The page."""
    environment = describe()
    quality = float(np.mean(fashion_mnist.scores(lambda f: runner(dict(f)))))
    lines = [
        "# Pruning",
        "",
        f"{environment.date}, onnxruntime {environment.versions['onnxruntime']}. Made by",
        "`python -m benchmarks.pruning`, where it is described.",
        f"Shipped example, float top-1 {quality:.4f}; means over {SEEDS} draws of {SAMPLES}",
        "samples (lowest to highest). Distortion is measured on other samples than the curves'.",
        "",
        "| sparsity | allocation | predicted distortion | measured distortion | top-1 |",
        "|---|---|---|---|---|",
    ]
    for (sparsity, name), found in rows.items():
        cells = []
        for values in zip(*found, strict=True):
            mean = np.mean(values)
            spread = (
                f" ({min(values):.3g} to {max(values):.3g})" if max(values) > min(values) else ""
            )
            cells.append("" if np.isnan(mean) else f"{mean:.4g}{spread}")
        lines.append(f"| {sparsity:.0%} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
