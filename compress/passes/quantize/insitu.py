"""Latency of layers inside the whole network, from onnxruntime's profile of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from compress.graph.layers import Layer
from compress.passes.quantize.cells import BOUNDARY_KERNELS

_SUFFIX = re.compile(r"(_nchwc|_token_\d+|_nhwc|/[A-Za-z]+Fusion/?)+$")


def layer_times(
    layers: Sequence[Layer], times: Sequence[tuple[str, str, float]]
) -> tuple[dict[str, float], float]:
    """(microseconds per layer, total of all kernels).

    onnxruntime names fused kernels after the node or after its first output, with suffixes of its
    own; kernels that cannot be traced to a layer count in the total only. Changes of number format
    and layout belong to boundaries, not to layers, and count in the total only as well.

    Args:
        layers: of the float model; integer candidates keep their names.
        times: (node, kernel, microseconds) as from `kernel_times`.
    """
    owner: dict[str, str] = {}
    for layer in layers:
        for member in layer.members:
            owner.setdefault(str(member.name), layer.name)
            for value in member.outputs:
                owner.setdefault(str(value.name), layer.name)
    result: dict[str, float] = {}
    total = 0.0
    for name, kernel, duration in times:
        total += duration
        if kernel in BOUNDARY_KERNELS:
            continue
        plain = _SUFFIX.sub("", name)
        found = owner.get(name) or owner.get(plain) or owner.get(plain.removeprefix("fused "))
        if found is not None:
            result[found] = result.get(found, 0.0) + duration
    return result, total


def corrections(
    measured: Mapping[str, float], forms: Mapping[str, str], smooth: frozenset[str]
) -> dict[tuple[str, str], float]:
    """(layer, form) -> microseconds, for layers whose whole work was found in the profile.

    Integer layers with a smooth activation are left out: their activation runs as kernels that
    carry other names, so the traced part alone would look too cheap.
    """
    return {
        (layer, forms.get(layer, "float")): duration
        for layer, duration in measured.items()
        if not (layer in smooth and forms.get(layer, "float") == "int8")
    }
