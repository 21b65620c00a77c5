"""What a verb shows while it works."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compress.progress import Progress


@contextlib.contextmanager
def shown_progress(*, silent: bool) -> Iterator[Progress]:
    """Progress on standard error, or nothing."""
    if silent:
        from compress.progress import Silent

        yield Silent()
        return
    from compress.report.progress import on_stream

    with on_stream() as shown:
        yield shown
