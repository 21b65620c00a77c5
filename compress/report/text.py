"""Figures and foreign names as words: what the terminal, the page and error lines share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compress.report.schema import Latency, Ratio

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "KB"))


def printable(text: str) -> str:
    """`text` on one line, with everything that a terminal could act on spelled out.

    Names come from foreign models: an escape sequence in one must not move the cursor, nor a
    change of writing direction disguise what follows.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(name: str, width: int = 40) -> str:
    """A name of at most `width` characters; some converters make them of every node they fused."""
    return name if len(name) <= width else f"{name[: width - 1]}…"


def figures(value: float, digits: int = 3) -> str:
    """`value` to so many significant digits, without an exponent for everyday magnitudes."""
    if not math.isfinite(value):
        return "infinite" if math.isinf(value) else "undefined"
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if not -5 <= exponent < 9:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(0, digits - 1 - exponent)}f}"


def milliseconds(value_ms: float) -> str:
    return f"{figures(value_ms)} ms"


def size(count: int) -> str:
    """Bytes in decimal units, as `--max-size 4MB` counts them."""
    for unit, name in _UNITS:
        if count >= unit:
            return f"{figures(count / unit)} {name}"
    return f"{count} bytes"


def binary_size(count: int) -> str:
    """Bytes in powers of 1024, as caches and memories are made: "32 KiB"."""
    for power, name in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024**power:
            return f"{count / 1024**power:.4g} {name}"
    return f"{count} bytes"


def percent(share: float) -> str:
    """A share such as 0.0123 as "1.23 %"."""
    return f"{share * 100:.2f} %"


def duration(seconds: float) -> str:
    """A time that somebody waited, as "4.2 s" or "3 min 20 s"."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def latency(value: Latency) -> str:
    """The median with its spread: "1.23 ms (1.20-1.31)"."""
    if value.kind == "predicted" or value.p10_ms == value.p90_ms:
        return milliseconds(value.median_ms)
    return f"{milliseconds(value.median_ms)} ({figures(value.p10_ms)}-{figures(value.p90_ms)})"


def speedup(value: Ratio) -> str:
    """The median with its spread: "1.56x as fast (1.50-1.61)"."""
    return f"{value.median:.2f}x as fast ({value.low:.2f}-{value.high:.2f})"
