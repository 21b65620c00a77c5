"""Any choice of forms in any small network is a model that runs and computes what it should."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_networks import CHANNELS, SIZE, networks

from compress.evidence.statistics import collect
from compress.execute.arithmetic import adds_pairs_in_16_bits
from compress.execute.session import value_shapes
from compress.graph.layers import find_layers
from compress.graph.printer import to_text
from compress.passes.quantize.forms import Form, observed, possible_forms
from compress.passes.quantize.qdq import QuantizeLayers
from compress.passes.quantize.ranges import RangeMethod, choose_range

SETTINGS = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FEEDS = {"x": np.random.default_rng(0).standard_normal((2, CHANNELS, SIZE, SIZE)).astype("f")}


def ranges_of(model, method):
    names = list(dict.fromkeys(n for x in find_layers(model) for n in observed(x)))
    inside = [n for n in names if n != "x"]
    shapes = {"x": FEEDS["x"].shape}
    if inside:
        shapes |= {k: shape for k, (shape, _) in value_shapes(model, FEEDS, inside).items()}
    return {n: choose_range(s, method) for n, s in collect(model, [FEEDS], shapes, names).items()}


def off(found, expected):
    """Root mean square error in units of the expected spread."""
    spread = float(expected.std()) or 1.0
    return float(np.sqrt(np.square(found - expected).mean())) / spread


@SETTINGS
@given(networks(), st.data())
def test_any_forms_in_any_network(parse, run, net, data):
    text, tensors = net
    model = parse(text, **tensors)
    if not len(model.graph):
        return
    forms = {
        x.name: data.draw(st.sampled_from(possible_forms(x)), x.name)
        for x in find_layers(model)
        if len(possible_forms(x)) > 1
    }
    ranges = ranges_of(model, data.draw(st.sampled_from(RangeMethod)))
    expected = run(model, FEEDS)
    before = to_text(model, weights=True)
    quantized = model.clone()
    integer = sum(form is not Form.FLOAT for form in forms.values())
    assert QuantizeLayers(forms, ranges, adds_pairs_in_16_bits()).run(quantized) is (integer > 0)
    assert to_text(model, weights=True) == before
    found, reference = run(quantized, FEEDS), run(quantized, FEEDS, optimised=False)
    assert list(found) == list(expected)
    for name, array in expected.items():
        # every integer layer may add a little; a wrong scale, axis or sign is far beyond this
        assert off(found[name], array) <= 1e-5 + 0.06 * integer
        # what onnxruntime fuses computes the same as what is written
        assert off(found[name], reference[name]) <= 1e-5 + 0.03 * integer
