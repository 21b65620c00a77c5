"""`python -m benchmarks.networks [NAME ...]`: trains what is missing, prints what there is."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from benchmarks.networks import NAMES, TrainingError, evaluation, network
from benchmarks.runtimes import RUNTIMES, onnxruntime_run
from benchmarks.zoo.fetch import FetchError

REPEATS = 500


def latency_ms(model: Path, images: Path) -> float:
    """Milliseconds of one inference on one image in onnxruntime, one thread: the least of many.

    Other programs can only make a run slower, so the least one is the steadiest figure; to compare
    two models, use `benchmarks.timing`.
    """
    with np.load(images, allow_pickle=False) as content:
        call = RUNTIMES["onnxruntime"].call(model, {"image": content["image"][:1]})
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return 1e3 * min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks", description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help=" ".join(NAMES))
    names = parser.parse_args().names
    if unknown := set(names) - set(NAMES):
        parser.error(f"unknown network: {', '.join(sorted(unknown))}")
    for name in names:
        try:
            found = network(name)
        except (FetchError, TrainingError) as error:
            raise SystemExit(f"{name}: {error}") from None
        record = json.loads(found.record.read_text())
        accuracy = evaluation.evaluate(onnxruntime_run(found.model))
        latency = latency_ms(found.model, found.data.calibration)
        print(f"{name}\n  model   {found.model}\n  data    {found.data.test.parent}")
        print(f"  top-1   {accuracy:.4f}, after {record['epochs']} epochs in {record['seconds']} s")
        print(f"  size    {record['parameters']:,} parameters, {record['macs']:,} MACs")
        print(f"  float   {latency:.3f} ms", flush=True)


if __name__ == "__main__":
    main()
