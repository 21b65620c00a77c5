"""Sizes for the symbolic and unknown dimensions of a model's inputs, where the user gave none."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from compress.errors import CompressError, UsageError
from compress.evidence.data import InputSpec

Shapes = dict[str, tuple[int, ...]]

SPATIAL = (224, 64, 256, 32, 128, 96, 48, 320, 512, 299)
"""Heights and widths in the order in which they are tried."""
SEQUENCE = (64, 128, 16, 8, 1, 256, 512)

_ANONYMOUS = ("", "?", "None", "none", "-1")
_BATCH = re.compile(r"batch|^n$|^bs$", re.IGNORECASE)
_PAST = re.compile(r"past", re.IGNORECASE)


def choose_sizes(
    inputs: Sequence[InputSpec],
    sizes: Mapping[str, int],
    runs: Callable[[Shapes], None],
) -> Shapes:
    """A shape for every input: batch 1, then the first usual sizes that the model runs with.

    Args:
        inputs: the model's inputs.
        sizes: sizes of symbolic dimensions that are known, by symbol.
        runs: raises a CompressError if the model does not run with inputs of these shapes.

    Raises:
        UsageError: the model runs with none of the sizes tried.
        CompressError: all sizes are given, and the model does not run.
    """
    candidates = list(_candidates(inputs, sizes))
    for shapes in candidates:
        try:
            runs(shapes)
        except CompressError as error:
            failure = error
            continue
        return shapes
    if len(candidates) == 1:
        raise failure
    open_dims = {
        dim or "?" for spec in inputs for dim in spec.shape or () if not isinstance(dim, int)
    }
    raise UsageError(
        f"no usual size of the model's dynamic dimensions ({', '.join(sorted(open_dims))}) lets it "
        "run: give calibration data with --data, or fix the sizes with --shape"
    )


def _candidates(inputs: Sequence[InputSpec], sizes: Mapping[str, int]) -> Iterator[Shapes]:
    seen: list[Shapes] = []
    # Sequence lengths and image sizes seldom meet in one model, so they change together.
    for i in range(max(len(SPATIAL), len(SEQUENCE))):
        spatial, sequence = SPATIAL[i % len(SPATIAL)], SEQUENCE[i % len(SEQUENCE)]
        known = dict(sizes)
        shapes = {
            spec.name: tuple(
                _size(spec, axis, known, spatial, sequence) for axis in range(spec.rank or 0)
            )
            for spec in inputs
        }
        if shapes not in seen:
            seen.append(shapes)
            yield shapes


def _size(spec: InputSpec, axis: int, known: dict[str, int], spatial: int, sequence: int) -> int:
    shape = spec.shape or ()
    dim = shape[axis]
    if isinstance(dim, int):
        return dim
    symbol = (dim or "").strip()
    if symbol in known:
        return known[symbol]
    if "+" in symbol:  # as exporters write "past_length + length"
        parts = [part.strip() for part in symbol.split("+")]
        return sum(int(part) if part.isdigit() else _named(part, known, sequence) for part in parts)
    if axis == 0 or _BATCH.search(symbol):
        size = 1
    elif _PAST.search(symbol):
        size = 0
    elif axis in _spatial_axes(shape):
        size = spatial
    else:
        size = sequence
    if symbol not in _ANONYMOUS:
        known[symbol] = size
    return size


def _named(symbol: str, known: dict[str, int], sequence: int) -> int:
    return known.setdefault(symbol, 0 if _PAST.search(symbol) else sequence)


def _spatial_axes(shape: Sequence[int | str | None]) -> tuple[int, ...]:
    """Heights and widths: of NCHW and NCDHW, or of NHWC where the last axis can only be colours."""
    if len(shape) not in (4, 5):
        return ()
    if shape[-1] in (1, 3, 4) and not isinstance(shape[1], int):
        return tuple(range(1, len(shape) - 1))
    return tuple(range(2, len(shape)))
