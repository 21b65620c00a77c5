"""`python -m benchmarks.zoo [NAME ...]`: prepares models and data, prints float quality."""

from __future__ import annotations

import argparse
import time

from benchmarks.runtimes import onnxruntime_run
from benchmarks.zoo import NAMES, load
from benchmarks.zoo.fetch import FetchError


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help=" ".join(NAMES))
    names = parser.parse_args().names
    if unknown := set(names) - set(NAMES):
        parser.error(f"unknown model: {', '.join(sorted(unknown))}")
    for name in names:
        case = load(name)
        try:
            print(f"{name}\n  model   {case.model_path()}")
            print(f"  data    {case.calibration_dir()}")
            print(f"  eval    {case.eval_file}:evaluate")
            print(f"  budget  --max-drop {case.max_drop}, goal {case.goal}x")
            run = onnxruntime_run(case.model_path())
            case.scores(run)  # prepares the evaluation data, so that the clock sees only the runs
            start = time.perf_counter()
            quality = case.evaluate(run)
            seconds = time.perf_counter() - start
            print(f"  float   {quality:.4f} {case.metric}, {seconds:.1f} s", flush=True)
            for metric, measure in case.secondary.items():
                print(f"          {measure(run):.4f} {metric}", flush=True)
        except FetchError as error:
            print(f"  skipped: {error}")


if __name__ == "__main__":
    main()
