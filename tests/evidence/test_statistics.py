"""Activation statistics against numpy on all the data at once."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.errors import UsageError
from compress.evidence.statistics import (
    BINS,
    HISTOGRAM_SAMPLES,
    MAX_CHANNELS,
    TensorStatistics,
    chunks,
    collect,
    pack,
    summarise,
    unpack,
)
from compress.graph.canonical import canonicalize

SETTINGS = settings(deadline=None, max_examples=60)


def floats(*shape, seed=0, scale=1.0):
    generator = np.random.default_rng([seed, *shape])
    return (generator.standard_normal(shape) * scale).astype(np.float32)


def statistics_of(arrays):
    statistics = TensorStatistics()
    for array in arrays:
        statistics.update(summarise(array))
    return statistics


def magnitudes(arrays, axis):
    """Largest magnitude per index of `axis`, over all arrays."""
    return np.max(
        [np.abs(np.moveaxis(a, axis, 0)).reshape(a.shape[axis], -1).max(1) for a in arrays], axis=0
    )


def means(arrays, axis):
    """Mean per index of `axis`; every array counts the same."""
    return np.mean(
        [np.moveaxis(a, axis, 0).reshape(a.shape[axis], -1).mean(1, dtype=float) for a in arrays], 0
    )


@st.composite
def batches(draw):
    shape = draw(st.sampled_from([(7,), (5, 3), (2, 4, 6), (1, 3, 5, 4), (2, 2, 3, 2, 2), ()]))
    count = draw(st.integers(1, 5))
    scales = [10.0 ** draw(st.integers(-5, 5)) for _ in range(count)]
    return [floats(*shape, seed=draw(st.integers(0, 99)), scale=s) for s in scales]


@SETTINGS
@given(batches())
def test_as_numpy_on_all_the_data(arrays):
    found = statistics_of(arrays)
    everything = np.concatenate([a.reshape(-1) for a in arrays])
    assert found.low == everything.min()
    assert found.high == everything.max()
    assert found.samples == len(arrays)
    ndim = arrays[0].ndim
    if ndim >= 3:
        np.testing.assert_array_equal(found.absmax, magnitudes(arrays, 1))
        np.testing.assert_allclose(found.mean, means(arrays, 1), rtol=1e-5, atol=1e-30)
    else:
        assert found.absmax is None
    if ndim in (2, 3):
        np.testing.assert_array_equal(found.last_absmax, magnitudes(arrays, -1))
        np.testing.assert_allclose(found.last_mean, means(arrays, -1), rtol=1e-5, atol=1e-30)
    else:
        assert found.last_absmax is None


@SETTINGS
@given(batches())
def test_the_histogram_is_that_of_all_the_data(arrays):
    """However the range grew on the way."""
    found = statistics_of(arrays)
    everything = np.concatenate([a.reshape(-1) for a in arrays]).astype(np.float64)
    assert found.counts.sum() == everything.size
    assert found.half_width >= np.abs(everything).max() > found.half_width / 2
    assert np.log2(found.half_width) % 1 == 0
    expected, _ = np.histogram(everything, BINS, (-found.half_width, found.half_width))
    np.testing.assert_array_equal(found.counts, expected)
    centers = found.centers()
    assert centers.shape == (BINS,)
    np.testing.assert_allclose(np.diff(centers), 2 * found.half_width / BINS)


@SETTINGS
@given(batches(), st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(arrays, random):
    shuffled = list(arrays)
    random.shuffle(shuffled)
    first, second = statistics_of(arrays), statistics_of(shuffled)
    assert (first.low, first.high, first.half_width) == (
        second.low,
        second.high,
        second.half_width,
    )
    np.testing.assert_array_equal(first.counts, second.counts)


def test_samples_of_zeros_count_as_well():
    """A dead Relu's zeros belong into the histogram, whenever they come."""
    zeros, ones = np.zeros(10, np.float32), np.ones(10, np.float32)
    first, last = statistics_of([zeros, ones]), statistics_of([ones, zeros])
    np.testing.assert_array_equal(first.counts, last.counts)
    assert first.counts.sum() == 20
    dead = statistics_of([zeros, zeros])
    assert (dead.low, dead.high) == (0.0, 0.0)


@pytest.mark.parametrize("size", [1e-44, 1e-38, 1e30, 3e38])
def test_values_of_any_size(size):
    array = (np.array([-1, -0.5, 0, 0.25, 1]) * size).astype(np.float32)
    found = statistics_of([array])
    assert found.counts.sum() == 5
    assert found.counts[BINS // 2 :].sum() == 3
    assert (found.counts > 0).sum() == 5


def test_a_large_tensor_is_sampled_evenly():
    """Extremes come from every element, the histogram from an even share of them."""
    array = np.zeros((1, 8, 512, 512), np.float32)
    array[0, 3, 17, 5], array[0, 1, 400, 77] = 9.0, -3.0
    array += np.linspace(0, 1, 8, dtype=np.float32)[None, :, None, None]
    found = statistics_of([array])
    assert found.high == pytest.approx(9 + 3 / 7)
    assert found.low == pytest.approx(-3 + 1 / 7)
    assert HISTOGRAM_SAMPLES / 2 <= found.counts.sum() <= 2 * HISTOGRAM_SAMPLES
    # each of the channels has its share
    filled = np.sort(found.counts)[-8:]
    assert filled.min() > 0.8 * filled.max()


def test_varying_sizes():
    """Channels are told apart as long as there are the same ones."""
    found = statistics_of([floats(1, 4, 6), floats(1, 4, 9), floats(2, 4, 3)])
    assert found.absmax.shape == (4,)
    assert found.last_absmax is None
    found = statistics_of([floats(1, 4, 6), floats(1, 5, 6), floats(1, 4, 6)])
    assert found.absmax is None
    assert found.last_absmax.shape == (6,)


def test_too_many_channels_are_not_told_apart():
    wide = floats(2, MAX_CHANNELS + 1)
    assert statistics_of([wide]).last_absmax is None
    assert statistics_of([floats(2, 5), wide]).last_absmax is None
    assert statistics_of([wide, floats(2, 5)]).last_absmax is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad):
    array = floats(3, 4)
    array[1, 2] = bad
    with pytest.raises(UsageError, match="NaN or infinity"):
        statistics_of([array])


@SETTINGS
@given(st.lists(batches(), max_size=4))
def test_packing_and_unpacking(tensors):
    before = {f"layer/{i}:0": statistics_of(arrays) for i, arrays in enumerate(tensors)}
    before["never seen"] = TensorStatistics()
    after = unpack(pack(before))
    assert list(after) == list(before)
    for name, found in after.items():
        first, second = before[name].arrays(), found.arrays()
        assert set(first) == set(second)
        for key in first:
            np.testing.assert_array_equal(first[key], second[key])
        assert isinstance(found.samples, int)


@SETTINGS
@given(
    st.dictionaries(st.text("abcdef", min_size=1), st.integers(0, 100), max_size=12),
    st.integers(1, 150),
)
def test_chunks_are_bounded_and_complete(sizes, limit):
    groups = list(chunks(sizes, limit))
    assert [name for group in groups for name in group] == list(sizes)
    for group in groups:
        assert group
        assert len(group) == 1 or sum(sizes[n] for n in group) <= limit


# --- in a network --------------------------------------------------------------------------------

TEXT = (
    '<ir_version: 10, opset_import: ["" : 21]> g (float[N,4,H,W] x, int64[N] i)'
    " => (float[N,8] y) { a = Conv <pads = [1,1,1,1]> (x, w) r = Relu (a)"
    " p = GlobalAveragePool (r) f = Flatten (p) t = Transpose <perm = [1,0]> (f)"
    " s = Slice (f, zero, one, axis) q = Squeeze (s) e = Exp (f) m = Cast <to = 1> (i)"
    " z = ReduceMean <keepdims = 0> (m) u = Mul (e, z) y = Mul (u, huge) }"
)


@pytest.fixture
def model():
    proto = onnx.parser.parse_model(TEXT)
    tensors = {
        "w": floats(8, 4, 3, 3),
        "huge": np.float32(3),
        "zero": np.array([0]),
        "one": np.array([1]),
        "axis": np.array([1]),
    }
    for name, data in tensors.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(data, name))
    proto.graph.output.extend(
        [onnx.helper.make_tensor_value_info(n, 1, s) for n, s in (("t", [8, "N"]), ("q", ["N"]))]
    )
    return canonicalize(ir.from_proto(proto))


def values_of(model, sample, names):
    import onnxruntime

    watched = model.clone()
    values = {v.name: v for n in watched.graph for v in n.outputs}
    watched.graph.outputs.clear()
    watched.graph.outputs.extend(values[n] for n in names)
    session = onnxruntime.InferenceSession(ir.to_proto(watched).SerializeToString())
    return dict(zip(names, session.run(names, sample), strict=True))


def samples_of(*sizes):
    return [
        {"x": floats(n, 4, h, w, seed=k), "i": np.arange(1, n + 1)}
        for k, (n, h, w) in enumerate(sizes)
    ]


NAMES = ["x", "a", "r", "p", "f", "t", "q", "e", "y"]


@pytest.mark.parametrize(
    "sizes",
    [
        [(2, 5, 6)] * 4,
        # other sizes of images, and of batches
        [(2, 5, 6), (2, 7, 5), (2, 40, 30)],
        [(2, 5, 6), (1, 5, 6), (3, 9, 9)],
        # larger than what enters the histogram
        [(1, 90, 70), (1, 90, 70)],
    ],
)
def test_inside_a_network_as_numpy_on_its_values(model, sizes):
    samples = samples_of(*sizes)
    first = {**samples[0], **values_of(model, samples[0], NAMES[1:])}
    shapes = {n: first[n].shape for n in NAMES}
    advanced = []
    found = collect(model, samples, shapes, NAMES, advance=lambda: advanced.append(1))
    assert len(advanced) == len(samples)
    assert list(found) == NAMES
    for name in NAMES:
        arrays = [s[name] if name == "x" else values_of(model, s, [name])[name] for s in samples]
        statistics = found[name]
        assert statistics.low == min(a.min() for a in arrays), name
        assert statistics.high == max(a.max() for a in arrays), name
        assert statistics.samples == len(samples)
        assert statistics.counts.sum() > 0
        if arrays[0].size < HISTOGRAM_SAMPLES and len(set(sizes)) == 1:
            assert statistics.counts.sum() == sum(a.size for a in arrays), name
        if arrays[0].ndim >= 3:
            np.testing.assert_array_equal(statistics.absmax, magnitudes(arrays, 1))
            np.testing.assert_allclose(statistics.mean, means(arrays, 1), rtol=1e-4, atol=1e-5)
        if arrays[0].ndim in (2, 3) and len({a.shape[-1] for a in arrays}) == 1:
            np.testing.assert_array_equal(statistics.last_absmax, magnitudes(arrays, -1))
        if arrays[0].ndim == 2 and len({a.shape[-1] for a in arrays}) > 1:
            assert statistics.last_absmax is None


def test_extremes_of_a_wide_matrix_come_from_every_element():
    """More columns than are told apart, more elements than are sampled."""
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[N,70000] x) => (float[N,70000] y)'
        " { y = Neg (x) }"
    )
    model = canonicalize(ir.from_proto(proto))
    x = floats(1, 70000)
    x[0, 34567] = 50.0
    found = collect(model, [{"x": x}], {"x": x.shape, "y": x.shape}, ["x", "y"])
    assert (found["x"].low, found["x"].high) == (x.min(), 50.0)
    assert (found["y"].low, found["y"].high) == (-50.0, (-x).max())


def test_extremes_of_a_long_vector_come_from_every_element():
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[N] x) => (float[N] y) { y = Neg (x) }'
    )
    model = canonicalize(ir.from_proto(proto))
    x = floats(100_000)
    x[50_001] = 50.0
    found = collect(model, [{"x": x}], {"x": x.shape, "y": x.shape}, ["y"])
    assert found["y"].low == -50.0


def test_the_model_is_left_as_it_was(model):
    from compress.graph.printer import to_text

    before = to_text(model, weights=True)
    collect(model, samples_of((1, 5, 5)), {"a": (1, 8, 5, 5)}, ["a"])
    assert to_text(model, weights=True) == before


def test_a_value_that_is_not_finite_is_named(model):
    samples = samples_of((1, 5, 5), (1, 5, 5))
    samples[1]["x"][:] = 3e38
    with pytest.raises(UsageError, match=r"value (a|r)"):
        collect(model, samples, dict.fromkeys("ar", (1, 8, 5, 5)), ["a", "r"])


def test_nothing_to_observe(model):
    assert collect(model, samples_of((1, 5, 5)), {}, []) == {}
