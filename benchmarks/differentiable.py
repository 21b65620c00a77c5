"""Compares the torch executor with onnxruntime on every benchmark model.

python -m benchmarks.differentiable [NAME...]

Each model in its canonical form and simplified; exit code 1 unless all agree.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch

from benchmarks import zoo
from compress.execute.differentiable import TorchModel, unsupported
from compress.execute.session import Runner
from compress.graph.canonical import canonicalize
from compress.graph.simplify import simplify

SAMPLES = 3
LARGEST_DIFFERENCE = 1e-4
"""Between outputs, over the largest magnitude of the output."""


@dataclass(frozen=True)
class Agreement:
    """How one model runs in both; `difference` is relative, times are seconds per sample."""

    nodes: int
    unsupported: tuple[str, ...]
    difference: float
    onnxruntime_s: float
    torch_s: float

    @property
    def ok(self) -> bool:
        return not self.unsupported and self.difference <= LARGEST_DIFFERENCE


def compare(model: ir.Model, samples: list[zoo.case.Arrays]) -> Agreement:
    """Runs a canonical model on all samples, one thread each."""
    nodes = len(model.graph)
    refused = tuple(sorted({node.op_type for node in unsupported(model)}))
    if refused:
        return Agreement(nodes, refused, float("inf"), float("nan"), float("nan"))
    runner, module = Runner(model), TorchModel(model)
    difference, seconds = 0.0, [0.0, 0.0]
    for sample in samples:
        start = time.perf_counter()
        expected = runner(sample)
        seconds[0] += time.perf_counter() - start
        feeds = {name: torch.from_numpy(np.array(array)) for name, array in sample.items()}
        start = time.perf_counter()
        with torch.no_grad():
            found = module(feeds)
        seconds[1] += time.perf_counter() - start
        for name, array in expected.items():
            difference = max(difference, _difference(found[name].detach().numpy(), array))
    per_sample = [total / len(samples) for total in seconds]
    return Agreement(nodes, (), difference, per_sample[0], per_sample[1])


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf")
    largest = float(np.abs(expected.astype(np.float64)).max(initial=1e-30))
    difference = float(np.abs(found.astype(np.float64) - expected).max(initial=0.0)) / largest
    return difference if np.isfinite(difference) else float("inf")


def main() -> int:
    """Prints one line per model and form; 1 if one does not run or does not agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=zoo.NAMES)
    names = parser.parse_args().names
    torch.set_num_threads(1)
    print(f"{'model':<28}{'nodes':>6}  {'difference':>10}  {'onnxruntime':>11}  {'torch':>9}")
    agreed = True
    for name in names:
        case = zoo.load(name)
        samples = [case.latency_inputs(), *itertools.islice(case.calibration(), SAMPLES - 1)]
        plain = canonicalize(ir.load(case.model_path()))
        for form, model in ((name, plain), (f"{name}, simplified", simplify(plain))):
            result = compare(model, samples)
            agreed &= result.ok
            verdict = "ok" if result.ok else f"not ok {' '.join(result.unsupported)}"
            print(
                f"{form:<28}{result.nodes:>6}  {result.difference:>10.1e}  "
                f"{result.onnxruntime_s:>9.3f} s  {result.torch_s:>7.3f} s  {verdict}"
            )
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
