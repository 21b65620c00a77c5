"""Depth and width: `compress run` against other ways to make a trained network shallower.

    python -m benchmarks.depth [--networks mobilenet_fmnist] -o benchmarks/results/depth.md

Every method starts from the same trained network, is recovered without labels from the same images
by the same training, and ends as the integer form that `compress run` finds for it; all artifacts
of a network are timed together, in turns, in fresh processes. What was built before is kept.
Baselines are recovered for a fixed number of steps; ours makes as many as its time limit allows.
The table shows the steps behind each network; a baseline that was built by an earlier version, in
120 s of training, has fewer.

- int8: `compress run`, numeric forms only;
- ours: `compress run --techniques quantize,merge,prune`, quality within one point;
- ours-float: the same without quantize: what depth and width give alone;
- activation-only: DepthShrinker-style. Activations inside of blocks go, blocks are multiplied out
  to one convolution with all of their taps; the n blocks that promise to save most time;
- dropping: the n residual blocks that cost least at the outputs are left out;
- uniform: all groups of channels keep the same share, the largest by weight norms.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import onnx_ir as ir

import compress
from benchmarks.environment import describe
from benchmarks.methods import ROOT
from benchmarks.networks import NAMES, Network, network
from benchmarks.networks.data import data_files
from benchmarks.networks.evaluation import evaluate
from benchmarks.zoo import fetch
from compress.evidence.data import InputSpec, open_calibration
from compress.evidence.distortion import output_kinds
from compress.evidence.store import EvidenceStore
from compress.execute.session import Runner
from compress.graph.canonical import canonicalize
from compress.graph.identity import model_hash
from compress.graph.simplify import simplify
from compress.hardware.timing import speedup, time_models
from compress.passes.merge.rewrite import MergeSpans, Replacement
from compress.passes.merge.spans import Span, find_spans, folded
from compress.passes.prune.groups import find_groups
from compress.passes.prune.remove import RemoveChannels, round_to
from compress.passes.prune.update import norm_scores
from compress.passes.recover.distill import Schedule, recover
from compress.passes.recover.original import Original
from compress.passes.recover.pool import make_pool
from compress.report.recoveries import IN_FULL
from compress.report.schema import Plan

POINT = 0.01
"""Top-1 that may be lost."""

BASELINE_STEPS = 1000
"""Of recovery, of each baseline."""

SAMPLES = 20_000
THREADS = 2


@dataclasses.dataclass(frozen=True)
class Built:
    """One artifact.

    Attributes:
        model: its file.
        quality: top-1 on the 10 000 test images.
        seconds: that building took, recovery included.
        steps: of recovery.
    """

    method: str
    model: Path
    quality: float
    seconds: float
    steps: int = 0


EXAMPLE = "example"
"""The residual network that is shipped with the project."""


def find(name: str) -> Network:
    """A trained network, or the shipped example with the others' data."""
    if name != EXAMPLE:
        return network(name)
    model = ROOT / "examples" / "fashion_mnist" / "model.onnx"
    return Network(name, model, model, model, data_files())


def main_run(found: Network, folder: Path, techniques: Sequence[str], minutes: float) -> int:
    """`compress run` as a user would call it; steps of recovery."""
    result = compress.run(
        found.model,
        data=str(found.data.train_images),
        evaluate=evaluate,
        budget=compress.Budget(max_drop=POINT, absolute_drop=True),
        techniques=tuple(techniques),
        time_limit_s=60 * minutes,
    )
    result.save(folder, force=True)
    return steps_to(result.plan)


def steps_to(plan: Plan) -> int:
    """Steps of recovery behind the shipped network: of each round, its look and the rest."""
    rounds: dict[str, str] = {}
    for recovery in plan.recoveries:
        if recovery.name.endswith(IN_FULL):
            rounds[recovery.name.partition("-")[0]] = recovery.name
        if recovery.shipped:
            path = {*rounds.values(), *(n.removesuffix(IN_FULL).strip() for n in rounds.values())}
            return sum(r.steps for r in plan.recoveries if r.name in path)
    return 0


class Baselines:
    """Structures that are chosen by simple rules, recovered and quantized like ours."""

    def __init__(self, found: Network) -> None:
        self.found = found
        self.model = simplify(canonicalize(ir.load(found.model)))
        spec = [InputSpec("image", np.dtype(np.float32), ("batch", 1, 28, 28))]
        data = open_calibration(str(found.data.train_images), spec, limit=SAMPLES)
        self.pool = make_pool(data, joinable=True, fingerprint=data.fingerprint)
        self.original = Original(self.model, self.pool, threads=THREADS)

    def blocks(self) -> list[Span]:
        """Shortest spans with activations inside that multiply out, none inside another."""
        taken: set[str] = set()
        result = []
        for span in sorted(find_spans(self.model), key=lambda s: len(s.layers)):
            convolutions = sum(x.op == "Conv" for x in span.layers)
            if convolutions < 2 or not span.activations or set(span.names) & taken:
                continue
            if _inside_of_a_block(span) or folded(span) is None:
                continue
            taken |= set(span.names)
            result.append(span)
        return result

    def activation_only(self, count: int) -> ir.Model:
        """The `count` blocks with most multiplications become one convolution each."""
        spans = self.blocks()
        spans.sort(key=lambda s: -sum(x.weight_bytes for x in s.layers))
        result = self.model.clone()
        MergeSpans(
            tuple(
                # what DepthShrinker does: an activation behind the merged convolution
                Replacement(str(s.source.name), str(s.target.name), folded(s), 0.0)
                for s in spans[:count]
            )
        ).run(result)
        return result

    def dropping(self, count: int) -> ir.Model:
        """The `count` residual blocks whose absence changes the outputs least are left out."""
        batch = next(iter(self.pool.batches(256)))
        wanted = self.original(batch)["logits"]
        scored = []
        for span in self.blocks():
            if span.layers[-1].op != "Add" or span.source.shape != span.target.shape:
                continue
            change = (Replacement(str(span.source.name), str(span.target.name), None),)
            candidate = self.model.clone()
            MergeSpans(change).run(candidate)
            lost = float(np.square(Runner(candidate)(batch.arrays)["logits"] - wanted).mean())
            scored.append((lost, change[0]))
        scored.sort(key=lambda item: item[0])
        result = self.model.clone()
        MergeSpans(tuple(change for _, change in scored[:count])).run(result)
        return result

    def uniform(self, share: float) -> ir.Model:
        """Every removable group keeps a share of its channels, by the norms of their weights."""
        kept = {}
        for group in find_groups(self.model):
            if group.removable and group.channels >= 16:
                count = round_to(int(share * group.channels), most=group.channels)
                order = np.argsort(-norm_scores(self.model, group), kind="stable")
                kept[group.name] = sorted(int(i) for i in order[:count])
        result = self.model.clone()
        RemoveChannels(kept).run(result)
        return result

    def finish(self, student: ir.Model, folder: Path) -> int:
        """Recovery, then `compress run` on what came of it, whatever its quality."""
        recovered = recover(
            student,
            self.original,
            self.pool,
            output_kinds(self.model),
            Schedule(seconds=None, epochs=0.0, fewest_steps=BASELINE_STEPS),
            store=EvidenceStore(),
            key=["benchmark", model_hash(student), self.pool.fingerprint],
            threads=THREADS,
        )
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "recovered.onnx"
            ir.save(recovered.model, path)
            result = compress.run(
                path,
                data=str(self.found.data.train_images),
                evaluate=evaluate,
                budget=compress.Budget(max_drop=0.003, absolute_drop=True),
            )
            result.save(folder, force=True)
        return recovered.steps


def _inside_of_a_block(span: Span) -> bool:
    """A part of a residual branch or of an inverted bottleneck: it goes with the rest."""
    first, last = span.layers[0], span.layers[-1]
    narrow = last.op == "Add" or last.activation is None
    readers = {id(use.node) for use in span.source.uses()}
    return not narrow or (len(readers) > 1 and last.op != "Add") or first.depthwise


METHODS: dict[str, tuple[Callable[[Baselines, float], ir.Model], tuple[float, ...]]] = {
    "activation-only": (lambda b, n: b.activation_only(int(n)), (4, 8)),
    "dropping": (lambda b, n: b.dropping(int(n)), (3, 6)),
    "uniform": (lambda b, s: b.uniform(s), (0.75, 0.5)),
}


def build(name: str, home: Path, minutes: float, only: Sequence[str]) -> list[Built]:
    """All artifacts of a network; those that are there already are kept."""
    found = find(name)
    baselines: Baselines | None = None
    jobs: list[tuple[str, Callable[[Path], int]]] = [
        ("int8", lambda folder: main_run(found, folder, ["quantize"], minutes)),
        ("ours", lambda f: main_run(found, f, ["quantize", "merge", "prune"], minutes)),
        ("ours-float", lambda f: main_run(found, f, ["merge", "prune"], minutes)),
    ]

    def baseline(method: str, value: float) -> Callable[[Path], int]:
        def run(folder: Path) -> int:
            nonlocal baselines
            baselines = baselines or Baselines(found)
            return baselines.finish(METHODS[method][0](baselines, value), folder)

        return run

    for method, (_, values) in METHODS.items():
        jobs += [(f"{method} {value:g}", baseline(method, value)) for value in values]
    result = []
    for title, job in jobs:
        folder = home / title.replace(" ", "-")
        record = folder / "built.json"
        if not record.is_file():
            if only and title.split(" ")[0] not in only:
                continue
            print(f"{name}: {title}", file=sys.stderr, flush=True)
            started = time.monotonic()
            steps = job(folder)
            seconds = time.monotonic() - started
            quality = evaluate(Runner(folder / "model.onnx", threads=THREADS))
            record.write_text(json.dumps({"quality": quality, "seconds": seconds, "steps": steps}))
        known = json.loads(record.read_text())
        result.append(Built(title, folder / "model.onnx", **known))
    return result


def rows(name: str, built: Sequence[Built]) -> list[dict[str, object]]:
    """Everything timed together, against float."""
    found = find(name)
    with np.load(found.data.calibration, allow_pickle=False) as content:
        feeds = {"image": content["image"][:1]}
    models = {"float": found.model} | {b.method: b.model for b in built}
    timed = time_models(models, feeds, threads=1)
    reference = timed["float"]
    float_quality = evaluate(Runner(found.model, threads=THREADS))
    result: list[dict[str, object]] = [
        {"method": "float", "ms": float(np.median(reference.medians())), "quality": float_quality}
    ]
    int8 = timed.get("int8")
    for item in built:
        own = timed[item.method]
        gain = speedup(reference, own)
        result.append(
            {
                "method": item.method,
                "ms": float(np.median(own.medians())),
                "speedup": gain.median,
                "low": gain.low,
                "high": gain.high,
                "over_int8": speedup(int8, own).median if int8 is not None else None,
                "quality": item.quality,
                "drop": float_quality - item.quality,
                "seconds": item.seconds,
                "steps": item.steps,
            }
        )
    return result


def table(results: dict[str, list[dict[str, object]]], environment: str) -> str:
    """The page."""
    lines = [
        "# Depth and width",
        "",
        f"{environment} Made by `python -m benchmarks.depth`; the methods are described there.",
        "Speed-ups are medians over fresh processes with the lowest and the highest, one thread.",
        "",
    ]
    for name, found in results.items():
        lines += [
            f"## {name}",
            "",
            "| method | one inference, ms | over float | over int8 | top-1 | points lost "
            "| steps | built in, s |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in found:
            if row["method"] == "float":
                lines.append(f"| float | {row['ms']:.3f} | 1 | | {row['quality']:.4f} | | | |")
                continue
            over = "" if row["over_int8"] is None else f"{row['over_int8']:.2f}x"
            lines.append(
                f"| {row['method']} | {row['ms']:.3f} | {row['speedup']:.2f}x "
                f"[{row['low']:.2f}, {row['high']:.2f}] | {over} | {row['quality']:.4f} "
                f"| {100 * float(str(row['drop'])):.2f} | {row.get('steps', '')} "
                f"| {row['seconds']:.0f} |"
            )
        lines.append("")
    return "\n".join(lines)


@click.command()
@click.option("--networks", default="mobilenet_fmnist", help="With commas between.")
@click.option("--methods", default="", help="Build these only (int8, ours, dropping...).")
@click.option("--minutes", default=14.0, help="Time limit of `compress run`.")
@click.option("--anew", is_flag=True, help="Build everything again.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A Markdown file.")
def main(networks: str, methods: str, minutes: float, anew: bool, output: Path | None) -> None:
    """Builds, evaluates and times all methods."""
    environment = describe()
    results = json.loads(output.with_suffix(".json").read_text()) if _kept(output) else {}
    for name in networks.split(","):
        if name not in (*NAMES, EXAMPLE):
            raise click.UsageError(f"there is no network {name}: use {', '.join(NAMES)}")
        home = fetch.zoo_folder() / "depth" / name
        if anew:
            shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True, exist_ok=True)
        only = [m for m in methods.split(",") if m]
        results[name] = rows(name, build(name, home, minutes, only))
        versions = ", ".join(f"{k} {v}" for k, v in environment.versions.items())
        place = f"{environment.cpu} ({' '.join(environment.isa)}), {environment.date}; {versions}."
        text = table(results, place)
        if output is not None:
            output.write_text(text, encoding="utf-8")
            output.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
        print(text)


def _kept(output: Path | None) -> bool:
    return output is not None and output.with_suffix(".json").is_file()


if __name__ == "__main__":
    main()
