from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from benchmarks.quality import paired_interval
from benchmarks.runtimes import onnxruntime_run
from benchmarks.zoo import NAMES, basic_pitch, load, minilm, ocr_det, ocr_rec


def test_every_model_has_an_eval_file_for_the_command_line() -> None:
    for name in NAMES:
        case = load(name)
        assert case.name == name
        assert "import evaluate" in case.eval_file.read_text()


def test_unknown_model_is_named_with_the_known_ones() -> None:
    with pytest.raises(KeyError, match=r"resnet.*minilm"):
        load("resnet")


def test_decoding_collapses_repeats_but_keeps_letters_parted_by_a_blank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ocr_rec, "alphabet", lambda: ("", "a", "b", " "))
    steps = [0, 1, 1, 0, 1, 2, 3, 3, 2, 0]
    assert ocr_rec.decode(np.eye(4)[steps]) == "aab b"


def test_decoding_ignores_blanks_at_the_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr_rec, "alphabet", lambda: ("", "a", " "))
    assert ocr_rec.decode(np.eye(3)[[2, 1, 2]]) == "a"


def test_mask_overlap() -> None:
    one, other = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    one[:2], other[1:3] = True, True
    assert ocr_det._iou(one, other) == pytest.approx(4 / 12)
    assert ocr_det._iou(one, one) == 1
    assert ocr_det._iou(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 1


NOTES = np.array([[1.0, 60, 0.5, 80], [1.0, 64, 0.5, 80], [2.0, 60, 0.5, 80]])


def test_perfect_onsets_have_average_precision_one() -> None:
    found = [(0.9, 1.01, 60), (0.8, 0.99, 64), (0.7, 2.0, 60)]
    assert basic_pitch._average_precision(found, NOTES) == 1


def test_a_false_onset_costs_by_its_rank() -> None:
    right = [(0.9, 1.0, 60), (0.8, 1.0, 64), (0.6, 2.0, 60)]
    first = basic_pitch._average_precision([(0.95, 3.0, 70), *right], NOTES)
    last = basic_pitch._average_precision([*right, (0.1, 3.0, 70)], NOTES)
    assert first == pytest.approx((1 / 2 + 2 / 3 + 3 / 4) / 3)
    assert last == 1


def test_a_note_is_found_once_and_only_near_its_onset() -> None:
    twice = [(0.9, 1.0, 60), (0.8, 1.02, 60)]
    assert basic_pitch._average_precision(twice, NOTES) == pytest.approx(1 / 3)
    assert basic_pitch._average_precision([(0.9, 1.2, 60)], NOTES) == 0


def test_reciprocal_rank_counts_the_better_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = {1: [1.0, 0.0], 2: [0.6, 0.8], 3: [0.0, 1.0], 4: [0.8, 0.6]}
    # Examples 1 and 3 with the definitions 2 and 4: example 1 is nearer to definition 4.
    sentences = [{"ids": np.array([index])} for index in (1, 2, 3, 4)]
    monkeypatch.setattr(minilm, "_sentences", lambda split: sentences)

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"sentence": np.array([vectors[int(inputs["ids"][0, 0])]])}

    assert minilm.scores(run).tolist() == [0.5, 0.5]


def test_paired_interval_of_equal_scores_is_a_point() -> None:
    scores = np.random.default_rng(0).random(50)
    assert paired_interval(scores, scores) == (0, 0, 0)


def test_paired_interval_is_narrower_than_the_scores_spread() -> None:
    rng = np.random.default_rng(0)
    reference = rng.random(400)
    difference, low, high = paired_interval(reference - 0.05, reference)
    assert (difference, low, high) == pytest.approx((-0.05, -0.05, -0.05))
    noisy = reference - 0.05 + rng.normal(0, 0.1, 400)
    difference, low, high = paired_interval(noisy, reference)
    assert low < difference < high
    assert low < -0.05 < high
    assert high - low == pytest.approx(2 * 1.96 * 0.1 / 400**0.5, rel=0.15)


def test_unpaired_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="not paired"):
        paired_interval(np.zeros(3), np.zeros(4))


def test_float_quality_of_the_shipped_example() -> None:
    case = load("fashion_mnist")
    quality = case.evaluate(onnxruntime_run(case.model_path()))
    assert 0.92 < quality < 0.97
    assert case.allowed_quality(quality) == pytest.approx(quality - 0.005)
    assert load("minilm").allowed_quality(0.4) == pytest.approx(0.396)


def test_calibration_of_the_example_becomes_a_folder_once() -> None:
    case = load("fashion_mnist")
    folder = case.calibration_dir()
    files = sorted(folder.glob("*.npz"))
    assert len(files) == 512
    with np.load(files[0]) as first:
        assert first["image"].shape == (1, 1, 28, 28)
    written = files[0].stat().st_mtime_ns
    assert case.calibration_dir() == folder
    assert files[0].stat().st_mtime_ns == written
