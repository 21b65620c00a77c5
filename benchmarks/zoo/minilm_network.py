"""all-MiniLM-L6-v2 in plain PyTorch, built from its safetensors file, and its ONNX export."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import onnx
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, INNER, LAYERS = 384, 12, 1536, 6
VOCABULARY, POSITIONS = 30522, 512
EPSILON = 1e-12


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each followed by its residual and layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.attention_out = nn.Linear(WIDTH, WIDTH)
        self.attention_norm = nn.LayerNorm(WIDTH, EPSILON)
        self.inner = nn.Linear(WIDTH, INNER)
        self.outer = nn.Linear(INNER, WIDTH)
        self.outer_norm = nn.LayerNorm(WIDTH, EPSILON)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """hidden (batch, length, 384), bias (batch, 1, 1, length) added to the scores."""

        def heads(tensor: Tensor) -> Tensor:
            return tensor.unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)

        query, key, value = (heads(f(hidden)) for f in (self.query, self.key, self.value))
        weights = query @ key.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5 + bias
        mixed = (weights.softmax(-1) @ value).transpose(1, 2).flatten(-2)
        hidden = self.attention_norm(hidden + self.attention_out(mixed))
        return self.outer_norm(hidden + self.outer(functional.gelu(self.inner(hidden))))


class Encoder(nn.Module):
    """ids, mask (batch, length) int64 -> unit-length sentence embeddings (batch, 384)."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.segments = nn.Embedding(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, EPSILON)
        self.layers = nn.ModuleList(EncoderLayer() for _ in range(LAYERS))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        positions = self.positions.weight[: ids.shape[1]]
        hidden = self.norm(self.words(ids) + positions + self.segments.weight[0])
        bias = (1 - mask[:, None, None, :].float()) * -1e4
        for layer in self.layers:
            hidden = layer(hidden, bias)
        kept = mask[:, :, None].float()
        mean = (hidden * kept).sum(1) / kept.sum(1).clamp(min=1e-9)
        return functional.normalize(mean, dim=-1)


_NAMES = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "attention_out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "inner",
    "output.dense": "outer",
    "output.LayerNorm": "outer_norm",
}


def from_safetensors(path: Path) -> Encoder:
    """The encoder with the published weights."""
    published = {name.removeprefix("bert."): value for name, value in load_file(path).items()}
    state = {
        "words.weight": published["embeddings.word_embeddings.weight"],
        "positions.weight": published["embeddings.position_embeddings.weight"],
        "segments.weight": published["embeddings.token_type_embeddings.weight"],
    }
    for kind in ("weight", "bias"):
        state[f"norm.{kind}"] = published[f"embeddings.LayerNorm.{kind}"]
        for index in range(LAYERS):
            for theirs, ours in _NAMES.items():
                value = published[f"encoder.layer.{index}.{theirs}.{kind}"]
                state[f"layers.{index}.{ours}.{kind}"] = value
    encoder = Encoder()
    encoder.load_state_dict(state)
    encoder.eval()
    return encoder


def export(encoder: Encoder, path: Path) -> None:
    """Writes `path` with inputs ids and mask (batch, length), both dimensions dynamic."""
    # Two tensors: the exporter takes one object passed twice for one and the same input.
    ids = torch.arange(32).reshape(2, 16)
    mask = torch.ones_like(ids)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=POSITIONS)}
    # The exporter tells of its own deprecated calls and of packages that it could use.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            encoder,
            (ids, mask),
            str(path),
            input_names=["ids", "mask"],
            # Not "embedding": the exporter gives that name to an inner value too.
            output_names=["sentence"],
            dynamic_shapes={"ids": axes, "mask": axes},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    _strip_origins(path)


def _strip_origins(path: Path) -> None:
    """Removes the notes on each node about the Python lines it came from: they hold this machine's
    folders and would change the file with every edit of this one."""
    model = onnx.load(path)
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.save(model, path)
