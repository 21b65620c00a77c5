"""compress.inspect and compress.bench: looking without changing."""

from __future__ import annotations

import functools

import onnx
import pytest
from small_networks import cnn, encoder, floats, images, network, sentences

import compress
from compress.errors import ModelError, UsageError
from compress.hardware import timing


@pytest.fixture
def brief(cache, monkeypatch):
    monkeypatch.setattr(
        "compress.stages.inspection.time_models",
        functools.partial(timing.time_models, restarts=2, seconds=0.02),
    )


def test_every_layer_with_its_work_and_forms(machine):
    layers = compress.inspect(cnn())
    kinds = [x.kind for x in layers]
    assert kinds.count("Conv") == 3
    assert kinds[-1] == "Gemm"
    first = layers[0]
    assert first.macs == 32 * 12 * 12 * 3 * 9
    assert first.weight_bytes == 32 * 3 * 9 * 4
    assert first.shape.endswith("32x12x12")
    assert [f.form for f in first.forms] == ["float", "int8"]
    assert all(f.latency_us is None for x in layers for f in x.forms)
    assert not machine.counted["kernel_times"]


def test_measured_forms(machine):
    layers = compress.inspect(cnn(), measure=True)
    first = layers[0]
    latency = {f.form: f.latency_us for f in first.forms}
    assert latency == {"float": machine.heavy, "int8": machine.integer}


def test_models_whose_shapes_the_user_fixes(machine):
    (first, *_) = compress.inspect(cnn(), shapes={"image": [5, 3, 12, 12]})
    assert first.shape == "5x32x12x12"


def test_one_model_is_timed(brief, tmp_path):
    path = tmp_path / "cnn.onnx"
    onnx.save(cnn(), path)
    found = compress.bench(path)
    (entry,) = found.models
    assert entry.name == str(path)
    assert entry.size_bytes == path.stat().st_size
    assert entry.latency.median_ms > 0
    assert entry.speedup is None
    assert "image" in found.inputs


def test_two_models_are_timed_in_turns(brief, machine):
    quantized = compress.run(cnn(), data=images()).model
    found = compress.bench(cnn(), against=quantized, data=images(2))
    assert [m.speedup is None for m in found.models] == [True, False]
    assert found.models[1].speedup.rounds == 2
    assert found.models[1].speedup.median > 0


def test_models_of_other_inputs_are_not_compared(cache):
    with pytest.raises(UsageError, match="other inputs"):
        compress.bench(cnn(), against=encoder(), data=images(2))


def test_samples_of_many_sizes_are_timed_at_the_middle_one(brief):
    found = compress.bench(encoder(), data=sentences(5), threads=2)
    assert found.threads == 2
    assert "median" in found.inputs


def test_broken_models_end_in_a_line(cache):
    given = network(
        '<ir_version: 8, opset_import: ["" : 17, "own" : 1]>'
        "g (float[N,4] x) => (float[N,4] y) { a = Relu (x) y = own.Mystery (a) }"
    )
    for verb in (compress.inspect, compress.bench):
        with pytest.raises(ModelError, match="Mystery") as caught:
            verb(given)
        assert "\n" not in str(caught.value)


def test_targets_that_are_somewhere_else(cache):
    for verb in (compress.inspect, compress.bench, compress.run):
        with pytest.raises(UsageError):
            verb(cnn(), target="no-such-device")


def test_other_domains_are_shown_as_they_are(machine):
    given = network(
        "g (float[N,16] x) => (float[N,8] y) { a = com.microsoft.Gelu (x) y = MatMul (a, w) }",
        w=floats(16, 8),
    )
    kinds = [x.kind for x in compress.inspect(given)]
    assert kinds == ["com.microsoft.Gelu", "MatMul"]
