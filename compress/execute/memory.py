"""Giving memory that was freed back to the system, where the C library keeps it otherwise."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
from collections.abc import Callable, Iterator

GROWTH_BYTES = 48 * 2**20
"""What a process may grow by before it pays to ask for what was freed."""

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of glibc's mallopt."""

KEEPING = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26))
USUAL = ((M_MMAP_MAX, 65536), (M_TRIM_THRESHOLD, 2**17), (M_TOP_PAD, 2**17))
"""glibc's own values; only that thresholds adapt by themselves is lost for the process."""

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


@contextlib.contextmanager
def keeping_freed() -> Iterator[None]:
    """Inside, memory that is freed stays with the process, ready for the next tensor.

    Training frees and allocates the same large tensors in every step; the system clears each page
    that it hands out anew, which takes a third of the time. Afterwards everything is given back.
    """
    option = _mallopt()
    if option is None:
        yield
        return
    for parameter, value in KEEPING:
        option(parameter, value)
    try:
        yield
    finally:
        for parameter, value in USUAL:
            option(parameter, value)
        give_back()


def give_back_growth() -> None:
    """`give_back`, if the process grew noticeably since it was last called."""
    if _trim() is not None and _resident() > _after_last + GROWTH_BYTES:
        give_back()


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@functools.cache
def _mallopt() -> Callable[[int, int], int] | None:
    if _trim() is None:
        return None
    try:
        found: Callable[[int, int], int] = ctypes.CDLL(None).mallopt
    except AttributeError:
        return None
    return found


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
