"""Latency of whole models in onnxruntime: fresh processes, interleaved, so that ratios hold.

Absolute times drift on any shared machine, by a factor of two between processes at worst; the
ratio of two models measured in turns inside one process moves by a few percent. So every process
runs all models in bursts, in an order drawn anew, and figures are ratios of per-process medians.
"""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.errors import DeviceError

Array = npt.NDArray[Any]

RESTARTS = 5
BURST = 5
"""Consecutive runs of one model; the first of each burst warms caches and is dropped."""

SECONDS_PER_RESTART = 1.5
MIN_BURSTS = 3
MAX_BURSTS = 60
PROCESS_TIMEOUT_S = 600.0


@dataclasses.dataclass(frozen=True)
class Samples:
    """Times of one inference in milliseconds, one tuple per process."""

    by_process: tuple[tuple[float, ...], ...]

    def medians(self) -> Array:
        """The median of each process, shape (processes,)."""
        return np.array([np.median(times) for times in self.by_process])

    def percentile(self, share: float) -> float:
        """Over all runs of all processes, in ms."""
        return float(np.percentile(np.concatenate([np.array(t) for t in self.by_process]), share))

    @property
    def count(self) -> int:
        return sum(len(times) for times in self.by_process)


@dataclasses.dataclass(frozen=True)
class Speedup:
    """How many times faster one model ran than another: median and spread over processes."""

    median: float
    low: float
    high: float
    processes: int


def speedup(reference: Samples, candidate: Samples) -> Speedup:
    """The ratio of per-process medians, paired by process."""
    ratios = reference.medians() / candidate.medians()
    low, median, high = np.percentile(ratios, [10, 50, 90])
    return Speedup(float(median), float(low), float(high), len(ratios))


def time_models(
    models: Mapping[str, Path],
    feeds: Mapping[str, Array],
    *,
    restarts: int = RESTARTS,
    threads: int = 1,
    seconds: float = SECONDS_PER_RESTART,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Samples]:
    """Times all models on the same inputs, interleaved, in `restarts` fresh processes.

    With one thread the calling thread's CPU time is taken, which other load on the machine hardly
    moves; with more threads it is wall time.

    Raises:
        DeviceError: a process died, hung, or could not load or run a model; the message names the
            model's file in the last two cases.
    """
    collected: dict[str, list[tuple[float, ...]]] = {name: [] for name in models}
    with tempfile.TemporaryDirectory(prefix="compress-") as folder:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, **{f"input:{k}": v for k, v in feeds.items()})  # type: ignore[arg-type]
        for restart in range(restarts):
            request = {
                "models": {name: str(path) for name, path in models.items()},
                "inputs": str(inputs),
                "threads": threads,
                "seconds": seconds,
                "seed": seed * 1000 + restart,
            }
            for name, times in _process(request).items():
                collected[name].append(tuple(times))
            advance()
    return {name: Samples(tuple(times)) for name, times in collected.items()}


def _process(request: Mapping[str, object]) -> dict[str, list[float]]:
    command = [sys.executable, "-m", "compress.hardware.timing"]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=PROCESS_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"measuring took longer than {PROCESS_TIMEOUT_S:.0f} s and was stopped"
        ) from error
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode < 0:
        raise DeviceError(f"onnxruntime died while being measured (signal {-done.returncode})")
    if done.returncode:
        raise DeviceError(f"measuring failed: {lines[-1] if lines else 'no message'}")
    result = json.loads(done.stdout.splitlines()[-1])
    return {str(k): [float(t) for t in v] for k, v in result.items()}


def _serve(request: Mapping[str, Any]) -> dict[str, list[float]]:
    """What one process does: loads everything, then runs bursts in random order."""
    from compress.execute.runtime import Session, session_options

    with np.load(request["inputs"], allow_pickle=False) as archive:
        feeds = {name.removeprefix("input:"): archive[name] for name in archive.files}
    threads = int(request["threads"])
    sessions: dict[str, Session] = {}
    for name, path in request["models"].items():
        try:
            options = session_options(threads=threads, common_arena=True)
            sessions[name] = Session(str(path), options)
            # the first run allocates; and it shows whether the model runs at all
            sessions[name](feeds)
        except DeviceError as error:
            raise DeviceError(f"{path}: {error}") from error
    clock = time.thread_time if threads == 1 else time.perf_counter
    names: Sequence[str] = list(sessions)
    first: dict[str, float] = {}
    for name, opened in sessions.items():
        start = time.perf_counter()
        opened.session.run(None, feeds)
        first[name] = time.perf_counter() - start
    round_s = BURST * sum(first.values())
    bursts = int(np.clip(request["seconds"] / max(round_s, 1e-9), MIN_BURSTS, MAX_BURSTS))
    order = random.Random(int(request["seed"]))
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(bursts):
        for name in order.sample(names, len(names)):
            run = sessions[name].session.run
            for index in range(BURST):
                start = clock()
                run(None, feeds)
                elapsed = clock() - start
                if index:
                    times[name].append(elapsed * 1e3)
    return times


def _main() -> int:
    try:
        result = _serve(json.load(sys.stdin))
    except DeviceError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
