"""Paired timing of artifacts: ratios that hold on a machine whose clock drifts.

Every round is a fresh process. In it all artifacts are loaded in random order, warmed up and timed
in bursts that are interleaved in random order; the first burst of each is dropped. Time is the CPU
time of the process, which counts a runtime's worker threads but not what other programs do. Each
process gives one median per artifact and one ratio to the reference; the result is the median ratio
over the processes with its spread. Nothing is timed in parallel.

`python -m benchmarks.timing --case NAME REFERENCE ARTIFACT ...` prints the ratios;
an artifact is a path, `openvino:` before it selects the runtime.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.runtimes import RUNTIMES, Call
from benchmarks.zoo import NAMES, load
from benchmarks.zoo.case import Arrays

ROUNDS = 7
BURSTS = 12
BURST_SECONDS = 0.15
# One thread everywhere, also in the libraries beneath the runtimes.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class TimingError(RuntimeError):
    """A timing process died; the message holds its last line."""


@dataclass(frozen=True)
class Timed:
    """An artifact to time: its file and the runtime that loads it."""

    path: Path
    runtime: str = "onnxruntime"


@dataclass(frozen=True)
class Ratio:
    """How many times faster than the reference: median, 10th and 90th percentile over the
    processes; `milliseconds` is the median CPU time of one inference."""

    speedup: float
    low: float
    high: float
    milliseconds: float


def compare(
    case: str, reference: Timed, artifacts: Mapping[str, Timed], rounds: int = ROUNDS
) -> dict[str, Ratio]:
    """Times every artifact against `reference` on the case's fixed input.

    Raises `TimingError` where an artifact cannot be loaded or kills its process.
    """
    everything = {"": reference, **artifacts}
    medians = [_in_fresh_process(case, everything, seed) for seed in range(rounds)]
    return {name: summarize(medians, name) for name in artifacts}


def summarize(medians: Sequence[Mapping[str, float]], name: str) -> Ratio:
    """The ratio of `name` to the reference (called "") from one dict of medians per process."""
    ratios = [one[""] / one[name] for one in medians]
    low, middle, high = np.quantile(ratios, [0.1, 0.5, 0.9])
    milliseconds = 1e3 * float(np.median([one[name] for one in medians]))
    return Ratio(float(middle), float(low), float(high), milliseconds)


def burst_medians(calls: Mapping[str, Call], seed: int, bursts: int = BURSTS) -> dict[str, float]:
    """Median CPU seconds of one call, by name, from interleaved bursts in random order."""
    repeats = {name: _repeats(call) for name, call in calls.items()}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    rng = np.random.default_rng(seed)
    for _ in range(bursts + 1):
        for name in rng.permutation(list(calls)):
            call, count = calls[name], repeats[name]
            call()  # brings its own weights back into the caches
            start = time.process_time()
            for _ in range(count):
                call()
            taken[name].append((time.process_time() - start) / count)
    return {name: float(np.median(seconds[1:])) for name, seconds in taken.items()}


def _repeats(call: Call) -> int:
    call()
    start = time.perf_counter()
    call()
    return max(1, round(BURST_SECONDS / max(time.perf_counter() - start, 1e-6)))


def _in_fresh_process(case: str, artifacts: Mapping[str, Timed], seed: int) -> dict[str, float]:
    job = {
        "case": case,
        "seed": seed,
        "artifacts": {name: [str(one.path), one.runtime] for name, one in artifacts.items()},
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.timing", "--worker"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, **ONE_THREAD},
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise TimingError(lines[-1] if lines else f"killed by signal {-done.returncode}")
    medians: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return medians


def _work() -> None:
    job = json.load(sys.stdin)
    inputs: Arrays = load(job["case"]).latency_inputs()
    artifacts = list(job["artifacts"].items())
    # What is loaded first finds other memory than what is loaded last, a matter of some per cent.
    np.random.default_rng(job["seed"]).shuffle(artifacts)
    calls = {
        name: RUNTIMES[runtime].call(Path(path), inputs) for name, (path, runtime) in artifacts
    }
    print(json.dumps(burst_medians(calls, job["seed"])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--case", choices=NAMES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("artifacts", nargs="*", metavar="[openvino:]FILE")
    arguments = parser.parse_args()
    if arguments.worker:
        _work()
        return
    if arguments.case is None or len(arguments.artifacts) < 2:
        parser.error("give --case, the reference and at least one artifact")
    timed = {}
    for text in arguments.artifacts:
        runtime, _, path = text.rpartition(":")
        timed[text] = Timed(Path(path).resolve(), runtime or "onnxruntime")
    reference, *others = timed
    ratios = compare(
        arguments.case, timed[reference], {name: timed[name] for name in others}, arguments.rounds
    )
    print(json.dumps({name: asdict(ratio) for name, ratio in ratios.items()}, indent=2))


if __name__ == "__main__":
    main()
