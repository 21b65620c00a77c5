"""What every stage of a run needs besides its own subject."""

from __future__ import annotations

import dataclasses
import time

from compress.backends.trials import Workshop
from compress.evidence.store import EvidenceStore
from compress.passes.base import Budget
from compress.progress import Progress
from compress.stages.calibration import Calibration

LEAST_RECOVERY_S = 10.0
SHARE_OF_RECOVERY = 0.65
"""Of the user's time limit."""


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """The user's wishes and the run's tools.

    Attributes:
        host: fingerprint of machine and runtime.
        techniques: that may be used.
        labels: whether recovery learns from the labels in the data, too.
        cores: that may work side by side where nothing is measured.
        time_limit_s: of the whole run, or None.
        deadline: when that is over, on time.monotonic's clock.
    """

    workshop: Workshop
    calibration: Calibration
    store: EvidenceStore
    budget: Budget
    objective: str
    progress: Progress
    host: str
    cores: int
    seed: int
    techniques: frozenset[str]
    labels: bool = False
    time_limit_s: float | None = None
    deadline: float | None = None

    def late(self) -> bool:
        """Whether nothing new is to be begun."""
        return self.deadline is not None and time.monotonic() > self.deadline

    def recovery_seconds(self, usual: float) -> float:
        """What all of recovery may take: by the limit and not by what is left, which is another
        time in a run that is resumed."""
        if self.time_limit_s is None:
            return usual
        return max(LEAST_RECOVERY_S, min(usual, SHARE_OF_RECOVERY * self.time_limit_s))
