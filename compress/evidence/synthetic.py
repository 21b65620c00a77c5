"""Calibration samples where the user has none: from batch norms, or from what inputs must be."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.errors import DeviceError, ModelError
from compress.evidence.data import InputSpec
from compress.evidence.input_sizes import Shapes, choose_sizes
from compress.evidence.norm_matching import match, norm_targets
from compress.evidence.patterns import Style, draw, layout_of
from compress.execute.runtime import first_line
from compress.execute.session import Runner

Sample = dict[str, NDArray[Any]]

# Operators between a graph input and the Gather that looks its values up in a table.
_PASSING = frozenset({"Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Slice"})
_PASSING_DEPTH = 8

_IMAGE_MEAN, _IMAGE_STD = 0.25, 0.5
"""Of image inputs whose range nothing tells: within a factor of about two of the usual ones, which
are 0 to 1, -1 to 1, and mean 0 with standard deviation 1."""

_MASK = re.compile(r"mask|attention|valid", re.IGNORECASE)
_POSITION = re.compile(r"position|pos_ids", re.IGNORECASE)
_SEGMENT = re.compile(r"token_type|segment", re.IGNORECASE)

# The metadata key and values of the ONNX standard's image annotations.
_PIXEL_RANGE = "Image.NominalPixelRange"
_PIXEL_RANGES = {
    "NominalRange_0_255": (0.0, 255.0),
    "Normalized_0_1": (0.0, 1.0),
    "Normalized_1_1": (-1.0, 1.0),
    "NominalRange_16_235": (16.0, 235.0),
}


def synthesise(
    model: ir.Model,
    inputs: Sequence[InputSpec],
    n: int,
    seed: int,
    *,
    sizes: Mapping[str, int] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> tuple[list[Sample], str]:
    """Make up `n` samples; equal arguments give equal samples.

    Float inputs are shaped so that the inputs of the model's batch norms have the mean and variance
    that these remember from training. Without batch norms they are random images, or noise, over
    the range that the model declares, or of usual size. Whole numbers are drawn from the table
    that they index; masks are ones.

    Args:
        model: before its batch norms are folded.
        inputs: its inputs.
        n: how many samples, at least 1.
        seed: of all randomness.
        sizes: of symbolic dimensions, by symbol. Others get a batch of 1 and the first usual sizes
            that the model runs with.
        on_step: called with (runs of the model done, runs in all).

    Returns:
        The samples, and one sentence for the report that says how they came about.

    Raises:
        UsageError: no sizes were found that the model runs with.
        ModelError: an input of a type that cannot be made up.
        DeviceError: the model does not run.
    """
    if n < 1:
        raise ValueError("synthesise at least one sample")
    makers = {spec.name: _maker(model, spec) for spec in inputs}
    runner = Runner(model)

    def sample(shapes: Shapes, rng: np.random.Generator) -> Sample:
        return {spec.name: makers[spec.name].draw(shapes[spec.name], rng) for spec in inputs}

    def runs(shapes: Shapes) -> None:
        _run_quietly(runner, sample(shapes, np.random.default_rng(seed)))

    shapes = choose_sizes(inputs, sizes or {}, runs)
    layouts = {
        name: layout_of(shape) for name, shape in shapes.items() if makers[name].free and shape
    }
    targets = norm_targets(model) if layouts else []
    if targets:

        def others(rng: np.random.Generator) -> Sample:
            drawn = sample(shapes, rng)
            return {name: array for name, array in drawn.items() if name not in layouts}

        samples, reached, noise = match(model, targets, layouts, others, n, seed, on_step)
        if samples:
            ordered = [{spec.name: found[spec.name] for spec in inputs} for found in samples]
            return ordered, (
                f"Calibrated on {len(samples)} synthetic samples, because no data was given: "
                f"random inputs fitted so that the inputs of {len(targets)} batch norms have the "
                f"statistics stored in them (mismatch {reached:.2g}; {noise:.2g} for plain noise)."
            )
    rng = np.random.default_rng(seed)
    kinds = ", ".join(f"{spec.name!r} {makers[spec.name].how}" for spec in inputs)
    return [sample(shapes, rng) for _ in range(n)], (
        f"Calibrated on {n} synthetic samples, drawn by the inputs' types and shapes because no "
        f"data was given and the model has no batch norms to learn from: {kinds}."
    )


def _run_quietly(runner: Runner, sample: Sample) -> None:
    """Run once; that onnxruntime refuses a guessed size is no news for the user's terminal."""
    import onnxruntime as ort

    options = ort.RunOptions()
    options.log_severity_level = 4
    try:
        runner.session.run(runner.outputs[:1], sample, options)
    except Exception as error:
        raise DeviceError(f"onnxruntime failed while running: {first_line(error)}") from error


@dataclass(frozen=True)
class _Maker:
    """How the values of one input are made up."""

    draw: Callable[[tuple[int, ...], np.random.Generator], NDArray[Any]]
    how: str
    free: bool = False
    """Whether the values may be anything, so that batch norms can tell what they should be."""


def _maker(model: ir.Model, spec: InputSpec) -> _Maker:
    value = next((v for v in model.graph.inputs if v.name == spec.name), None)
    if value is None or spec.shape is None:
        raise ModelError(
            f"input {spec.name!r} has no known rank, so no samples can be made up for it: give "
            "calibration data with --data"
        )
    dtype = spec.dtype
    if dtype.kind == "b":
        return _Maker(lambda shape, _: np.ones(shape, dtype), "all true")
    if dtype.kind in "iu":
        return _integers(value, spec)
    if dtype.kind != "f" and dtype.name != "bfloat16":
        raise ModelError(
            f"input {spec.name!r} is {dtype}, for which no samples can be made up: give "
            "calibration data with --data"
        )
    if _MASK.search(spec.name):
        return _Maker(lambda shape, _: np.ones(shape, dtype), "all one")
    return _floats(spec, _declared_range(model, value))


def _floats(spec: InputSpec, bounds: tuple[float, float] | None) -> _Maker:
    dtype = spec.dtype
    free = dtype == np.float32
    low, high = bounds or (-np.inf, np.inf)
    if _is_image(spec.shape or ()):
        mean = (low + high) / 2 if bounds else _IMAGE_MEAN
        std = (high - low) / 4 if bounds else _IMAGE_STD
        return _Maker(
            lambda shape, rng: np.clip(_image(shape, mean, std, rng), low, high).astype(dtype),
            f"random images of mean {mean:g} and standard deviation {std:g}",
            free,
        )
    if bounds is not None:
        return _Maker(
            lambda shape, rng: rng.uniform(low, high, shape).astype(dtype),
            f"uniform from {low:g} to {high:g}",
            free,
        )
    return _Maker(
        lambda shape, rng: rng.standard_normal(shape).astype(dtype), "standard normal", free
    )


def _is_image(shape: Sequence[int | str | None]) -> bool:
    return len(shape) == 4 and (shape[1] in (1, 3, 4) or shape[3] in (1, 3, 4))


def _image(
    shape: tuple[int, ...], mean: float, std: float, rng: np.random.Generator
) -> NDArray[Any]:
    """Clouds, shapes and strokes: white noise would average out in the first convolutions."""
    layout = layout_of(shape)
    style = Style(
        (mean,) * layout.channels,
        (float(np.log(std)),) * layout.channels,
        slope=rng.uniform(0.5, 2),
        structure=rng.normal(),
        fold=rng.normal(),
    )
    return draw(style, layout, rng)


def _integers(value: ir.Value, spec: InputSpec) -> _Maker:
    dtype = spec.dtype
    rows = min(_table_rows(value, _PASSING_DEPTH), default=None)
    if _MASK.search(spec.name):
        return _Maker(lambda shape, _: np.ones(shape, dtype), "all one")
    if _SEGMENT.search(spec.name):
        return _Maker(lambda shape, _: np.zeros(shape, dtype), "all zero")
    if _POSITION.search(spec.name):
        return _Maker(
            lambda shape, _: (
                np.broadcast_to(
                    np.arange(shape[-1] if shape else 1) % (rows or 1 << 30), shape or (1,)
                )
                .reshape(shape)
                .astype(dtype)
            ),
            "counting up",
        )
    if rows is not None:
        return _Maker(
            lambda shape, rng: rng.integers(0, rows, shape).astype(dtype),
            f"token numbers below {rows}",
        )
    if dtype == np.uint8:
        return _Maker(
            lambda shape, rng: rng.integers(0, 256, shape, dtype=np.uint8), "bytes from 0 to 255"
        )
    return _Maker(lambda shape, _: np.ones(shape, dtype), "all one")


def _table_rows(value: ir.Value, depth: int) -> Iterator[int]:
    """The sizes of the tables that this value indexes, through operators that keep its values."""
    for node, position in value.uses():
        if node.op_type in ("Gather", "GatherElements") and position == 1:
            table = node.inputs[0]
            axis = node.attributes.get_int("axis", 0)
            if table is not None and table.shape is not None and axis < len(table.shape):
                rows = table.shape[axis]
                if isinstance(rows, int):
                    yield rows
        elif node.op_type == "OneHot" and position == 0 and node.inputs[1] is not None:
            tensor = ir.convenience.get_const_tensor(node.inputs[1])
            if tensor is not None:
                yield int(tensor.numpy().reshape(-1)[0])
        elif node.op_type in _PASSING and position == 0 and depth:
            for output in node.outputs:
                yield from _table_rows(output, depth - 1)


def _declared_range(model: ir.Model, value: ir.Value) -> tuple[float, float] | None:
    """The range of an input by the model's metadata, or by the first thing it does with it."""
    stated = _PIXEL_RANGES.get(model.metadata_props.get(_PIXEL_RANGE, ""))
    if stated is not None and value.shape is not None and len(value.shape) == 4:
        return stated
    uses = list(value.uses())
    if len(uses) != 1:
        return None
    node, position = uses[0]
    if position != 0:
        return None
    bounds = [_scalar(source) for source in node.inputs[1:]]
    if node.op_type == "Clip" and len(bounds) == 2:
        low, high = bounds
        if low is not None and high is not None and -np.inf < low < high < np.inf:
            return low, high
        return None
    factor = bounds[0] if bounds else None
    if factor is None:
        return None
    if (node.op_type == "Div" and 200 <= factor <= 256) or (
        node.op_type == "Mul" and 1 / 256 <= factor <= 1 / 200
    ):
        return 0.0, 255.0
    return None


def _scalar(value: ir.Value | None) -> float | None:
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return float(tensor.numpy().reshape(-1)[0]) if tensor is not None and tensor.size == 1 else None
