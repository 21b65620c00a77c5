"""Running a Model in onnxruntime: sessions as the project measures and verifies with."""

from __future__ import annotations

import collections
import functools
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.errors import DeviceError
from compress.execute.memory import give_back, give_back_growth

if TYPE_CHECKING:
    import onnxruntime as ort

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]


class Samples(Protocol):
    """Inputs of several runs, gone through as often as needed: in memory, or read anew."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Feeds]: ...


PROTOBUF_LIMIT = 2**31 - 1
"""A serialised message must stay below this many bytes; larger models go through a file."""

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


def detached(model: ir.Model) -> tuple[bytes, dict[str, Array]]:
    """The model as a message without its large weights, and those weights by name.

    Weights are neither copied nor serialised, so that many variants of one model cost little, and
    models over 2 GB need no file.
    """
    clone = model.clone()
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


def session_options(*, threads: int = 1, profile_prefix: str | None = None) -> ort.SessionOptions:
    """Options as measured everywhere: one thread by default, quiet, nothing spinning."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    return options


class Runner:
    """An onnxruntime CPU session over a model in memory or on disk.

    Calling it maps input arrays to output arrays by name.
    """

    def __init__(
        self,
        model: ir.Model | bytes | Path | str,
        *,
        threads: int = 1,
        profile_prefix: str | None = None,
        frugal: bool = False,
        common_arena: bool = False,
    ) -> None:
        """Opens a session.

        Args:
            model: a Model, a serialised one, or a file.
            threads: of the runtime, within an operator.
            profile_prefix: where to write a profile, if at all.
            frugal: run operators as soon as they can free memory, and keep none between runs;
                slower, and never used for measuring.
            common_arena: keep memory between runs in one arena with all other sessions that do,
                which fits where they run in turns.

        Raises:
            DeviceError: onnxruntime refuses the model.
        """
        import onnxruntime as ort

        options = session_options(threads=threads, profile_prefix=profile_prefix)
        self._frugal = frugal
        if frugal:
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
            options.enable_cpu_mem_arena = False
        if common_arena:
            _open_common_arena()
            options.add_session_config_entry("session.use_env_allocators", "1")
        source: bytes | str
        # onnxruntime reads shared weights where they lie, for as long as they are held here
        self._shared: dict[str, ort.OrtValue] = {}
        if isinstance(model, ir.Model):
            source, weights = detached(model)
            self._shared = {k: ort.OrtValue.ortvalue_from_numpy(a) for k, a in weights.items()}
            options.add_external_initializers(list(self._shared), list(self._shared.values()))
        else:
            source = str(model) if isinstance(model, Path) else model
        try:
            self.session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise DeviceError(f"onnxruntime cannot load the model: {first_line(error)}") from error
        self.inputs = [i.name for i in self.session.get_inputs()]
        self.outputs = [o.name for o in self.session.get_outputs()]

    def __call__(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """The outputs named (default: all) for these inputs.

        Raises:
            DeviceError: onnxruntime refused the inputs or failed while running.
        """
        names = list(self.outputs if outputs is None else outputs)
        try:
            arrays = self.session.run(names, dict(feeds))
        except Exception as error:
            raise DeviceError(f"onnxruntime failed while running: {first_line(error)}") from error
        if self._frugal:
            give_back_growth()
        return dict(zip(names, arrays, strict=True))


@functools.cache
def _open_common_arena() -> None:
    """Once per process; as large as what one run needs, not rounded up to powers of two."""
    import onnxruntime as ort

    place = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    ort.create_and_register_allocator(place, ort.OrtArenaCfg({"arena_extend_strategy": 1}))


def first_line(error: BaseException) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def kernel_times(
    model: ir.Model | bytes | Path, feeds: Feeds, *, runs: int, warmup: int = 2
) -> list[tuple[str, str, float]]:
    """(node name, kernel, microseconds) of every kernel onnxruntime ran, in its order.

    The figure is the mean of the faster half of `runs`: the profiler's clock ticks in whole
    microseconds, so a median of short kernels would be a multiple of one.

    Raises:
        DeviceError: onnxruntime refuses the model or the inputs.
    """
    with tempfile.TemporaryDirectory(prefix="compress-") as folder:
        runner = Runner(model, profile_prefix=os.path.join(folder, "profile"))
        for _ in range(warmup + runs):
            runner(feeds)
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
    result = []
    for (_, name, kernel), durations in samples.items():
        kept = sorted(durations[warmup:] or durations)
        half = kept[: max(1, (len(kept) + 1) // 2)]
        result.append((name, kernel, sum(half) / len(half)))
    return result


def value_shapes(
    model: ir.Model, feeds: Feeds, names: Iterable[str]
) -> dict[str, tuple[tuple[int, ...], str]]:
    """(shape, dtype) of the named values for these inputs, by running the model once."""
    arrays = Runner(with_outputs(model, names), frugal=True)(feeds)
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
