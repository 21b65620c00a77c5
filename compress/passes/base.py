"""What a technique is, and what it proposes."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar

import onnx_ir as ir

from compress.graph.base import Pass

__all__ = ["Boundary", "Budget", "Option", "Pass", "Proposal", "Technique"]


@dataclasses.dataclass(frozen=True)
class Budget:
    """What the user asks for. Absent bounds do not bind.

    Attributes:
        max_drop: largest loss of quality, as a share of the float model's (0.01 = 1 %), or
            absolute if `absolute_drop`.
        absolute_drop: whether `max_drop` is in the evaluation's own unit.
        max_latency_ms: of one inference on the target.
        speedup: times faster than the model that was given.
        max_bytes: of the artifact's model file(s).
    """

    max_drop: float | None = None
    absolute_drop: bool = False
    max_latency_ms: float | None = None
    speedup: float | None = None
    max_bytes: int | None = None

    def lowest_quality(self, float_quality: float) -> float | None:
        """The quality that must still be reached, or None if quality is not bounded."""
        if self.max_drop is None:
            return None
        if self.absolute_drop:
            return float_quality - self.max_drop
        return float_quality - self.max_drop * abs(float_quality)

    @property
    def bounds_latency(self) -> bool:
        return self.max_latency_ms is not None or self.speedup is not None

    def latency_limit_ms(self, float_latency_ms: float) -> float | None:
        """The stricter of the two latency bounds, or None."""
        limits = [self.max_latency_ms] if self.max_latency_ms is not None else []
        if self.speedup is not None:
            limits.append(float_latency_ms / self.speedup)
        return min(limits) if limits else None


@dataclasses.dataclass(frozen=True)
class Option:
    """One way to realise a layer, or a span of layers.

    Attributes:
        technique: who proposes it ("float", "quantize", ...).
        form: what it is, in the technique's words ("int8", "int8-dynamic", ...).
        layers: names of the layers it covers.
        latency_us: predicted time of the covered layers on the device, boundaries excluded.
        bytes: of the weights in this form.
        distortion: predicted share of the output's energy that is lost (see evidence.distortion).
        reads_uint8: names of the values that this option reads as uint8.
        reads_float: names of the values that this option reads as float.
        writes_uint8: names of the values that it writes as uint8.
        measured: whether `latency_us` was measured (else predicted by a model).
        widths: group of channels -> how many of them this option stands for. All chosen options
            that name a group name the same number.
    """

    technique: str
    form: str
    layers: tuple[str, ...]
    latency_us: float
    bytes: int
    distortion: float
    reads_uint8: frozenset[str] = frozenset()
    reads_float: frozenset[str] = frozenset()
    writes_uint8: frozenset[str] = frozenset()
    measured: bool = True
    widths: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.technique}:{self.form}"

    @property
    def integer(self) -> bool:
        """Whether it computes in integers."""
        return "int8" in self.form


@dataclasses.dataclass(frozen=True)
class Boundary:
    """What it costs to move one value between float and uint8.

    Attributes:
        value: name.
        quantize_us: float -> uint8, paid once if a reader wants uint8 and the writer gives float.
        dequantize_us: uint8 -> float, paid once if a reader (or the user) wants float.
        distortion: what rounding the value costs, once, if anybody reads or writes it as uint8.
        is_output: whether the value leaves the graph, which it does in float.
    """

    value: str
    quantize_us: float
    dequantize_us: float
    distortion: float = 0.0
    is_output: bool = False


@dataclasses.dataclass(frozen=True)
class Proposal:
    """What a technique proposes: options, and what moving values between their domains costs."""

    options: tuple[Option, ...]
    boundaries: Mapping[str, Boundary]


class Technique(abc.ABC):
    """Proposes options from evidence, and writes chosen ones into a model."""

    name: ClassVar[str]

    @abc.abstractmethod
    def propose(self, advance: Callable[[], None] = lambda: None) -> Proposal:
        """Every option worth considering, "keep it float" among them.

        Args:
            advance: called after each piece of evidence, for progress.
        """

    @abc.abstractmethod
    def apply(self, model: ir.Model, chosen: Mapping[str, Option]) -> ir.Model:
        """A copy of `model` with this technique's chosen options, by layer name, written in."""
