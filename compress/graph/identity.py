"""A model's content hash: what evidence about it is filed under."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx_ir as ir

from compress.graph.order import all_graphs
from compress.graph.printer import to_text

CHUNK_BYTES = 64 * 2**20


def model_hash(model: ir.Model) -> str:
    """SHA-256 over structure, names and weights (of subgraphs as well), 64 hex digits.

    Weights are read piece by piece.
    """
    digest = hashlib.sha256(to_text(model).encode())
    for graph in all_graphs(model.graph):
        for name in sorted(graph.initializers):
            tensor = graph.initializers[name].const_value
            digest.update(name.encode() + b"\0")
            if tensor is not None:
                _add(digest, tensor)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, tensor: ir.TensorProtocol) -> None:
    digest.update(f"{tensor.dtype.name} {tuple(tensor.shape.numpy())}".encode())
    array = tensor.numpy()
    if array.dtype.hasobject:
        digest.update(repr(array.tolist()).encode())
    elif not array.flags.c_contiguous:
        digest.update(array.tobytes())
    else:
        flat = array.reshape(-1).view(np.uint8)
        for start in range(0, flat.size, CHUNK_BYTES):
            digest.update(flat[start : start + CHUNK_BYTES].data)
