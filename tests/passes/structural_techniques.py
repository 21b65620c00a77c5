"""What the tests of Merge and Prune build them from."""

from __future__ import annotations

import onnx_ir as ir
from small_networks import images

from compress.evidence.store import EvidenceStore
from compress.execute.session import value_shapes
from compress.graph.canonical import canonicalize
from compress.graph.layers import find_layers
from compress.graph.simplify import simplify
from compress.passes.quantize.technique import Reference


def pictures():
    """Samples of the small convolutional network."""
    arrays = images(48)["image"]
    return [{"image": arrays[i : i + 1]} for i in range(len(arrays))]


def shared(proto, samples):
    """The arguments that both techniques take, for a model on a machine without a name."""
    model = simplify(canonicalize(ir.from_proto(proto)))
    names = list(dict.fromkeys(str(x.output.name) for x in find_layers(model)))
    shapes = {k: v for k, (v, _) in value_shapes(model, samples[0], names).items()}
    return {
        "model": model,
        "model_key": "model",
        "shapes": shapes | {name: array.shape for name, array in samples[0].items()},
        "reference": Reference.of(model, samples[:4], "reference"),
        "samples": samples,
        "samples_key": "samples",
        "store": EvidenceStore.in_memory(),
        "host": "host",
    }
