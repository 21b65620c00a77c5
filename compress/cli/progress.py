"""What a verb shows while it works, and where."""

from __future__ import annotations

import contextlib
import os
import sys
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


@contextlib.contextmanager
def stdout_for(json_alone: bool) -> Iterator[None]:
    """With --json standard output holds that alone: what anything else prints goes to stderr.

    The file descriptor is moved as well, because solvers and runtimes print from C.
    """
    if not json_alone:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
