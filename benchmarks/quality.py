"""Task quality of one artifact, measured in a process of its own, and paired comparisons.

`python -m benchmarks.quality CASE ARTIFACT RUNTIME OUT.npz` writes the per-sample scores
(`scores`) and the secondary metrics (`secondary/NAME`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.runtimes import RUNTIMES
from benchmarks.zoo import load
from benchmarks.zoo.case import Scores

RESAMPLES = 10_000


def paired_interval(
    candidate: Scores, reference: Scores, confidence: float = 0.95
) -> tuple[float, float, float]:
    """(difference of the means, lower end, upper end) of candidate minus reference.

    Both hold one score for each of the same samples. The interval is the percentile bootstrap
    over the samples' differences, with a fixed seed.
    """
    if candidate.shape != reference.shape:
        raise ValueError(f"scores of {candidate.shape} and {reference.shape} are not paired")
    difference: npt.NDArray[np.float64] = candidate - reference
    rng = np.random.default_rng(0)
    draws = rng.integers(len(difference), size=(RESAMPLES, len(difference)))
    means = difference[draws].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(difference.mean()), float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("runtime", choices=tuple(RUNTIMES))
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    case = load(arguments.case)
    run = RUNTIMES[arguments.runtime].run(arguments.artifact)
    results = {"scores": case.scores(run)}
    for name, measure in case.secondary.items():
        results[f"secondary/{name}"] = np.array(measure(run))
    np.savez(arguments.output, **results)


if __name__ == "__main__":
    main()
