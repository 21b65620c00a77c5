"""The right class of each sample, where the user's data says it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import UsageError
from compress.evidence.data import CalibrationData, InputSpec
from compress.evidence.npz import NpzArray, open_npz
from compress.evidence.sources import LABELS, as_array
from compress.evidence.user_code import is_reference


def read_labels(name: str, arrays: Mapping[str, NpzArray | Any], advice: str) -> NDArray[np.int64]:
    """The array `labels`: one class index a sample.

    Args:
        name: of the data, for messages.
        advice: what to do where there is no such array.

    Raises:
        UsageError: it is missing, or does not hold one index that is not negative per sample.
    """
    if LABELS not in arrays:
        has = ", ".join(repr(key) for key in arrays) or "nothing"
        raise UsageError(f"{name} has no array {LABELS!r} (it has {has}): {advice}")
    array = arrays[LABELS]
    if not isinstance(array, NpzArray):
        array = as_array(array, LABELS, name)
    if array.dtype.kind not in "iu" or array.shape not in (array.shape[:1], (*array.shape[:1], 1)):
        raise UsageError(
            f"{name}: {LABELS!r} is {array.dtype} of shape {array.shape}; it must hold one whole "
            "number per sample, the index of the right class"
        )
    whole = array.read() if isinstance(array, NpzArray) else array
    labels = np.asarray(whole.reshape(-1).astype(np.int64))
    if len(labels) and int(labels.min()) < 0:
        raise UsageError(f"{name}: label {int(labels.min())} is negative")
    return labels


def rows_per_sample(arrays: Mapping[str, NpzArray | Any], spec: InputSpec) -> int:
    """The batch size that the model fixes, or 1."""
    fixed = spec.shape[0] if spec.shape else None
    same_rank = spec.rank == len(arrays[spec.name].shape)
    return fixed if isinstance(fixed, int) and same_rank else 1


def labels_of(source: object, samples: CalibrationData) -> NDArray[np.int64]:
    """The label of each of the samples, from where they were opened.

    Args:
        source: what the user gave as data: an .npz or a dict of arrays with `labels` besides the
            inputs.

    Returns:
        (samples,) int64.

    Raises:
        UsageError: the data has no labels, or one sample has several.
    """
    advice = "learning from labels takes them beside the inputs in --data; leave --labels out"
    path = isinstance(source, (str, Path)) and not is_reference(str(source))
    if path and Path(str(source)).is_file():
        name, arrays = str(source), open_npz(Path(str(source)))
    elif isinstance(source, Mapping):
        name, arrays = "the calibration data", dict(source)
    else:
        raise UsageError(f"{samples.name} is not an .npz with labels: {advice}")
    labels = read_labels(name, arrays, advice)
    first = samples.inputs[0]
    if rows_per_sample(arrays, first) != 1:
        raise UsageError(f"{name}: the model takes several rows at once: {advice}")
    count = int(np.shape(arrays[first.name])[0])
    if len(labels) != count:
        raise UsageError(f"{name} has {count} samples and {len(labels)} labels")
    return np.asarray(labels[samples.places])
