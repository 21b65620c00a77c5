"""The samples of a run."""

from __future__ import annotations

import numpy as np
import pytest
from small_networks import cnn, encoder, floats, images, network, sentences

from compress.errors import UsageError
from compress.progress import Silent
from compress.stages.calibration import (
    FIDELITY_SAMPLES,
    MAX_SAMPLES,
    REFERENCE_SAMPLES,
    open_samples,
    write_sample,
)
from compress.stages.subject import check_runs, open_subject


class Listening(Silent):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_the_users_samples(tmp_path):
    subject = open_subject(cnn(), tmp_path)
    listening = Listening()
    found = open_samples(subject, images(200), 0, listening)
    assert not found.synthetic
    assert len(found.data) == MAX_SAMPLES
    assert len(found.reference(REFERENCE_SAMPLES)) == REFERENCE_SAMPLES
    assert len(list(found.fidelity)) == FIDELITY_SAMPLES
    assert found.typical["image"].shape == (1, 3, 12, 12)
    assert "Python" in found.description
    assert listening.notes == []


def test_few_samples_are_all_used(tmp_path):
    subject = open_subject(cnn(), tmp_path)
    found = open_samples(subject, images(1), 0, Silent())
    assert (
        len(found.data) == len(found.reference(REFERENCE_SAMPLES)) == len(list(found.fidelity)) == 1
    )


def test_the_typical_sample_is_of_median_size(tmp_path):
    subject = open_subject(encoder(), tmp_path)
    samples = sentences(9)
    found = open_samples(subject, samples, 0, Silent())
    lengths = sorted(s["ids"].shape[1] for s in samples)
    assert found.typical["ids"].shape == (1, lengths[4])
    # the same one in every run
    again = open_samples(subject, samples, 0, Silent())
    np.testing.assert_array_equal(found.typical["ids"], again.typical["ids"])


def test_samples_are_made_up_where_there_are_none(tmp_path):
    subject = open_subject(encoder(), tmp_path)
    listening = Listening()
    found = open_samples(subject, None, 0, listening)
    assert found.synthetic
    assert listening.notes == [found.description]
    assert found.typical["ids"].dtype == np.int64
    assert found.typical["ids"].max() < 50
    check_runs(subject, write_sample(found.typical, tmp_path / "typical.npz"))
    again = open_samples(subject, None, 0, Silent())
    for one, other in zip(found.reference(8), again.reference(8), strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    other = open_samples(subject, None, 1, Silent())
    assert any(
        not np.array_equal(a["ids"], b["ids"])
        for a, b in zip(found.reference(8), other.reference(8), strict=True)
        if a["ids"].shape == b["ids"].shape
    )


def test_nothing_is_said_where_only_shapes_matter(tmp_path):
    subject = open_subject(cnn(), tmp_path)
    listening = Listening()
    assert open_samples(subject, None, 0, listening, faithful=False).synthetic
    assert listening.notes == []


@pytest.mark.parametrize("name", ["file", "args", "x/y:0", "self", "a b"])
def test_inputs_of_any_name(name, tmp_path):
    """A sample on its way to the process that tries the model out."""
    given = network("g (float[N,4] x) => (float[N,4] y) { y = Exp (x) }")
    given.graph.input[0].name = given.graph.node[0].input[0] = name
    subject = open_subject(given, tmp_path)
    found = open_samples(subject, [{name: floats(1, 4)}], 0, Silent())
    assert check_runs(subject, write_sample(found.typical, tmp_path / "typical.npz"))


def test_no_samples_at_all(tmp_path):
    subject = open_subject(cnn(), tmp_path)
    with pytest.raises(UsageError):
        open_samples(subject, images(0), 0, Silent())
