"""What single changes cost at the network's outputs: cached, side by side, tails only."""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import onnx_ir as ir

from compress.evidence.store import EvidenceStore
from compress.execute.downstream import Array, Downstream, Tail
from compress.execute.runtime import Samples

Name = TypeVar("Name")


class Judge(Protocol):
    """Samples, and how far outputs for the first of them are from what they should be."""

    @property
    def samples(self) -> Samples: ...

    def distortion(self, outputs: Sequence[Mapping[str, Array]]) -> float: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Probe:
    """One change and where it begins.

    Attributes:
        key: of its distortion in the store.
        change: of a copy of the network's tail.
        node, value: name of the first node, or of the value, that it concerns: one of the two.
    """

    key: str
    change: Callable[[ir.Model], object]
    node: str = ""
    value: str = ""

    def start(self, downstream: Downstream) -> int:
        """The latest cut before the change."""
        if self.value:
            return downstream.start_of_value(self.value)
        return downstream.start_of_node(self.node)


def distortions(
    model: ir.Model,
    judge: Judge,
    store: EvidenceStore,
    probes: Mapping[Name, Probe],
    workers: int,
    advance: Callable[[], None] = lambda: None,
) -> dict[Name, float]:
    """The output distortion each change causes alone. Only what lies behind it is run again.

    Args:
        workers: threads; nothing is timed here.
        advance: called after each probe, found or measured.
    """
    result: dict[Name, float] = {}
    waiting: dict[int, list[tuple[Name, Probe]]] = {}
    downstream = Downstream(model, judge.samples)
    for name, probe in probes.items():
        known = store.get(probe.key)
        if isinstance(known, float):
            result[name] = known
            advance()
        else:
            waiting.setdefault(probe.start(downstream), []).append((name, probe))
    with concurrent.futures.ThreadPoolExecutor(max(1, workers)) as pool:
        for start in sorted(waiting):
            with downstream.tail(start) as tail:

                def one(item: tuple[Name, Probe], tail: Tail = tail) -> None:
                    name, probe = item
                    lost = judge.distortion(tail.run(probe.change))
                    store.put(probe.key, lost)
                    result[name] = lost
                    advance()

                list(pool.map(one, waiting[start]))
    return result
