"""Trains the Fashion-MNIST networks on two CPU cores and keeps the weights between runs.

The recipe: cross entropy with label smoothing, SGD with Nesterov momentum, one learning-rate cycle,
random shifts by up to two pixels and random mirror images. The first epochs see smaller images,
which cost a quarter as much and teach nearly as well; the last ones see them at full size.

`python -m benchmarks.networks.training NAME FOLDER` is what `benchmarks.networks.network` starts;
this module needs torch and onnxscript.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks.architectures import FMNIST_NETWORKS, FMNIST_SHAPE, export_onnx, macs
from benchmarks.networks.data import split

THREADS = 2
SIDE = 28
SHIFT = 2
BATCH = 128


@dataclass(frozen=True)
class Phase:
    """Some epochs at one size of the images, in pixels per side."""

    epochs: int
    side: int


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. `weight_decay` leaves batch norms and biases alone."""

    phases: tuple[Phase, ...]
    learning_rate: float = 0.15
    weight_decay: float = 3e-4
    label_smoothing: float = 0.05
    seed: int = 0

    @property
    def epochs(self) -> int:
        return sum(phase.epochs for phase in self.phases)

    def side(self, epoch: int) -> int:
        """The size of the images in an epoch, counted from 0."""
        sides = [phase.side for phase in self.phases for _ in range(phase.epochs)]
        return sides[epoch]


RECIPES = {
    "mobilenet_fmnist": Recipe((Phase(3, 14), Phase(1, 20), Phase(1, 28))),
    "vgg_fmnist": Recipe((Phase(2, 14), Phase(2, 28))),
    "resnet_fmnist": Recipe((Phase(2, 14), Phase(2, 28))),
}


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shifts and mirrors every image of a batch by its own draw; uint8 -> float32 in [0, 1].

    (batch, 1, h, w) -> (batch, 1, h, w); what a shift brings in is 0, the images' background.
    """
    count, _, height, width = images.shape
    padded = F.pad(images, (SHIFT, SHIFT, SHIFT, SHIFT))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    down, right = torch.randint(0, 2 * SHIFT + 1, (2, count), generator=generator)
    shifted = windows[torch.arange(count), :, down, right].float() / 255
    mirrored = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    return torch.where(mirrored, shifted.flip(3), shifted)


def train(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    checkpoint: Path,
    report: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> float:
    """Trains `network` in place and returns the wall-clock seconds it took, over all attempts.

    images: (n, 1, 28, 28) uint8; labels: (n,) int64, n at least one batch. `checkpoint` is written
    after every epoch; a run that finds it goes on from there.
    """
    steps = len(images) // BATCH
    optimizer = _optimizer(network, recipe)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.epochs * steps, pct_start=0.2
    )
    first, seconds = 0, 0.0
    if checkpoint.is_file():
        state: dict[str, Any] = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first, seconds = state["epoch"], state["seconds"]
    network.to(memory_format=torch.channels_last)
    for epoch in range(first, recipe.epochs):
        start = time.perf_counter()
        loss = _epoch(network, images, labels, recipe, epoch, optimizer, schedule)
        seconds += time.perf_counter() - start
        report(f"  epoch {epoch + 1}/{recipe.epochs}: loss {loss:.4f}, {seconds:.0f} s")
        state = {
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "epoch": epoch + 1,
            "seconds": seconds,
        }
        partial = checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, checkpoint)
    network.to(memory_format=torch.contiguous_format)
    return seconds


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, recipe.learning_rate, momentum=0.9, nesterov=True, fused=True)


def _epoch(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    """One pass over the images in random order; the mean loss."""
    # Seeded by the epoch: a run that was interrupted sees the same batches as one that was not.
    generator = torch.Generator().manual_seed(1000 * recipe.seed + epoch)
    side = recipe.side(epoch)
    steps = len(images) // BATCH
    network.train()
    total = 0.0
    order = torch.randperm(len(images), generator=generator)[: steps * BATCH]
    for chosen in order.split(BATCH):
        x = augment(images[chosen], generator)
        if side != SIDE:
            x = F.interpolate(x, size=side, mode="bilinear", antialias=True)
        x = x.contiguous(memory_format=torch.channels_last)
        loss = F.cross_entropy(network(x), labels[chosen], label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += float(loss.detach())
    return total / steps


def train_into(name: str, folder: Path) -> None:
    """Trains a network of `RECIPES` by its recipe and writes its files; see `networks.Network`."""
    recipe = RECIPES[name]
    torch.set_num_threads(THREADS)
    torch.manual_seed(recipe.seed)
    network = FMNIST_NETWORKS[name]()
    images, labels = split("train")
    seconds = train(
        network,
        torch.from_numpy(images.copy()),
        torch.from_numpy(labels.astype(np.int64)),
        recipe,
        folder / "checkpoint.pt",
    )
    torch.save(network.state_dict(), folder / "weights.pt")
    export_onnx(network, folder / "model.onnx")
    record = {
        "epochs": recipe.epochs,
        "seconds": round(seconds),
        "parameters": sum(p.numel() for p in network.parameters()),
        "macs": macs(network, FMNIST_SHAPE),
    }
    (folder / "record.json").write_text(json.dumps(record, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks.training")
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    train_into(arguments.name, arguments.folder)


if __name__ == "__main__":
    main()
