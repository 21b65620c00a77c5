"""Small networks with everything that stripes have to get right."""

from __future__ import annotations

import functools

import scratchpad_networks as networks
from small_networks import floats, network

from compress.passes.schedule.extract import Extracted, extract

TEXT = """g (float[1,3,23,16] x) => (float[1,5] y) {
 stem = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w1, b1)
 a = Relu(stem)
 e = Conv(a, w2)
 f = Relu(e)
 d = Conv<pads=[2,2,2,2], dilations=[2,2], group=16>(f, w3)
 p = Conv(d, w4)
 s = Add(a, p)
 q = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(s)
 u = Conv<pads=[1,1,1,1]>(q, w5)
 c = Concat<axis=1>(q, u)
 g1 = GlobalAveragePool(c)
 h = Conv(g1, w6)
 gate = Sigmoid(h)
 z = Mul(c, gate)
 t = AveragePool<kernel_shape=[2,2], strides=[2,2]>(z)
 gp = GlobalAveragePool(t)
 v = Flatten(gp)
 y = Gemm(v, w7, b7)
}"""
"""A residual over a dilated depthwise convolution, poolings, a concatenation, a gate that needs
all rows before the first can be scaled, and a classifier."""

EVEN = """g (float[1,2,8,6] x) => (float[1,3,4,3] y, float[1,4,8,6] b) {
 a = Conv<pads=[0,1,2,1]>(x, w1)
 b = Relu(a)
 n = Neg(b)
 y = Conv<strides=[2,2]>(n, w2)
}"""
"""Padding below alone; an output that is read again; a stride that leaves out the last row."""


@functools.cache
def extracted(text: str, integers: bool = False) -> Extracted:
    shapes = {
        TEXT: {
            "w1": (8, 3, 3, 3),
            "b1": (8,),
            "w2": (16, 8, 1, 1),
            "w3": (16, 1, 3, 3),
            "w4": (8, 16, 1, 1),
            "w5": (8, 8, 3, 3),
            "w6": (16, 16, 1, 1),
            "w7": (16, 5),
            "b7": (5,),
        },
        EVEN: {"w1": (4, 2, 3, 3), "w2": (3, 4, 1, 1)},
    }[text]
    weights = {name: floats(*shape) for name, shape in shapes.items()}
    model = networks.model(network(text, **weights))
    return extract(networks.int8(model) if integers else model)
