"""Values as people write them: 1%, 5ms, 4MB, 2x, 10m, x=1x3x224x224."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import click

_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
# Both characters that Unicode has for a micro are in use.
_LATENCY_MS = {"us": 1e-3, "\u00b5s": 1e-3, "\u03bcs": 1e-3, "ms": 1.0, "s": 1e3}
_TIME_S = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_BYTES = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
}


class Drop(NamedTuple):
    """A loss of quality: relative to the float model's, or absolute in the metric's unit."""

    value: float
    absolute: bool


def parse_drop(text: str) -> Drop:
    """ "1%" is a share of the float model's quality; "0.01" is in the metric's own unit.

    Raises:
        ValueError: it is neither; the message is for the user.
    """
    number = _number(text.removesuffix("%"))
    if number is None:
        raise ValueError(f"{text!r} is no drop: write 1% (of the quality) or 0.01 (absolute)")
    if not text.endswith("%"):
        return Drop(number, absolute=True)
    if number > 100:
        raise ValueError(f"{text!r} is more than everything: write at most 100%")
    return Drop(number / 100, absolute=False)


def parse_latency_ms(text: str) -> float:
    """ "5ms", "800us" or "0.1s" in milliseconds.

    Raises:
        ValueError: it is no positive time with its unit.
    """
    value = _with_unit(text, _LATENCY_MS)
    if value is None or value <= 0:
        raise ValueError(f"{text!r} is no latency: write a unit, as in 5ms, 800us or 0.1s")
    return value


def parse_time_s(text: str) -> float:
    """ "90s", "10m", "2h" or "1h30m" in seconds.

    Raises:
        ValueError: it is no positive time with its unit.
    """
    parts = re.findall(rf"({_NUMBER})(s|min|m|h)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no time: write a unit, as in 90s, 10m or 1h30m")
    seconds = sum(float(number) * _TIME_S[unit] for number, unit in parts)
    if not 0 < seconds < math.inf:
        raise ValueError(f"{text!r} is no time that can be waited for")
    return seconds


def parse_bytes(text: str) -> int:
    """ "4MB" (4,000,000), "512KiB" (524,288) or "1000" in bytes.

    Raises:
        ValueError: it is no positive size.
    """
    value = _number(text)
    if value is None:
        value = _with_unit(text.upper(), _BYTES)
    if value is None or value < 1:
        raise ValueError(f"{text!r} is no size: write bytes or a unit, as in 4MB or 512KiB")
    return int(value)


def parse_factor(text: str) -> float:
    """ "2x" or "1.5".

    Raises:
        ValueError: it is no positive factor.
    """
    value = _number(text.removesuffix("x"))
    if value is None or value <= 0:
        raise ValueError(f"{text!r} is no speed-up: write a factor, as in 2x or 1.5x")
    return value


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """ "x=1x3x224x224" as the input's name and its dimensions.

    Raises:
        ValueError: there is no name, or a dimension is no positive whole number.
    """
    name, equals, dims = text.rpartition("=")
    parts = dims.split("x")
    if not equals or not name:
        raise ValueError(f"{text!r} is no shape: write NAME=DIMS, as in x=1x3x224x224")
    if not all(re.fullmatch(r"[0-9]{1,18}", part) and int(part) > 0 for part in parts):
        raise ValueError(
            f"{dims!r} are no dimensions: write positive whole numbers with x between, "
            "as in x=1x3x224x224"
        )
    return name, tuple(map(int, parts))


def parse_setting(text: str) -> tuple[str, str]:
    """ "name=value"; what the value means is decided by the input's dtype.

    Raises:
        ValueError: there is no name or no value.
    """
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise ValueError(f"{text!r} sets nothing: write NAME=VALUE, as in training=false")
    return name, value


def parse_names(text: str) -> tuple[str, ...]:
    """ "quantize,prune" as names without repeats, in order.

    Raises:
        ValueError: a name is empty.
    """
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if not all(names):
        raise ValueError(f"{text!r} has an empty name: write names with commas between")
    return names


def _number(text: str) -> float | None:
    """A finite number that is not negative; None if the text is none."""
    if re.fullmatch(_NUMBER, text) is None:
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _with_unit(text: str, units: dict[str, Any]) -> float | None:
    found = re.fullmatch(rf"({_NUMBER}) *([A-Za-z\u00b5\u03bc]+)", text)
    if found is None or found[2] not in units:
        return None
    number = _number(found[1])
    if number is None:
        return None
    value = number * float(units[found[2]])
    return value if math.isfinite(value) else None


# click's type became generic in 8.4, and cannot be subscripted before.
if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType


class _Value(_ParamType):
    """A parameter type made of a parser whose ValueError is the message for the user."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DROP = _Value("drop", parse_drop)
LATENCY = _Value("latency", parse_latency_ms)
TIME = _Value("time", parse_time_s)
BYTES = _Value("size", parse_bytes)
FACTOR = _Value("factor", parse_factor)
SHAPE = _Value("name=dims", parse_shape)
SETTING = _Value("name=value", parse_setting)
NAMES = _Value("names", parse_names)
