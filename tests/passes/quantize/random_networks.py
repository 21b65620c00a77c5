"""Small networks drawn at random: convolutions with skips, pools and gates, then matrices."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

CHANNELS, SIZE, WIDTH = 4, 6, 16
PADDED = "pads = [1,1,1,1]"
POOL = f"kernel_shape = [3,3], {PADDED}"

# {out}, {a}, {b}: values; {k}: number of the step; {bias}: a bias, or nothing
IMAGE_STEPS: dict[str, tuple[str, tuple[int, ...] | None]] = {
    "Conv": (f"{{out}} = Conv <{PADDED}> ({{a}}, w{{k}}{{bias}})", (CHANNELS, CHANNELS, 3, 3)),
    "Depthwise": (
        f"{{out}} = Conv <{PADDED}, group = {CHANNELS}> ({{a}}, w{{k}}{{bias}})",
        (CHANNELS, 1, 3, 3),
    ),
    "Shared": ("{out} = Conv ({a}, shared{bias})", None),
    "Clip": ("{out} = Clip ({a}, low, high)", None),
    "Add": ("{out} = Add ({a}, {b})", None),
    "Concat": (
        "{out}c = Concat <axis = 1> ({a}, {b}) {out} = Conv ({out}c, w{k})",
        (CHANNELS, 2 * CHANNELS, 1, 1),
    ),
    "MaxPool": (f"{{out}} = MaxPool <{POOL}> ({{a}})", None),
    "AveragePool": (f"{{out}} = AveragePool <{POOL}> ({{a}})", None),
    "Gate": (
        "{out}p = GlobalAveragePool ({a}) {out}q = Conv ({out}p, shared)"
        " {out}s = Sigmoid ({out}q) {out} = Mul ({a}, {out}s)",
        None,
    ),
    "Transpose": ("{out} = Transpose <perm = [0,1,3,2]> ({a})", None),
    "MulConstant": ("{out} = Mul ({a}, half)", None),
    "Relu": ("{out} = Relu ({a})", None),
    "HardSwish": ("{out} = HardSwish ({a})", None),
    "LeakyRelu": ("{out} = LeakyRelu ({a})", None),
    "Tanh": ("{out} = Tanh ({a})", None),
}
VECTOR_STEPS: dict[str, tuple[str, tuple[int, ...] | None]] = {
    "Gemm": ("{out} = Gemm <transB = 1> ({a}, w{k}, gamma)", (WIDTH, WIDTH)),
    "MatMul": ("{out}a = MatMul ({a}, w{k}) {out} = Add ({out}a, gamma)", (WIDTH, WIDTH)),
    "Add": ("{out} = Add ({a}, {b})", None),
    "LayerNorm": ("{out} = LayerNormalization ({a}, gamma)", None),
    "Relu": ("{out} = Relu ({a})", None),
    "Tanh": ("{out} = Tanh ({a})", None),
}


@st.composite
def networks(draw: st.DrawFn) -> tuple[str, dict[str, np.ndarray]]:
    """A model in onnx's text and its initialisers; input `x`, one to three outputs."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))

    def weights(*shape: int) -> np.ndarray:
        fan = int(np.prod(shape[1:])) or 1
        return (generator.standard_normal(shape) / np.sqrt(fan)).astype(np.float32)

    tensors = {
        "shared": weights(CHANNELS, CHANNELS, 1, 1),
        "bias": weights(CHANNELS),
        "gamma": weights(WIDTH),
        "low": np.float32(0),
        "high": np.float32(2),
        "half": np.float32(0.5),
    }
    lines: list[str] = []

    def step(steps: dict[str, tuple[str, tuple[int, ...] | None]], values: list[str]) -> None:
        template, shape = steps[draw(st.sampled_from(list(steps)))]
        k = len(lines)
        a, b = (draw(st.sampled_from(values[-3:])) for _ in range(2))
        bias = draw(st.sampled_from(["", ", bias"]))
        lines.append(template.format(out=f"v{k}", a=a, b=b, k=k, bias=bias))
        if shape is not None:
            tensors[f"w{k}"] = weights(*shape)
        values.append(f"v{k}")

    images, vectors = ["x"], []
    for _ in range(draw(st.integers(2, 9))):
        step(IMAGE_STEPS, images)
    if draw(st.booleans()):
        lines.append(f"f = Flatten ({images[-1]}) h = MatMul (f, wh)")
        tensors["wh"] = weights(CHANNELS * SIZE * SIZE, WIDTH) / np.float32(WIDTH)
        vectors = ["h"]
        for _ in range(draw(st.integers(0, 4))):
            step(VECTOR_STEPS, vectors)
    last = (vectors or images)[-1]
    outputs = dict.fromkeys([last, *draw(st.lists(st.sampled_from(images[1:]), max_size=2))])
    shapes = dict.fromkeys(images, f"N,{CHANNELS},{SIZE},{SIZE}")
    declared = ", ".join(f"float[{shapes.get(name, f'N,{WIDTH}')}] {name}" for name in outputs)
    text = f"g (float[{shapes['x']}] x) => ({declared}) {{ {' '.join(lines)} }}"
    return text, {k: v for k, v in tensors.items() if f" {k})" in text or f" {k}," in text}
