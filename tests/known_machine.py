"""A machine that is not measured: every kernel has its price, so that decisions can be foretold.

Models do run, in onnxruntime and with its fusions; only the durations are made up.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from compress.execute import session
from compress.hardware.timing import Samples

INTEGER = ("QLinear", "QGemm", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulNBits")
CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")
HEAVY = ("Conv", "FusedConv", "Gemm", "MatMul", "FusedMatMul")


@dataclasses.dataclass
class KnownMachine:
    """Prices in microseconds per kernel, and how often anything was measured.

    Attributes:
        heavy, integer, conversion, other: what the kernels of each kind take.
        counted: calls that measured or computed evidence, by name.
    """

    heavy: float = 400.0
    integer: float = 100.0
    conversion: float = 10.0
    other: float = 20.0
    counted: Counter[str] = dataclasses.field(default_factory=Counter)

    def price(self, kernel: str) -> float:
        if kernel.startswith(INTEGER):
            return self.integer
        if kernel in CONVERSIONS:
            return self.conversion
        return self.heavy if kernel in HEAVY else self.other

    def kernel_times(
        self, model: Any, feeds: Mapping[str, Any], *, runs: int = 1, warmup: int = 0
    ) -> list[tuple[str, str, float]]:
        """As `session.kernel_times`, with durations by price."""
        self.counted["kernel_times"] += 1
        ran = session.kernel_times(model, feeds, runs=1, warmup=0)
        return [(name, kernel, self.price(kernel)) for name, kernel, _ in ran]

    def time_models(
        self,
        models: Mapping[str, Path],
        feeds: Mapping[str, Any],
        *,
        advance: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> dict[str, Samples]:
        """As `timing.time_models`: the sum of the kernels, in three processes of four runs."""
        self.counted["time_models"] += 1
        result = {}
        for name, path in models.items():
            ran = session.kernel_times(path, feeds, runs=1, warmup=0)
            total_ms = sum(self.price(kernel) for _, kernel, _ in ran) / 1e3
            result[name] = Samples(((total_ms,) * 4,) * 3)
        for _ in range(3):
            advance()
        return result

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Takes the place of every measurement, and counts the other evidence."""
        for module in ("compress.passes.quantize.cells", "compress.stages.search"):
            monkeypatch.setattr(f"{module}.kernel_times", self.kernel_times)
        monkeypatch.setattr("compress.backends.trials.time_models", self.time_models)
        for target in (
            "compress.stages.gather.collect",
            "compress.execute.downstream.Tail.run",
            "compress.passes.quantize.technique.Reference.compare",
            "compress.stages.search.mean_errors",
        ):
            self._count(monkeypatch, target)

    def _count(self, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
        place, _, name = target.rpartition(".")
        monkeypatch.setattr(target, self._counting(_resolve(place), name))

    def _counting(self, owner: Any, name: str) -> Callable[..., Any]:
        original = getattr(owner, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            self.counted[name] += 1
            return original(*arguments, **options)

        return counted


def _resolve(path: str) -> Any:
    import importlib

    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)
