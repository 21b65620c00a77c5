"""What quantize proposes for a network, from evidence about it."""

from __future__ import annotations

import numpy as np
import pytest

from compress.evidence.statistics import collect
from compress.evidence.store import EvidenceStore
from compress.execute.session import value_shapes
from compress.graph.layers import find_layers
from compress.graph.printer import to_text
from compress.passes.quantize.forms import Form, observed
from compress.passes.quantize.ranges import RangeMethod
from compress.passes.quantize.technique import Quantize, Reference
from compress.passes.select import Problem, evaluate_choice

RNG = np.random.default_rng(9)


def floats(*shape, scale=1.0):
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


CNN = (
    "g (float[N,3,10,10] x) => (float[N,6] y) { a = Conv <pads = [1,1,1,1]> (x, w, b) c = Relu (a)"
    " d = Conv <pads = [1,1,1,1]> (c, u, e) f = Relu (d) s = Add (c, f) m = MaxPool"
    " <kernel_shape = [2,2], strides = [2,2]> (s) p = GlobalAveragePool (m) q = Flatten (p)"
    " y = Gemm <transB = 1> (q, v, h) }"
)
TENSORS = {
    "w": floats(16, 3, 3, 3, scale=0.3),
    "b": floats(16),
    "u": floats(16, 16, 3, 3, scale=0.1),
    "e": floats(16),
    "v": floats(6, 16),
    "h": floats(6),
}


def technique_for(model, samples, store=None):
    layers = find_layers(model)
    names = list(dict.fromkeys(n for x in layers for n in observed(x)))
    inside = [str(v.name) for n in model.graph for v in n.outputs]
    shapes = {k: v.shape for k, v in samples[0].items()}
    shapes |= {k: s for k, (s, _) in value_shapes(model, samples[0], inside).items()}
    return Quantize(
        model=model,
        model_key="m",
        shapes=shapes,
        statistics=collect(model, samples, shapes, names),
        reference=Reference.of(model, samples[:4], "r"),
        store=store or EvidenceStore.in_memory(),
        host="host",
        workers=1,
    )


@pytest.fixture
def model(parse):
    return parse(CNN, **TENSORS)


@pytest.fixture
def samples():
    return [{"x": floats(2, 3, 10, 10)} for _ in range(6)]


def test_every_layer_has_a_float_option_and_every_integer_one_its_evidence(model, samples, machine):
    proposal = technique_for(model, samples).propose()
    layers = find_layers(model)
    for layer in layers:
        own = [o for o in proposal.options if o.layers == (layer.name,)]
        assert sum(o.form == "float" for o in own) == 1
        for option in own:
            names = {str(v.name) for v in layer.inputs}
            assert option.reads_float | option.reads_uint8 == names
            assert not option.reads_float & option.reads_uint8
            assert option.latency_us >= 0
            if option.form == "float":
                assert option.distortion == 0.0
                assert option.bytes == layer.weight_bytes
            elif layer.weight is not None:
                assert option.distortion > 0
                assert option.latency_us == machine.integer
                assert option.bytes < layer.weight_bytes
            # whoever reads or writes uint8 has the price of getting there
            assert option.reads_uint8 | option.writes_uint8 <= set(proposal.boundaries)
    assert {o.form for o in proposal.options} >= {"float", "int8", "int8-dynamic"}
    assert proposal.boundaries["y"].is_output
    assert not proposal.boundaries["c"].is_output
    assert all(b.distortion > 0 for b in proposal.boundaries.values())
    assert proposal.boundaries["x"].quantize_us >= machine.conversion


def test_distortions_add_up_to_that_of_the_network(model, samples, machine):
    """To first order: the sum of what single roundings cost foretells what all cost together."""
    technique = technique_for(model, samples)
    proposal = technique.propose()
    problem = Problem(proposal.options, proposal.boundaries)
    chosen = {}
    for index, option in enumerate(proposal.options):
        if option.form == "int8" or option.layers[0] not in chosen:
            chosen[option.layers[0]] = index
    predicted = evaluate_choice(problem, list(chosen.values()))[2]
    options = {layer: proposal.options[i] for layer, i in chosen.items()}
    measured = technique.reference.compare(technique.apply(model, options)).distortion
    assert predicted / 4 < measured < predicted * 4


def test_bytes_foretell_the_file(model, samples, machine):
    technique = technique_for(model, samples)
    proposal = technique.propose()
    chosen = {o.layers[0]: o for o in proposal.options if o.form in ("int8", "float")}
    chosen |= {o.layers[0]: o for o in proposal.options if o.form == "int8"}
    quantized = technique.apply(model, chosen)
    stored = sum(v.const_value.nbytes for v in quantized.graph.initializers.values())
    before = sum(v.const_value.nbytes for v in model.graph.initializers.values())
    saved = sum(o.bytes - chosen[o.layers[0]].bytes for o in proposal.options if o.form == "float")
    assert before - saved == pytest.approx(stored, rel=0.25)


def test_what_is_known_is_not_measured_again(model, samples, machine):
    store = EvidenceStore.in_memory()
    first = technique_for(model, samples, store).propose()
    machine.counted.clear()
    assert technique_for(model, samples, store).propose() == first
    assert not machine.counted


def test_as_many_probes_as_were_announced(model, samples, machine):
    technique = technique_for(model, samples)
    announced = technique.count_probes()
    advanced = []
    technique.propose(lambda: advanced.append(1))
    assert len(advanced) == announced > 5


def test_forms_that_cannot_pay_are_not_proposed(model, samples, machine):
    machine.integer = 10_000.0
    proposal = technique_for(model, samples).propose()
    weighted = {x.name for x in find_layers(model) if x.weight is not None}
    assert {o.form for o in proposal.options if o.layers[0] in weighted} == {"float"}


def test_applying_leaves_the_model_alone(model, samples, machine):
    technique = technique_for(model, samples)
    before = to_text(model, weights=True)
    chosen = {o.layers[0]: o for o in technique.propose().options}
    quantized = technique.apply(model, chosen)
    assert to_text(model, weights=True) == before
    assert to_text(quantized) != to_text(model)
    floats_only = {k: o for k, o in chosen.items() if o.form == "float"}
    assert to_text(technique.apply(model, floats_only), weights=True) == before


def test_the_range_estimator_is_the_one_that_serves_the_network(model, samples, machine):
    technique = technique_for(model, samples)
    forms = {x.name: Form.INT8 for x in find_layers(model) if x.op == "Conv"}
    best, scores = technique.method_by_distortion(forms)
    assert set(scores) == {m.value for m in RangeMethod}
    assert scores[best.value] == min(scores.values())
    assert min(scores.values()) > 0


def test_a_concat_of_unlike_tensors_stays_float(parse, machine):
    """Boxes in pixels and class scores: one scale for both would kill the scores."""
    text = (
        "g (float[N,4,6,6] x) => (float[N,8,6,6] y) { a = Conv (x, w) b = Conv (x, u)"
        " y = Concat <axis = 1> (a, b) }"
    )
    samples = [{"x": floats(1, 4, 6, 6)} for _ in range(4)]
    w = floats(4, 4, 1, 1)
    for size, integer in ((1.0, True), (1e-3, False)):
        model = parse(text, w=w, u=w[:, ::-1] * np.float32(size))
        technique = technique_for(model, samples)
        concat = next(x for x in find_layers(model) if x.op == "Concat")
        assert (Form.INT8 in technique.usable_forms(concat)) is integer


def test_a_value_that_was_not_observed_keeps_its_layers_in_float(model, samples):
    technique = technique_for(model, samples)
    known = {k: v for k, v in technique.statistics.items() if k != "c"}
    conv = next(x for x in find_layers(model) if x.op == "Conv")
    blind = Quantize(
        model, "m", technique.shapes, known, technique.reference, EvidenceStore.in_memory(), "host"
    )
    assert blind.usable_forms(conv) == (Form.FLOAT,)
    gemm = next(x for x in find_layers(model) if x.op == "Gemm")
    assert Form.INT8 in blind.usable_forms(gemm)
