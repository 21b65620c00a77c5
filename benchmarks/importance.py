"""Does the predicted distortion rank plans as training does?

    python -m benchmarks.importance -o benchmarks/results/importance.md

A small residual network is trained on Fashion-MNIST at 14x14. Each of its blocks may stay, become
one 3x3 convolution, or be left out; every plan is then fine-tuned with labels for an epoch, and its
accuracy on 5000 test images is the truth. What ranks plans without labels, and without any
training, is the sum of the options' distortions: what the selector minimises. Shown besides: the
distortion of the whole plan as assembled, and after a few steps of recovery; and the figures that
published rules would use.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.environment import describe
from benchmarks.networks.architectures import BasicBlock, Head, conv_norm, export_onnx
from benchmarks.networks.data import split
from compress.evidence.distortion import output_kinds
from compress.evidence.store import EvidenceStore
from compress.execute.differentiable import TorchModel
from compress.execute.session import value_shapes
from compress.graph.canonical import canonicalize
from compress.graph.layers import find_layers
from compress.graph.simplify import simplify
from compress.passes.merge.rewrite import MergeSpans
from compress.passes.merge.spans import find_spans
from compress.passes.merge.technique import Candidate, Merge
from compress.passes.quantize.forms import Form
from compress.passes.quantize.technique import Reference
from compress.passes.recover.distill import Schedule, recover
from compress.passes.recover.original import Original
from compress.passes.recover.pool import make_pool

IMAGES, TEST, SIDE = 6000, 5000, 14
STEPS = 30
"""Of recovery, for the last column."""


def tiny(seed: int) -> nn.Module:
    """Four residual blocks of 16 and 32 channels, the third with a stride."""
    torch.manual_seed(seed)
    return nn.Sequential(
        conv_norm(1, 16, activation=nn.ReLU),
        BasicBlock(16, 16, 1),
        BasicBlock(16, 16, 1),
        BasicBlock(16, 32, 2),
        BasicBlock(32, 32, 1),
        Head(32, 10),
    )


def small_images(part: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = split(part)
    x = torch.from_numpy(images[:count].astype(np.float32) / 255)
    return F.avg_pool2d(x, 2), torch.from_numpy(labels[:count].astype(np.int64))


def fit(module: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, epochs: int, rate: float,
        seed: int) -> None:  # fmt: skip
    """Cross entropy, Adam, one cosine."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(module.parameters(), rate)
    steps = epochs * (len(inputs) // 100)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(inputs), generator=generator).split(100):
            logits = module(inputs[chosen])
            loss = F.cross_entropy(logits, labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()


class Tunable(nn.Module):
    """An ONNX model under torch, one tensor in and one out."""

    def __init__(self, model: ir.Model) -> None:
        super().__init__()
        self.inner = TorchModel(model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner({"image": x})["logits"]


def accuracy(module: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.no_grad():
        return float((module(inputs).argmax(1) == labels).float().mean())


def ranks(values: np.ndarray) -> np.ndarray:
    """Average ranks."""
    order = np.argsort(values, kind="stable")
    result = np.empty(len(values))
    result[order] = np.arange(len(values), dtype=float)
    for value in np.unique(values):
        same = values == value
        result[same] = result[same].mean()
    return result


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def one_seed(seed: int) -> dict[str, float]:
    """Spearman correlations of every predictor with the truth."""
    inputs, labels = small_images("train", IMAGES)
    test, test_labels = small_images("t10k", TEST)
    network = tiny(seed)
    network.train()
    fit(network, inputs, labels, 6, 3e-3, seed)
    network.eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(network, path, (1, SIDE, SIDE))
        model = simplify(canonicalize(ir.load(path)))
        # weights are read before their file is gone
        for value in model.graph.initializers.values():
            assert value.const_value is not None
            value.const_value = ir.tensor(value.const_value.numpy().copy(), name=value.name)
    merge = technique(model, inputs)
    choices = options(merge)
    base = accuracy(network, test, test_labels)
    print(f"seed {seed}: float {base:.4f}, {len(choices)} blocks", flush=True)
    candidates = [c for block in choices for c in block]
    fitted = merge.fit(candidates)
    lost = merge.distortions(candidates, fitted)
    pool = make_pool(
        [{"image": x.numpy()[None]} for x in inputs[:2000]], joinable=True, fingerprint=f"{seed}"
    )
    original = Original(model, pool)
    plans = list(itertools.product(*((None, *block) for block in choices)))
    columns: dict[str, list[float]] = {
        k: [] for k in ("truth", "sum", "whole", "recovered", "kept")
    }
    for plan in plans:
        taken = [c for c in plan if c is not None]
        student = model.clone()
        MergeSpans(tuple(fitted[c.span.key, c.label] for c in taken)).run(student)
        columns["sum"].append(-sum(lost[c.span.key, c.label, Form.FLOAT] for c in taken))
        columns["whole"].append(-merge.reference.compare(student).distortion)
        columns["kept"].append(-len(taken))
        columns["recovered"].append(-short(student, original, pool, model))
        module = Tunable(student)
        fit(module, inputs, labels, 1, 1e-3, seed)
        columns["truth"].append(accuracy(module, test, test_labels))
    truth = np.array(columns.pop("truth"))
    print(
        f"  truth from {truth.min():.4f} to {truth.max():.4f} over {len(plans)} plans", flush=True
    )
    return {name: spearman(np.array(values), truth) for name, values in columns.items()}


def short(student: ir.Model, original: Original, pool: object, model: ir.Model) -> float:
    """Distortion after a few steps against the original."""
    schedule = Schedule(seconds=None, epochs=STEPS * 64 / 1800)
    return recover(
        student, original, original.pool, output_kinds(model), schedule,
        store=EvidenceStore.in_memory(), key=["importance"],
    ).after  # fmt: skip


def technique(model: ir.Model, inputs: torch.Tensor) -> Merge:
    samples = [{"image": x.numpy()[None]} for x in inputs[:128]]
    layers = find_layers(model)
    names = [str(x.output.name) for x in layers]
    shapes: Mapping[str, tuple[int, ...]] = {
        k: v for k, (v, _) in value_shapes(model, samples[0], names).items()
    } | {"image": (1, 1, SIDE, SIDE)}
    return Merge(
        model=model,
        model_key="importance",
        shapes=shapes,
        reference=Reference.of(model, samples[:64], "reference"),
        samples=samples,
        samples_key="samples",
        unmerged={x.name: 1e6 for x in layers},
        store=EvidenceStore.in_memory(),
        host="none",
    )


def options(merge: Merge) -> list[list[Candidate]]:
    """Per residual block: one 3x3 convolution, or nothing where shapes allow it."""
    from compress.passes.merge.reconstruct import Window

    blocks = []
    for span in find_spans(merge.model):
        convolutions = [x for x in span.layers if x.op == "Conv"]
        whole = span.layers[-1].op == "Add" and span.layers[-1].activation is not None
        if not whole or len(span.layers) > 4 or len(convolutions) not in (2, 3):
            continue
        if str(span.source.name) == "image":
            continue
        stride = 2 if len(convolutions) == 3 else 1
        window = Window((3, 3), (-1, -1), (stride, stride), (-1, -1))
        block = [Candidate(span, window, False, {})]
        if stride == 1:
            block.append(Candidate(span, None, False, {}))
        blocks.append(block)
    return blocks


@click.command()
@click.option("--seeds", default=5, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(seeds: int, output: Path | None) -> None:
    """Trains, ranks, compares."""
    torch.set_num_threads(1)
    found = [one_seed(seed) for seed in range(seeds)]
    environment = describe()
    titles = {
        "sum": "sum of the options' distortions (what the selector uses)",
        "whole": "distortion of the assembled plan",
        "recovered": f"the same after {STEPS} steps of recovery",
        "kept": "number of blocks left as they are",
    }
    lines = [
        "# Importance",
        "",
        f"{environment.date}. Made by `python -m benchmarks.importance`, where it is described.",
        "Spearman correlation with the accuracy after an epoch of fine-tuning with labels.",
        "",
        "| predictor, without labels | "
        + " | ".join(f"seed {i}" for i in range(seeds))
        + " | mean |",
        "|---|" + "---|" * (seeds + 1),
    ]
    for name, title in titles.items():
        values = [f[name] for f in found]
        cells = " | ".join(f"{v:.2f}" for v in values)
        lines.append(f"| {title} | {cells} | {np.mean(values):.2f} |")
    text = "\n".join(lines) + "\n"
    if output is not None:
        output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
