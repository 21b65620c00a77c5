"""Values of options: what people write, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.cli import values

PARSERS: list[Callable[[str], Any]] = [
    values.parse_drop,
    values.parse_latency_ms,
    values.parse_time_s,
    values.parse_bytes,
    values.parse_factor,
    values.parse_shape,
    values.parse_setting,
    values.parse_names,
]

ALPHABET = st.sampled_from("0123456789.,+-eE%xusmhkKMGiBb= naif_µ٣\n")


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (values.parse_drop, "1%", (0.01, False)),
        (values.parse_drop, "0.5%", (0.005, False)),
        (values.parse_drop, "0.01", (0.01, True)),
        (values.parse_drop, "0", (0.0, True)),
        (values.parse_latency_ms, "5ms", 5.0),
        (values.parse_latency_ms, "0.1s", 100.0),
        (values.parse_latency_ms, "800us", 0.8),
        (values.parse_latency_ms, "1.5 ms", 1.5),
        (values.parse_latency_ms, "5\u00b5s", 0.005),
        (values.parse_latency_ms, "5\u03bcs", 0.005),
        (values.parse_time_s, "90s", 90.0),
        (values.parse_time_s, "10m", 600.0),
        (values.parse_time_s, "10min", 600.0),
        (values.parse_time_s, "1h30m", 5400.0),
        (values.parse_bytes, "4MB", 4_000_000),
        (values.parse_bytes, "512KiB", 524_288),
        (values.parse_bytes, "512kib", 524_288),
        (values.parse_bytes, "1.5 GB", 1_500_000_000),
        (values.parse_bytes, "1000", 1000),
        (values.parse_bytes, "12B", 12),
        (values.parse_factor, "2x", 2.0),
        (values.parse_factor, "1.5", 1.5),
        (values.parse_shape, "x=1x3x224x224", ("x", (1, 3, 224, 224))),
        (values.parse_shape, "input=a:0=7", ("input=a:0", (7,))),
        (values.parse_setting, "training=false", ("training", "false")),
        (values.parse_setting, "a=b=c", ("a", "b=c")),
        (values.parse_names, "quantize, prune,quantize", ("quantize", "prune")),
    ],
)
def test_what_people_write(parse: Callable[[str], Any], text: str, value: Any) -> None:
    parsed = parse(text)
    assert parsed == (pytest.approx(value) if isinstance(value, float) else value)


@pytest.mark.parametrize(
    ("parse", "text", "hint"),
    [
        (values.parse_drop, "-1%", "1%"),
        (values.parse_drop, "1 percent", "1%"),
        (values.parse_drop, "0,01", "0.01"),
        (values.parse_drop, "101%", "at most 100%"),
        (values.parse_drop, "nan", "1%"),
        (values.parse_latency_ms, "5", "5ms"),
        (values.parse_latency_ms, "0ms", "5ms"),
        (values.parse_latency_ms, "5 minutes", "5ms"),
        (values.parse_time_s, "10", "10m"),
        (values.parse_time_s, "0s", "waited"),
        (values.parse_time_s, "10m!", "10m"),
        (values.parse_bytes, "4M", "4MB"),
        (values.parse_bytes, "0", "4MB"),
        (values.parse_bytes, "0.5B", "4MB"),
        (values.parse_factor, "0x", "2x"),
        (values.parse_factor, "inf", "2x"),
        (values.parse_shape, "1x3x224x224", "NAME=DIMS"),
        (values.parse_shape, "x=", "positive"),
        (values.parse_shape, "x=1x0x2", "positive"),
        (values.parse_shape, "x=1,3,224", "positive"),
        (values.parse_shape, "x=1x-1", "positive"),
        (values.parse_setting, "training", "NAME=VALUE"),
        (values.parse_setting, "=1", "NAME=VALUE"),
        (values.parse_setting, "a=", "NAME=VALUE"),
        (values.parse_names, "quantize,,prune", "commas"),
    ],
)
def test_what_is_wrong_is_refused_with_advice(
    parse: Callable[[str], Any], text: str, hint: str
) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is checked below
        parse(text)
    assert hint in str(error.value)
    assert text in str(error.value) or "=" in text


@given(st.text(ALPHABET, max_size=12))
def test_any_text_gives_a_value_in_range_or_a_message(text: str) -> None:
    for parse in PARSERS:
        try:
            parsed = parse(text)
        except ValueError:
            continue
        for number in parsed if isinstance(parsed, tuple) else (parsed,):
            if isinstance(number, float):
                assert math.isfinite(number)
                assert number >= 0


@given(st.integers(1, 10**15), st.sampled_from(["B", "KB", "MB", "GB", "KiB", "MiB", "GiB"]))
def test_sizes_are_exact(count: int, unit: str) -> None:
    factor = {"B": 1, "K": 1000, "M": 1000**2, "G": 1000**3}[unit[0]]
    if "i" in unit:
        factor = {"K": 1024, "M": 1024**2, "G": 1024**3}[unit[0]]
    assert values.parse_bytes(f"{count}{unit}") == pytest.approx(count * factor, rel=1e-12)


@given(
    st.text(min_size=1, max_size=8),
    st.lists(st.integers(1, 10**6), min_size=1, max_size=6).map(tuple),
)
def test_shapes_of_inputs_of_any_name(name: str, dims: tuple[int, ...]) -> None:
    assert values.parse_shape(f"{name}={'x'.join(map(str, dims))}") == (name, dims)


@given(st.floats(0.001, 1e6), st.sampled_from([("us", 1e-3), ("ms", 1.0), ("s", 1e3)]))
def test_latencies_of_any_unit(number: float, unit: tuple[str, float]) -> None:
    parsed = values.parse_latency_ms(f"{number!r}{unit[0]}")
    assert parsed == pytest.approx(number * unit[1])
