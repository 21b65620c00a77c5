"""What the user handed in becomes a file that runs and a float model to work on."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from small_networks import cnn, floats, network

from compress.errors import ModelError
from compress.evidence.distortion import OutputKind
from compress.stages.subject import check_loads, check_runs, open_subject

X = {"x": np.ones((1, 4), np.float32)}


def test_the_users_file_is_the_baseline(tmp_path):
    path = tmp_path / "cnn.onnx"
    onnx.save(cnn(), path)
    subject = open_subject(path, tmp_path / "scratch")
    assert subject.given.path == path
    assert subject.given.size_bytes == path.stat().st_size
    assert subject.name == str(path)
    assert [s.name for s in subject.inputs] == ["image"]
    assert subject.inputs[0].dtype == np.float32
    assert subject.outputs == ("scores",)
    assert subject.kinds == {"scores": OutputKind.VALUES}
    assert subject.warnings == ()


def test_a_model_in_memory_is_written(tmp_path):
    subject = open_subject(cnn(), tmp_path)
    assert subject.given.path.is_file()
    assert tmp_path in subject.given.path.parents
    assert subject.name == "ModelProto"


def test_the_working_model_is_simplified_and_the_source_is_not(tmp_path):
    given = network(
        "g (float[N,4,5,5] x) => (float[N,2,3,3] y) { a = Conv (x, w)"
        " b = Mul (a, s) y = Relu (b) }",
        w=floats(2, 4, 3, 3),
        s=floats(2, 1, 1),
    )
    subject = open_subject(given, tmp_path)
    assert [n.op_type for n in subject.model.graph] == ["Conv", "Relu"]
    assert [n.op_type for n in subject.source.graph] == ["Conv", "Mul", "Relu"]
    assert [n.op_type for n in subject.given_model.graph] == ["Conv", "Mul", "Relu"]


def test_models_with_the_same_structure_and_other_weights_are_other_subjects(tmp_path):
    keys, hashes = set(), set()
    for seed in range(3):
        given = cnn()
        given.graph.initializer[0].raw_data = floats(32, 3, 3, 3, seed=seed).tobytes()
        subject = open_subject(given, tmp_path / str(seed))
        keys.add(subject.key)
        hashes.add(subject.given.sha256)
    assert len(keys) == len(hashes) == 3


@pytest.mark.parametrize("location", ["weights.bin", "m.onnx.data", "data/w"])
def test_weights_beside_the_model_are_part_of_it(location, tmp_path):
    """Of its size, and of what evidence about it is filed under."""
    subjects = []
    for seed in range(2):
        weight = floats(4, 600, seed=seed)
        folder = tmp_path / f"m{seed}"
        folder.mkdir()
        (folder / "data").mkdir()
        given = network("g (float[N,4] x) => (float[N,600] y) { y = MatMul (x, w) }", w=weight)
        onnx.save(given, folder / "m.onnx", save_as_external_data=True, location=location,
                  size_threshold=0)  # fmt: skip
        subjects.append(open_subject(folder / "m.onnx", tmp_path / f"scratch{seed}"))
    first, second = subjects
    assert first.given.path.read_bytes() == second.given.path.read_bytes()
    assert first.given.sha256 != second.given.sha256
    assert first.given.size_bytes > 4 * 600 * 4
    check_runs(first, _written(tmp_path))


def _written(folder):
    path = folder / "typical.npz"
    np.savez(path, **X)
    return path


def test_fixed_dimensions_and_inputs_change_the_baseline_too(tmp_path):
    fixed = open_subject(cnn(), tmp_path / "a", shapes={"image": [2, 3, 12, 12]})
    assert fixed.given_model.graph.inputs[0].shape == ir.Shape([2, 3, 12, 12])
    assert fixed.inputs[0].shape == (2, 3, 12, 12)
    given = network("g (float[N,4] x, float[4] s) => (float[N,4] y) { a = Mul (x, s) y = Exp (a) }")
    fixed = open_subject(given, tmp_path / "b", fixed_inputs={"s": [1, 2, 3, 4]})
    assert [s.name for s in fixed.inputs] == ["x"]
    assert [v.name for v in fixed.given_model.graph.inputs] == ["x"]
    check_runs(fixed, _written(tmp_path))


def test_models_that_cannot_be_worked_on(tmp_path):
    quantized = network(
        "g (float[N,4] x) => (float[N,4] y) { q = QuantizeLinear (x, s, z)"
        " y = DequantizeLinear (q, s, z) }",
        s=np.float32(0.1),
        z=np.uint8(128),
    )
    with pytest.raises(ModelError, match="quantized already"):
        open_subject(quantized, tmp_path / "a")
    assert open_subject(quantized, tmp_path / "b", allow_quantized=True)


def test_unknown_operators_are_warned_about_and_refused_by_the_runtime(tmp_path):
    given = network(
        '<ir_version: 8, opset_import: ["" : 17, "own" : 1]>'
        "g (float[N,4] x) => (float[N,4] y) { a = Relu (x) y = own.Mystery (a) }"
    )
    subject = open_subject(given, tmp_path)
    assert any("own.Mystery" in warning for warning in subject.warnings)
    for check in (lambda: check_loads(subject), lambda: check_runs(subject, _written(tmp_path))):
        with pytest.raises(ModelError, match="Mystery") as caught:
            check()
        assert "\n" not in str(caught.value)


def test_loading_says_nothing_about_sizes(tmp_path):
    """A model that runs with some sizes only is no broken model."""
    given = network(
        "g (float[N,4] x) => (float[M,8] y) { y = Reshape (x, s) }", s=np.array([-1, 8])
    )
    subject = open_subject(given, tmp_path)
    check_loads(subject)
    with pytest.raises(ModelError):
        check_runs(subject, _written(tmp_path))
