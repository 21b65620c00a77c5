"""How long steps tell that they are alive, without knowing who listens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

Advance = Callable[[], None]


class Progress(Protocol):
    """Somebody who shows progress: the terminal, a log, or nobody."""

    def step(
        self, title: str, total: int | None = None
    ) -> contextlib.AbstractContextManager[Advance]:
        """Opens a step of `total` parts (None: unknown); call the result after each part."""

    def note(self, text: str) -> None:
        """One line worth telling at once: a warning, a decision."""


class Silent:
    """Shows nothing."""

    @contextlib.contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Advance]:
        yield lambda: None

    def note(self, text: str) -> None:
        pass
