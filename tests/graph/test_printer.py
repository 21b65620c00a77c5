"""The text of a model is complete, and depends on the model alone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from compress.errors import ModelError
from compress.graph.printer import content_hash, to_text

TEXT = """
g (float[N,3,8,8] x, bool c, int64[?] "odd name") => (float[N,4,8,8] y, seq(float[N]) z)
{
    [conv0] a = Conv <kernel_shape = [1, 1], pads = [0, 0, 0, 0]> (x, w)
    b = Clip (a, , small)
    y = If (c) <
        then_branch = yes () => (float[N,4,8,8] t) { t = Relu (b) },
        else_branch = no () => (e) <float[1] two = {2.0}> { e = Mul (b, two) }
    >
    k = Constant <value = int64[3] {1, 2, 3}> ()
    g = com.microsoft.Gelu (b)
    u, v = MaxPool <kernel_shape = [1, 1], auto_pad = "SAME_UPPER"> (g)
    z = SequenceConstruct (u)
}
"""


@pytest.fixture
def make(parse):
    weight = np.arange(12, dtype=np.float32).reshape(4, 3, 1, 1)
    return lambda: parse(TEXT, w=weight, small=np.array([0.5, -1e-5], np.float32))


def test_text_shows_everything(make, golden):
    golden("printer", to_text(make()))
    golden("printer_weights", to_text(make(), weights=True))


def test_order_of_declaration_does_not_show(make):
    one, other = make(), make()
    initializers = list(other.graph.initializers.values())
    for value in initializers:
        del other.graph.initializers[value.name]
    for value in reversed(initializers):
        other.graph.register_initializer(value)
    conv = other.graph.node("conv0")
    for name in ("kernel_shape", "pads"):
        conv.attributes[name] = conv.attributes.pop(name)
    other.opset_imports[""] = other.opset_imports.pop("")
    assert to_text(other, weights=True) == to_text(one, weights=True)


def test_nodes_appear_in_topological_order(make):
    unsorted = make()
    nodes = list(unsorted.graph)
    unsorted.graph.extend(reversed(nodes))
    lines = to_text(unsorted).splitlines()
    places = {name: i for i, line in enumerate(lines) for name in ["%a", "%b", "%y"]
              if line.startswith(name + ":")}  # fmt: skip
    assert places["%a"] < places["%b"] < places["%y"]
    assert next(iter(unsorted.graph)) is nodes[-1], "printing must not sort the graph"


def test_hash_tells_dtype_shape_and_content_apart():
    base = np.arange(100, dtype=np.float32)
    different = [base, base.astype(np.int32), base.reshape(10, 10), base + 1]
    hashes = {content_hash(ir.tensor(array)) for array in different}
    assert len(hashes) == len(different)
    assert content_hash(ir.tensor(base.copy())) == content_hash(ir.tensor(base))
    words = [np.array(a, dtype=object) for a in ([b"ab", b"c"], [b"a", b"bc"])]
    strings = {content_hash(ir.StringTensor(w, shape=ir.Shape([2]))) for w in words}
    assert len(strings) == 2


def test_cycle_is_named(make):
    cyclic = make()
    first, second = list(cyclic.graph)[:2]
    first.replace_input_with(0, second.outputs[0])
    with pytest.raises(ModelError, match=r"cycle through Conv node 'conv0'"):
        to_text(cyclic)
