"""Example inputs for tracing a torch model: taken from the user, or built from shapes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from compress.errors import UsageError

MAX_ELEMENTS = 2**31
"""Refuse shapes whose input alone would fill the memory."""

_INTEGER_NAMES = ("ids", "id", "mask", "index", "indices", "tokens", "positions", "labels")
_ONES_NAMES = ("mask",)


def as_arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(positional, keyword) arguments, with arrays as tensors.

    A tuple or list is positional, a dict is by name, anything else is the only argument.

    Raises:
        UsageError: there are none.
    """
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example_inputs, Mapping):
        kwargs = {str(k): _tensors(v) for k, v in example_inputs.items()}
    elif isinstance(example_inputs, (tuple, list)):
        args = tuple(_tensors(v) for v in example_inputs)
    else:
        args = (_tensors(example_inputs),)
    if not args and not kwargs:
        raise UsageError("the example inputs are empty: give one for each input of the model")
    return args, kwargs


def forward_parameters(forward: Callable[..., Any]) -> tuple[list[str], list[str], bool]:
    """(required, optional, open): the parameters' names, and whether it also takes any others."""
    required, optional, variadic = [], [], False
    for parameter in inspect.signature(forward).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            variadic = True
        elif parameter.default is parameter.empty:
            required.append(parameter.name)
        else:
            optional.append(parameter.name)
    return required, optional, variadic


def check_names(
    shapes: Mapping[str, Sequence[int]],
    required: Sequence[str],
    optional: Sequence[str],
    variadic: bool = False,
) -> None:
    """Refuse shapes for inputs that do not exist, and inputs without a shape.

    Raises:
        UsageError: the message names them and says how to give shapes.
    """
    missing = [name for name in required if name not in shapes]
    if missing:
        flags = " ".join(f"--shape {name}=1x3x224x224" for name in missing)
        raise UsageError(
            f"the shapes of the model's inputs are not known: give {flags} (with your sizes), "
            "or example inputs"
        )
    unknown = [name for name in shapes if name not in (*required, *optional)]
    if unknown and not variadic:
        known = ", ".join((*required, *optional)) or "none"
        raise UsageError(f"the model has no input '{unknown[0]}' (it has: {known})")


def from_shapes(
    shapes: Mapping[str, Sequence[int]], runs: Callable[[dict[str, Any]], object]
) -> dict[str, Any]:
    """Tensors of the given shapes, name -> tensor, of dtypes with which `runs` does not fail.

    Shapes tell no dtype, so three guesses are tried: by the inputs' names (int64 for ids, masks
    and the like, else float32), all float32, all int64.

    Raises:
        UsageError: a shape is impossible, or the model runs with none of the guesses.
    """
    for name, shape in shapes.items():
        if any(size < 1 for size in shape) or _product(shape) > MAX_ELEMENTS:
            raise UsageError(f"the shape {'x'.join(map(str, shape))} of '{name}' is impossible")
    failure: Exception | None = None
    for inputs in _guesses(shapes):
        try:
            runs(inputs)
        except Exception as error:
            failure = failure or error
            continue
        return inputs
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    reason = lines[-1] if lines else type(failure).__name__
    given = ", ".join(f"{name}={'x'.join(map(str, shape))}" for name, shape in shapes.items())
    raise UsageError(f"the model does not run on inputs of shape {given}: {reason[:300]}")


def _guesses(shapes: Mapping[str, Sequence[int]]) -> Iterator[dict[str, Any]]:
    by_name = {name: _is_integer_name(name) for name in shapes}
    seen: list[dict[str, bool]] = []
    for integers in (by_name, dict.fromkeys(shapes, False), dict.fromkeys(shapes, True)):
        if integers not in seen:
            seen.append(integers)
            yield {name: _tensor(name, shapes[name], integers[name]) for name in shapes}


def _tensor(name: str, shape: Sequence[int], is_integer: bool) -> Any:
    import torch

    size = tuple(shape)
    if is_integer:
        ones = name.lower().endswith(_ONES_NAMES)
        return torch.ones(size, dtype=torch.int64) if ones else torch.zeros(size, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    return torch.rand(size, generator=generator)


def _is_integer_name(name: str) -> bool:
    return name.lower().rpartition("_")[2] in _INTEGER_NAMES


def _tensors(value: Any) -> Any:
    import numpy as np
    import torch

    if isinstance(value, (np.ndarray, np.generic)):
        return torch.from_numpy(np.array(value))
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return type(value)(_tensors(item) for item in value)
    if isinstance(value, dict):
        return {key: _tensors(item) for key, item in value.items()}
    return value


def _product(shape: Sequence[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product
