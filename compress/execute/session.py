"""Running a Model in onnxruntime: sessions as the project measures and verifies with."""

from __future__ import annotations

import collections
import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from compress.execute.memory import give_back
from compress.execute.runtime import Array, Feeds, Session, session_options

if TYPE_CHECKING:
    import onnxruntime as ort

PROTOBUF_LIMIT = 2**31 - 1
"""A serialised message must stay below this many bytes; larger models go through a file."""

TOLERATED_WAITING = 0.05
"""Share of the time for which a thread that is measured may wait for others."""

ATTEMPTS = 4
"""How often kernels are measured where others keep the machine busy."""

SHARED_BYTES = 1 << 16
"""Weights from this size on are handed to onnxruntime in place."""

SUB_BYTE_TYPES = frozenset(
    {ir.DataType.STRING, ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.BFLOAT16}
)
"""Types whose numpy form is not what onnxruntime stores."""


def serialized(model: ir.Model) -> bytes | None:
    """The model as one protobuf message, or None if its weights do not fit into one."""
    total = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)
    if total > PROTOBUF_LIMIT - 64 * 2**20:
        return None
    message: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return message


def detached(model: ir.Model, *, own: bool = False) -> tuple[bytes, dict[str, Array]]:
    """The model as a message without its large weights, and those weights by name.

    Weights are neither copied nor serialised, so that many variants of one model cost little, and
    models over 2 GB need no file.

    Args:
        own: the model is nobody else's: its weights may be taken out of it instead of a copy.
    """
    clone = model if own else model.clone()
    weights: dict[str, Array] = {}
    for name, value in list(clone.graph.initializers.items()):
        tensor = value.const_value
        if not value.uses() and not value.is_graph_output():
            # onnxruntime drops what nobody reads, and then misses what it is given for it
            del clone.graph.initializers[name]
            continue
        if tensor is None or tensor.nbytes < SHARED_BYTES or tensor.dtype in SUB_BYTE_TYPES:
            continue
        weights[name] = np.ascontiguousarray(tensor.numpy())
        # the location is never opened: the session is given the values themselves
        value.const_value = ir.ExternalTensor(
            "shared",
            0,
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
        )
    message: bytes = ir.to_proto(clone).SerializeToString(deterministic=True)
    return message, weights


class Runner(Session):
    """An onnxruntime CPU session over a model in memory or on disk."""

    def __init__(
        self,
        model: ir.Model | bytes | Path | str,
        *,
        threads: int = 1,
        profile_prefix: str | None = None,
        frugal: bool = False,
        own: bool = False,
    ) -> None:
        """Opens a session.

        Args:
            model: a Model, a serialised one, or a file.
            threads, profile_prefix: see `session_options`.
            frugal: see `Session`.
            own: see `detached`.

        Raises:
            DeviceError: onnxruntime refuses the model.
        """
        import onnxruntime as ort

        options = session_options(threads=threads, profile_prefix=profile_prefix)
        source: bytes | str
        # onnxruntime reads shared weights where they lie, for as long as they are held here
        self._shared: dict[str, ort.OrtValue] = {}
        if isinstance(model, ir.Model):
            source, weights = detached(model, own=own)
            self._shared = {k: ort.OrtValue.ortvalue_from_numpy(a) for k, a in weights.items()}
            options.add_external_initializers(list(self._shared), list(self._shared.values()))
        else:
            source = str(model) if isinstance(model, Path) else model
        super().__init__(source, options, frugal=frugal)


def kernel_times(
    model: ir.Model | bytes | Path, feeds: Feeds, *, runs: int, warmup: int = 2
) -> list[tuple[str, str, float]]:
    """(node name, kernel, microseconds) of every kernel onnxruntime ran, in its order.

    The figure is the mean of the faster half of `runs`: the profiler's clock ticks in whole
    microseconds, so a median of short kernels would be a multiple of one. It is a clock on the
    wall: where this thread had to wait for others, the runs are repeated, and those with the
    least waiting count.

    Raises:
        DeviceError: onnxruntime refuses the model or the inputs.
    """
    with tempfile.TemporaryDirectory(prefix="compress-") as folder:
        runner = Runner(model, profile_prefix=os.path.join(folder, "profile"))
        for _ in range(warmup):
            runner(feeds)
        waited: list[float] = []
        while len(waited) < ATTEMPTS and (not waited or waited[-1] > TOLERATED_WAITING):
            wall, busy = time.perf_counter(), time.thread_time()
            for _ in range(runs):
                runner(feeds)
            wall, busy = time.perf_counter() - wall, time.thread_time() - busy
            waited.append(1.0 - busy / max(wall, 1e-9))
        with open(runner.session.end_profiling(), encoding="utf-8") as file:
            events: list[dict[str, Any]] = json.load(file)
    del runner
    give_back()
    samples: dict[tuple[int, str, str], list[float]] = collections.defaultdict(list)
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            arguments = event["args"]
            key = (int(arguments["node_index"]), name[: -len("_kernel_time")], arguments["op_name"])
            samples[key].append(float(event["dur"]))
    first = warmup + runs * waited.index(min(waited))
    total = warmup + runs * len(waited)
    result = []
    for (_, name, kernel), durations in samples.items():
        if len(durations) == total:
            durations = durations[first : first + runs]
        kept = sorted(durations)
        half = kept[: max(1, (len(kept) + 1) // 2)]
        result.append((name, kernel, sum(half) / len(half)))
    return result


def value_shapes(
    model: ir.Model, feeds: Feeds, names: Iterable[str]
) -> dict[str, tuple[tuple[int, ...], str]]:
    """(shape, dtype) of the named values for these inputs, by running the model once."""
    arrays = Runner(with_outputs(model, names), frugal=True, own=True)(feeds)
    found = {name: (tuple(array.shape), str(array.dtype)) for name, array in arrays.items()}
    del arrays
    give_back()
    return found


def with_outputs(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """A copy of the model whose outputs are exactly the named values (weights are shared)."""
    wanted = list(dict.fromkeys(names))
    clone = model.clone()
    values: dict[str, ir.Value] = {str(v.name): v for v in clone.graph.inputs}
    for node in clone.graph:
        values.update((str(v.name), v) for v in node.outputs)
    clone.graph.outputs.clear()
    clone.graph.outputs.extend(values[name] for name in wanted)
    return clone


def random_feeds(
    shapes: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], seed: int = 0
) -> dict[str, Array]:
    """Inputs for timing where no data is at hand: normal floats, zeros for everything else."""
    generator = np.random.default_rng(seed)
    return {
        name: generator.normal(size=shape).astype(dtype)
        if np.dtype(dtype).kind == "f"
        else np.zeros(shape, dtype)
        for name, (shape, dtype) in shapes.items()
    }
