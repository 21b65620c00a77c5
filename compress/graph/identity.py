"""A model's content hash: what evidence about it is filed under."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx_ir as ir

from compress.graph.printer import to_text

CHUNK_BYTES = 64 * 2**20


def model_hash(model: ir.Model) -> str:
    """SHA-256 over structure, names and weights, 64 hex digits; weights are read piece by piece."""
    digest = hashlib.sha256(to_text(model).encode())
    for name in sorted(model.graph.initializers):
        tensor = model.graph.initializers[name].const_value
        digest.update(name.encode() + b"\0")
        if tensor is None:
            continue
        digest.update(f"{tensor.dtype.name} {tuple(tensor.shape.numpy())}".encode())
        array = tensor.numpy()
        if array.dtype.hasobject:
            digest.update(repr(array.tolist()).encode())
            continue
        flat = array.reshape(-1).view(np.uint8) if array.flags.c_contiguous else None
        if flat is None:
            digest.update(array.tobytes())
            continue
        for start in range(0, flat.size, CHUNK_BYTES):
            digest.update(flat[start : start + CHUNK_BYTES].data)
    return digest.hexdigest()
