"""Compares `compress run` with float and with other quantizers on the benchmark models.

    python -m benchmarks.quantization -o benchmarks/results/quantization.md

writes the Markdown table and, beside it, a JSON file with every figure. What was built, evaluated
or timed before is kept and only redone where something it depends on has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks import table, timing
from benchmarks.build import Built, build, digest_of, results_folder
from benchmarks.environment import Environment, describe
from benchmarks.methods import FLOAT, OURS, ROOT, Method, all_methods, quick
from benchmarks.quality import paired_interval
from benchmarks.table import Row
from benchmarks.timing import ONE_THREAD, Ratio, Timed, TimingError
from benchmarks.zoo import NAMES, Case, load, store
from benchmarks.zoo.case import Scores
from benchmarks.zoo.fetch import FetchError

QUALITY_SOURCES = (
    ROOT / "benchmarks" / "zoo",
    ROOT / "benchmarks" / "quality.py",
    ROOT / "benchmarks" / "runtimes.py",
)


@dataclass(frozen=True)
class Evaluated:
    """Per-sample scores and secondary metrics of one artifact, or why there are none."""

    scores: Scores | None
    secondary: dict[str, float]
    failure: str


def evaluate(case: Case, artifact: Timed, environment: Environment) -> Evaluated:
    """Runs the case's evaluation in a process of its own; kept by content."""
    key = store.key_of(
        case.name,
        _content(artifact.path),
        artifact.runtime,
        environment.runtime_version(artifact.runtime),
        digest_of(QUALITY_SOURCES),
    )
    kept = results_folder() / f"{case.name}-quality-{key}.npz"
    if not kept.is_file():
        with tempfile.TemporaryDirectory(dir=results_folder()) as scratch:
            fresh = Path(scratch) / "quality.npz"
            command = [sys.executable, "-m", "benchmarks.quality", case.name]
            done = subprocess.run(
                [*command, str(artifact.path), artifact.runtime, str(fresh)],
                cwd=ROOT,
                env={**os.environ, **ONE_THREAD},
                capture_output=True,
                text=True,
            )
            if done.returncode != 0:
                said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
                return Evaluated(None, {}, f"evaluation failed: {said[-1][:200]}")
            os.replace(fresh, kept)
    with np.load(kept, allow_pickle=False) as content:
        prefix = "secondary/"
        secondary = {
            name.removeprefix(prefix): float(content[name])
            for name in content.files
            if name.startswith(prefix)
        }
        return Evaluated(content["scores"], secondary, "")


def time_all(
    case: Case,
    reference: Timed,
    artifacts: dict[str, Timed],
    environment: Environment,
    rounds: int,
) -> dict[str, Ratio | str]:
    """The speed-up of every artifact over `reference`, or why it could not be timed.

    Artifacts without a kept figure are timed together, interleaved in the same processes.
    """
    kept = {
        name: results_folder()
        / f"{case.name}-timing-{_timing_key(case, reference, one, environment, rounds)}.json"
        for name, one in artifacts.items()
    }
    missing = {name: artifacts[name] for name, path in kept.items() if not path.is_file()}
    failures: dict[str, Ratio | str] = {}
    if missing:
        try:
            timed = timing.compare(case.name, reference, missing, rounds)
        except TimingError:
            # One of them kills the process; the others must not pay for it.
            timed = {}
            for name, one in missing.items():
                try:
                    timed |= timing.compare(case.name, reference, {name: one}, rounds)
                except TimingError as error:
                    failures[name] = f"timing failed: {error}"
        for name, ratio in timed.items():
            kept[name].write_text(json.dumps(vars(ratio)))
    found = {name: path for name, path in kept.items() if path.is_file()}
    return failures | {name: Ratio(**json.loads(path.read_text())) for name, path in found.items()}


def compare(
    case: Case,
    methods: Sequence[Method],
    environment: Environment,
    rounds: int = timing.ROUNDS,
    retry: bool = False,
) -> list[Row]:
    """One row per method: built, evaluated and timed. The first method must be float."""
    chosen = [method for method in methods if not method.only or case.name in method.only]
    built, evaluated = prepare(case, chosen, environment, retry)
    reference = Timed(case.model_path())
    to_time = {
        method.name: Timed(path, method.runtime)
        for method in chosen
        if (path := built[method.name].artifact) is not None
        and evaluated[method.name].scores is not None
    }
    _say(f"{case.name}: timing {len(to_time)} artifacts")
    ratios = time_all(case, reference, to_time, environment, rounds)
    float_scores = evaluated[FLOAT].scores
    if float_scores is None:
        raise RuntimeError(f"{case.name}: the float model: {evaluated[FLOAT].failure}")
    return [
        _row(case, method, built[method.name], evaluated, ratios.get(method.name), float_scores)
        for method in chosen
    ]


def prepare(
    case: Case, methods: Sequence[Method], environment: Environment, retry: bool = False
) -> tuple[dict[str, Built], dict[str, Evaluated]]:
    """Builds and evaluates; an artifact that was not built is not evaluated."""
    built: dict[str, Built] = {}
    evaluated: dict[str, Evaluated] = {}
    for method in methods:
        _say(f"{case.name}: {method.name}")
        built[method.name] = made = build(method, case, retry)
        if made.artifact is not None:
            artifact = Timed(made.artifact, method.runtime)
            evaluated[method.name] = evaluate(case, artifact, environment)
    return built, evaluated


def _row(
    case: Case,
    method: Method,
    built: Built,
    evaluated: dict[str, Evaluated],
    ratio: Ratio | str | None,
    float_scores: Scores,
) -> Row:
    measured = evaluated.get(method.name)
    failure = built.failure or (measured.failure if measured else "")
    if isinstance(ratio, str):
        failure = failure or ratio
    row = Row(
        model=case.name,
        group=method.group,
        setting=method.setting,
        runtime=method.runtime,
        failure=failure,
        size_bytes=built.size_bytes,
        compile_seconds=built.seconds,
        peak_bytes=built.peak_bytes,
    )
    if failure or measured is None or measured.scores is None or not isinstance(ratio, Ratio):
        return row
    if method.group == OURS and built.artifact is not None:
        row = replace(row, **_own_seconds(built.artifact.with_name("report.json")))
    quality = float(measured.scores.mean())
    difference, low, high = paired_interval(measured.scores, float_scores)
    return replace(
        row,
        quality=quality,
        difference=difference,
        difference_low=low,
        difference_high=high,
        secondary=measured.secondary,
        within_budget=quality >= case.allowed_quality(float(float_scores.mean())) - 1e-9,
        speedup=ratio.speedup,
        speedup_low=ratio.low,
        speedup_high=ratio.high,
        milliseconds=ratio.milliseconds,
    )


STEPS = {
    "latency_seconds": ("widening narrow", "measuring layers", "timing candidates"),
    "quality_seconds": ("evaluating the model as given", "trying candidates"),
    "rounding_seconds": ("measuring what each rounding costs",),
}
"""Parts of a run and the steps of `compress run` that they are made of, by how these begin."""


def _own_seconds(report: Path) -> dict[str, float]:
    """The seconds of each part, from a run's own report."""
    steps = json.loads(report.read_text())["steps"]
    return {
        part: float(sum(s["seconds"] for s in steps if s["name"].startswith(beginnings)))
        for part, beginnings in STEPS.items()
    }


def _timing_key(
    case: Case, reference: Timed, one: Timed, environment: Environment, rounds: int
) -> str:
    sources = (ROOT / "benchmarks" / "timing.py", ROOT / "benchmarks" / "runtimes.py")
    return store.key_of(
        case.name,
        _content(reference.path),
        _content(one.path),
        one.runtime,
        environment.cpu,
        environment.runtime_version("onnxruntime"),
        environment.runtime_version(one.runtime),
        str(rounds),
        digest_of(sources),
    )


def _content(path: Path) -> str:
    """SHA-256 of an artifact with its weights file, where that is apart."""
    parts = (path, path.with_suffix(".bin"), path.with_name(path.name + ".data"))
    data = b"".join(part.read_bytes() for part in parts if part.is_file())
    return hashlib.sha256(data).hexdigest()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _selected(wanted: Iterable[str], methods: list[Method]) -> list[Method]:
    """Float, ours, and the peers one of whose words (`static`, `NNCF`) is in `wanted`."""
    words = [word.lower() for word in wanted]
    return [
        method
        for index, method in enumerate(methods)
        if index == 0 or any(word in method.name.lower() for word in words)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="WORD",
        help="only float and the methods with one of these words in their names",
    )
    parser.add_argument("--quick", action="store_true", help="one setting each, two rounds")
    parser.add_argument("--retry", action="store_true", help="try again what failed before")
    parser.add_argument("--rounds", type=int, help="timing processes per model")
    parser.add_argument(
        "--prepare",
        action="store_true",
        help="only build and evaluate; timing, which wants a quiet machine, is left for later",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.md")
    arguments = parser.parse_args()
    methods = list(all_methods())
    if arguments.quick:
        methods = quick(methods)
    if arguments.methods:
        methods = _selected(arguments.methods, methods)
    rounds = arguments.rounds or (2 if arguments.quick else timing.ROUNDS)
    environment = describe()
    results_folder().mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    cases: list[Case] = []
    for name in arguments.models:
        case = load(name)
        try:
            if arguments.prepare:
                applicable = [m for m in methods if not m.only or name in m.only]
                prepare(case, applicable, environment, arguments.retry)
                continue
            rows += compare(case, methods, environment, rounds, arguments.retry)
        except FetchError as error:
            _say(f"{name}: skipped: {error}")
            continue
        cases.append(case)
        # After every model, so that a run that is stopped leaves what it has.
        table.write(arguments.output, cases, rows, environment, rounds)
    if not arguments.prepare:
        _say(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
