"""Sessions of onnxruntime over files, and nothing else, so that timing processes stay small."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

from compress.errors import DeviceError
from compress.execute.memory import give_back_growth

if TYPE_CHECKING:
    import onnxruntime as ort

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]


class Samples(Protocol):
    """Inputs of several runs, gone through as often as needed: in memory, or read anew."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Feeds]: ...


def session_options(
    *, threads: int = 1, profile_prefix: str | None = None, common_arena: bool = False
) -> ort.SessionOptions:
    """Options as measured everywhere: one thread by default, quiet, nothing spinning.

    Args:
        threads: of the runtime, within an operator.
        profile_prefix: where to write a profile, if at all.
        common_arena: keep memory between runs in one arena with all other sessions that do, which
            fits where they run in turns.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    if common_arena:
        _open_common_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
    return options


class Session:
    """A model loaded into onnxruntime's CPU provider.

    Calling it maps input arrays to output arrays by name.
    """

    def __init__(
        self, source: bytes | str, options: ort.SessionOptions, *, frugal: bool = False
    ) -> None:
        """Loads a serialised model, or a file by its path.

        Args:
            frugal: run operators as soon as they can free memory, and keep none between runs;
                slower, and never used for measuring.

        Raises:
            DeviceError: onnxruntime refuses the model.
        """
        import onnxruntime as ort

        self._frugal = frugal
        if frugal:
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
            options.enable_cpu_mem_arena = False
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
