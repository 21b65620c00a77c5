"""Giving memory that was freed back to the system, where the C library keeps it otherwise."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable

GROWTH_BYTES = 48 * 2**20
"""What a process may grow by before it pays to ask for what was freed."""

_after_last = 0
"""Resident bytes when memory was last given back."""


def give_back() -> None:
    """Returns freed memory to the system.

    Networks allocate and free tensors of many sizes; glibc keeps what was freed, in pieces that
    the next tensor may not fit into, so that the process grows with every run. A call takes
    milliseconds, and what is needed again has to be mapped again.
    """
    global _after_last
    trim = _trim()
    if trim is not None:
        trim(0)
        _after_last = _resident()


def give_back_growth() -> None:
    """`give_back`, if the process grew noticeably since it was last called."""
    if _trim() is not None and _resident() > _after_last + GROWTH_BYTES:
        give_back()


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@functools.cache
def _trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux") or not os.path.exists("/proc/self/statm"):
        return None
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        # another C library
        return None
    return found
