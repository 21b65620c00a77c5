"""Train the shipped example: a small residual network on Fashion-MNIST.

Writes, next to this file unless ``--out`` says otherwise:

``model.pt2``   the trained network as a ``torch.export`` archive, any batch size
``model.onnx``  the same network in one ONNX file, batch norms still in the graph
``calib.npz``   512 unlabelled training images (``image``)
``test.npz``    2000 labelled test images (``image``, ``labels``)

Run ``python train.py`` where the Debian package ``dataset-fashion-mnist`` is installed, or
``python train.py --data DIR`` on any folder with the four IDX files of MNIST, Fashion-MNIST or a
relative of theirs. It needs torch and onnxscript (the project's extra ``torch``) and takes a few
minutes on two cores.
"""

from __future__ import annotations

import argparse
import gzip
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnxscript.optimizer import fold_constants, remove_unused_nodes
from torch import Tensor, nn

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
INPUT_NAME, OUTPUT_NAME = "image", "logits"
CALIBRATION_IMAGES = 512
TEST_IMAGES = 2000

# ---------------------------------------------------------------------------- data


def read_idx(folder: Path, stem: str) -> NDArray[np.uint8]:
    """The array in ``folder/stem`` or ``folder/stem.gz``: an IDX file of unsigned bytes.

    The format: two zero bytes, one byte for the element type (8: uint8), one for the number of
    dimensions, each dimension as a big-endian int32, then the elements in C order.
    """
    plain, packed = folder / stem, folder / f"{stem}.gz"
    if plain.is_file():
        raw = plain.read_bytes()
    elif packed.is_file():
        raw = gzip.decompress(packed.read_bytes())
    else:
        raise SystemExit(
            f"{plain}[.gz] is missing: install the Debian package dataset-fashion-mnist, "
            "or name the folder with the IDX files with --data DIR"
        )
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise SystemExit(f"{folder / stem} is not an IDX file of unsigned bytes")
    rank = raw[3]
    shape = np.frombuffer(raw, ">i4", count=rank, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def read_split(folder: Path, split: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images ``(n, 1, height, width)`` float32 in [0, 1] and labels ``(n,)`` int64.

    ``split`` is ``train`` or ``t10k``. Pixels are divided by 255 and nothing else: the first batch
    norm learns the scale, and the zero padding of the convolutions is the images' own background.
    """
    images = read_idx(folder, f"{split}-images-idx3-ubyte")
    labels = read_idx(folder, f"{split}-labels-idx1-ubyte")
    if len(images) != len(labels):
        raise SystemExit(f"{folder}: {len(images)} {split} images, but {len(labels)} labels")
    return images[:, None].astype(np.float32) / np.float32(255), labels.astype(np.int64)


# ---------------------------------------------------------------------------- network


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the first may halve the resolution."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class SmallResNet(nn.Module):
    """11 convolutions of 3x3 in three stages of 16, 32 and 64 channels; 170 thousand parameters.

    ``image``: (batch, 1, height, width) float32 in [0, 1] -> ``logits``: (batch, classes) float32.
    """

    def __init__(self, classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(
            ResidualBlock(width, width, stride=1),
            ResidualBlock(width, 2 * width, stride=2),
            ResidualBlock(2 * width, 2 * width, stride=1),
            ResidualBlock(2 * width, 4 * width, stride=2),
            ResidualBlock(4 * width, 4 * width, stride=1),
        )
        self.head = nn.Linear(4 * width, classes)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(image)))
        return self.head(self.blocks(x).mean(dim=(2, 3)))


# ---------------------------------------------------------------------------- training


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in [0, 1]."""
    model.eval()
    with torch.no_grad():
        guesses = torch.cat([model(part).argmax(1) for part in images.split(500)])
    return float((guesses == labels).float().mean())


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, batch: int = 128) -> None:
    """SGD with Nesterov momentum, one learning-rate cycle, and random horizontal flips."""
    steps = len(images) // batch
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=epochs * steps)
    start = time.perf_counter()
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for chosen in torch.randperm(len(images))[: steps * batch].split(batch):
            flip = torch.rand(batch, 1, 1, 1) < 0.5
            x = torch.where(flip, images[chosen].flip(3), images[chosen])
            loss = F.cross_entropy(model(x), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        seconds = time.perf_counter() - start
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}, {seconds:.0f} s", flush=True)


# ---------------------------------------------------------------------------- export


def export(model: nn.Module, example: Tensor, folder: Path) -> None:
    """Write ``model.pt2`` and, from it, ``model.onnx``; the batch dimension is dynamic in both."""
    dynamic = {INPUT_NAME: {0: torch.export.Dim("batch")}}
    program = torch.export.export(model.eval(), (example,), dynamic_shapes=dynamic)
    # Traces would put the folders of the machine that trained into the files.
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    torch.export.save(program, folder / "model.pt2")

    # The exporter's own optimisation would fold the batch norms, which is the compiler's work.
    # Only what the exporter itself brought in goes: shapes computed from constants.
    converted = torch.onnx.export(
        program, dynamo=True, optimize=False, input_names=[INPUT_NAME], output_names=[OUTPUT_NAME]
    )
    assert converted is not None
    fold_constants(converted.model)
    remove_unused_nodes(converted.model)
    for value in (*converted.model.graph.inputs, *converted.model.graph.outputs):
        assert value.shape is not None
        value.shape[0] = "batch"
    converted.save(folder / "model.onnx", external_data=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and export the Fashion-MNIST example.")
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER, help="folder of the IDX files")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where to write")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    train_images, train_labels = read_split(options.data, "train")
    test_images, test_labels = read_split(options.data, "t10k")
    options.out.mkdir(parents=True, exist_ok=True)

    model = SmallResNet(classes=int(train_labels.max()) + 1)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    # Training takes half the time in this memory format.
    model = model.to(memory_format=torch.channels_last)
    train(model, torch.from_numpy(train_images), torch.from_numpy(train_labels), options.epochs)
    model = model.to(memory_format=torch.contiguous_format)
    images, labels = torch.from_numpy(test_images), torch.from_numpy(test_labels)
    print(f"top-1, all {len(labels)} test images: {accuracy(model, images, labels):.4f}")
    part = accuracy(model, images[:TEST_IMAGES], labels[:TEST_IMAGES])
    print(f"top-1, the first {TEST_IMAGES}: {part:.4f}")

    export(model, images[:2].clone(), options.out)
    count = min(CALIBRATION_IMAGES, len(train_images))
    chosen = np.random.default_rng(options.seed).choice(len(train_images), count, replace=False)
    np.savez_compressed(options.out / "calib.npz", image=train_images[np.sort(chosen)])
    np.savez_compressed(
        options.out / "test.npz", image=test_images[:TEST_IMAGES], labels=test_labels[:TEST_IMAGES]
    )


if __name__ == "__main__":
    main()
