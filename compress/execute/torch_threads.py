"""The threads of torch: how many there are, and how they wait. Torch is not imported with this."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


def let_threads_sleep() -> None:
    """Threads that spin while they wait crawl as soon as anything else runs.

    To be called before torch is loaded; it changes nothing afterwards.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")


@contextlib.contextmanager
def threads_of_torch(count: int) -> Iterator[None]:
    """Inside, torch computes with so many threads."""
    let_threads_sleep()
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
