"""Damaged models end in one line or in a canonical model, never in anything else."""

from __future__ import annotations

import copy
import random
import time

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from compress.errors import ModelError
from compress.graph.canonical import canonicalize
from compress.graph.printer import to_text

NETWORK = """<ir_version: 8, opset_import: ["" : 11]>
g (float[N,3,8,8] x, bool c) => (float[N,?] y, float[?,?,?,?] z) {
    a = Conv <strides = [2, 2]> (x, w) n = BatchNormalization (a, s, s, s, v)
    d = Dropout <ratio = 0.5> (n) f = Flatten (d) k = Constant <value = float[1] {2.0}> ()
    m = Mul (f, k) y = Softmax (m)
    z = If (c) < then_branch = t () => (p) { q = Identity (d) p = Relu (q) },
                 else_branch = e () => (r) { r = Pad <mode = "edge"> (d, pads) } > }"""

FUNCTIONS = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
g (float[2] x) => (float[2] y) { a = own.Twice <by = 2.0> (x) y = own.Twice (a) }
<domain: "own", opset_import: ["" : 17]>
Twice <by : float = 3.0> (v) => (w) { k = Constant <value_float : float = @by> ()
                                      m = ReduceMean <axes = [0]> (v) u = Add (v, m)
                                      w = Mul (u, k) }"""

SHAPE_ARITHMETIC = """g (float[N,8,4] x) => (float[?,?] y) {
    s = Shape (x) n = Gather (s, zero) n1 = Unsqueeze (n, axes) t = Concat <axis = 0> (n1, rest)
    r = Reshape (x, t) p = Transpose <perm = [1, 0]> (r) y = Transpose <perm = [1, 0]> (p) }"""

NUMBERS = [-(2**63), -5, -1, 0, 1, 2, 99, 2**31, 2**40, 2**62]
OPERATORS = sorted({s.name for s in onnx.defs.get_all_schemas() if s.domain == ""})


def damage(proto, rng):
    """One random change to a random node, tensor, dimension or opset of `proto`, in place."""
    graph = proto.graph
    node = rng.choice(graph.node)
    names = (
        [o for n in graph.node for o in n.output] + [i.name for i in graph.input] + ["", "ghost"]
    )
    attribute = rng.choice(node.attribute) if node.attribute else None
    tensor = rng.choice(graph.initializer) if graph.initializer else None
    match rng.randrange(15):
        case 0 if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(names)
        case 1:
            node.op_type = rng.choice(OPERATORS)
        case 2 if attribute is not None:
            node.attribute.remove(attribute)
        case 3 if attribute is not None and attribute.ints:
            attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(NUMBERS)
        case 4 if attribute is not None:
            attribute.type = rng.randrange(1, 13)
        case 5:
            node.input.append(rng.choice(names))
        case 6 if node.input:
            del node.input[rng.randrange(len(node.input))]
        case 7:
            node.output.append(rng.choice([*names, "new"]))
        case 8 if node.output:
            del node.output[rng.randrange(len(node.output))]
        case 9 if tensor is not None and tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(NUMBERS)
        case 10 if tensor is not None:
            tensor.data_type = rng.randrange(25)
        case 11 if tensor is not None and tensor.raw_data:
            tensor.raw_data = tensor.raw_data[:-1]
        case 12:
            graph.node.remove(node)
        case 13 if graph.input and graph.input[0].type.tensor_type.shape.dim:
            rng.choice(graph.input[0].type.tensor_type.shape.dim).dim_value = rng.choice(NUMBERS)
        case 14:
            proto.opset_import[0].version = rng.choice([0, 1, 6, 7, 9, 12, 17, 21, 24, 999])


@pytest.mark.parametrize("seed", range(8))
def test_damaged_models(seed, parse):
    rng = random.Random(seed)
    models = [
        parse(NETWORK, w=np.ones((4, 3, 2, 2), "f"), s=np.ones(4, "f"), v=np.ones(4, "f"),
              pads=np.array([0, 0, 1, 0, 0, 0, 0, 1])),
        parse(FUNCTIONS),
        parse(SHAPE_ARITHMETIC, zero=np.array(0), axes=np.array([0]), rest=np.array([-1])),
    ]  # fmt: skip
    protos = [ir.to_proto(model) for model in models]
    canonical, messages = 0, []
    for _ in range(60):
        proto = copy.deepcopy(rng.choice(protos))
        for _ in range(rng.choice([1, 1, 2, 3])):
            damage(proto, rng)
        try:
            model = ir.from_proto(proto)
        except Exception:
            continue  # The reader refuses it; the frontend says so.
        started = time.perf_counter()
        try:
            to_text(canonicalize(model))
            canonical += 1
        except ModelError as error:
            messages.append(str(error))
        assert time.perf_counter() - started < 10
    assert canonical > 5
    assert len(messages) > 5
    assert all("\n" not in message and len(message) < 1000 for message in messages)
