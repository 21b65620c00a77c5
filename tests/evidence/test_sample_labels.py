"""Labels that lie beside the inputs: found, checked, and picked for the samples in use."""

from __future__ import annotations

import numpy as np
import pytest

from compress.errors import UsageError
from compress.evidence.data import InputSpec, open_calibration
from compress.evidence.labels import labels_of

SPEC = [InputSpec("x", np.dtype(np.float32), ("n", 3))]


def arrays(count=10, **more):
    return {
        "x": np.arange(3 * count, dtype=np.float32).reshape(count, 3),
        "labels": np.arange(count) % 4,
        **more,
    }


def test_the_labels_of_the_samples_that_were_picked(tmp_path):
    given = arrays()
    np.savez(tmp_path / "data.npz", **given)
    for source in (given, str(tmp_path / "data.npz"), tmp_path / "data.npz"):
        samples = open_calibration(source, SPEC, limit=4)
        labels = labels_of(source, samples)
        rows = [int(sample["x"][0, 0]) // 3 for sample in samples]
        assert labels.tolist() == [row % 4 for row in rows]
        assert labels.dtype == np.int64


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.arange(9), "10 samples and 9 labels"),
        (np.arange(10) - 1, "label -1 is negative"),
        (np.arange(10) / 2, "float64"),
        (np.zeros((10, 4), int), "one whole number per sample"),
    ],
)
def test_labels_that_are_none(labels, says):
    given = arrays(labels=labels)
    with pytest.raises(UsageError, match=says):
        labels_of(given, open_calibration(given, SPEC))


def test_data_without_labels(tmp_path):
    given = arrays()
    del given["labels"]
    with pytest.raises(UsageError, match="leave --labels out"):
        labels_of(given, open_calibration(given, SPEC))
    samples = open_calibration([{"x": given["x"][:1]}], SPEC)
    for source in ([{"x": given["x"][:1]}], tmp_path, None):
        with pytest.raises(UsageError, match="with labels: learning from labels"):
            labels_of(source, samples)


def test_a_model_that_takes_several_rows_at_once():
    spec = [InputSpec("x", np.dtype(np.float32), (2, 3))]
    with pytest.raises(UsageError, match="several rows at once"):
        labels_of(arrays(), open_calibration(arrays(), spec))
