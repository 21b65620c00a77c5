"""Made-up samples: what batch norms remember comes about, and inputs are what they must be."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.errors import ModelError, UsageError
from compress.evidence.data import InputSpec, open_calibration
from compress.evidence.norm_matching import _herd, mismatch, norm_targets
from compress.evidence.patterns import Layout, Style, draw, layout_of
from compress.evidence.synthetic import synthesise
from compress.execute.session import Runner, with_outputs

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)


def model_of(text: str, **tensors: np.ndarray) -> ir.Model:
    """The model of ONNX text, in which `tensors` are initialisers."""
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]>\n{text}')
    for name, array in tensors.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


def specs(model: ir.Model) -> list[InputSpec]:
    return [
        InputSpec(
            str(v.name),
            np.dtype(v.dtype.numpy()) if v.dtype else F32,
            None
            if v.shape is None
            else tuple(d if isinstance(d, int) else d.value for d in v.shape),
        )
        for v in model.graph.inputs
    ]


# -- batch norms -----------------------------------------------------------------------------------

NETWORK = """
net (float[N, 3, H, W] image) => (float[N, 8, P, Q] y) {
  c1 = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(image, w1)
  b1 = BatchNormalization<epsilon = 0.00001>(c1, s1, o1, m1, v1)
  r1 = Relu(b1)
  c2 = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]>(r1, w2)
  y = BatchNormalization(c2, s2, o2, m2, v2)
}
"""
SIDE = 24
TRAINED_ON = (np.array([0.2, 0.9, -0.4]), np.array([0.4, 0.1, 0.8]))
"""Mean and standard deviation of each channel of the data that the network remembers."""


def training_images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    mean, std = TRAINED_ON
    style = Style(tuple(mean), tuple(np.log(std)), slope=1.5, contrast=-3.0)
    return [draw(style, layout_of((1, 3, SIDE, SIDE)), rng) for _ in range(64)]


def trained_network() -> ir.Model:
    """A network whose batch norms hold the statistics of the training images."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "w2": rng.normal(size=(8, 8, 3, 3)).astype(np.float32) / 8,
    }
    norms = {
        f"{name}{layer}": np.full(8, 0.0 if name in "om" else 1.0, np.float32)
        for name in "somv"
        for layer in "12"
    }
    for layer, value in (("1", "c1"), ("2", "c2")):
        seen = outputs(model_of(NETWORK, **weights, **norms), value, training_images())
        norms[f"m{layer}"] = np.mean(seen, axis=(0, 1, 3, 4)).astype(np.float32)
        norms[f"v{layer}"] = np.var(seen, axis=(0, 1, 3, 4)).astype(np.float32)
    return model_of(NETWORK, **weights, **norms)


def outputs(model: ir.Model, value: str, images: list[np.ndarray]) -> np.ndarray:
    """(images, 1, 8, height, width)"""
    run = Runner(with_outputs(model, [value]))
    return np.stack([run({"image": image})[value] for image in images])


def test_batch_norm_statistics_come_about_again() -> None:
    model = trained_network()
    targets = norm_targets(model)
    assert [target.value for target in targets] == ["c1", "c2"]
    samples, how = synthesise(model, specs(model), 24, 0, sizes={"H": SIDE, "W": SIDE})
    images = [sample["image"] for sample in samples]
    assert len(images) == 24
    assert all(image.shape == (1, 3, SIDE, SIDE) and image.dtype == F32 for image in images)

    def measured(images: list[np.ndarray]) -> float:
        seen = [outputs(model, value, images) for value in ("c1", "c2")]
        moments = [
            [np.stack([v[i].mean((0, 2, 3)), np.square(v[i]).mean((0, 2, 3))]) for v in seen]
            for i in range(len(images))
        ]
        return mismatch(moments, targets)

    rng = np.random.default_rng(1)
    noise = [rng.normal(size=(1, 3, SIDE, SIDE)).astype(np.float32) for _ in range(24)]
    assert measured(training_images()) < 1e-3
    assert measured(images) < 0.15 * measured(noise)
    assert "2 batch norms" in how
    assert how.endswith(".")

    def width(images: list[np.ndarray]) -> float:
        return float(np.ptp(outputs(model, "r1", images)))

    assert 0.6 < width(images) / width(training_images()) < 1.8


def test_equal_seeds_give_equal_samples() -> None:
    model = trained_network()
    sizes = {"H": 8, "W": 8}
    runs = [synthesise(model, specs(model), 3, seed, sizes=sizes) for seed in (0, 0, 1)]
    first, again, other = (
        open_calibration(samples, specs(model)).fingerprint for samples, _ in runs
    )
    assert first == again
    assert first != other
    assert runs[0][1] == runs[1][1]


def test_steps_are_told() -> None:
    model = trained_network()
    told: list[tuple[int, int]] = []
    synthesise(
        model, specs(model), 2, 0, sizes={"H": 8, "W": 8}, on_step=lambda *at: told.append(at)
    )
    done, total = zip(*told, strict=True)
    assert list(done) == list(range(1, total[0] + 1))
    assert set(total) == {total[0]}


def test_only_norms_with_constant_statistics_count() -> None:
    model = model_of(
        """
        net (float[1, 2, 4, 4] x, float[2] m) => (float[1, 2, 4, 4] y) {
          v = Constant<value = float[2] {1.0, 4.0}>()
          k = Constant<value = float[2] {0.5, 0.0}>()
          a = BatchNormalization(x, v, v, k, v)
          y = BatchNormalization(a, v, v, m, v)
        }
        """
    )
    (target,) = norm_targets(model)
    assert target.value == "x"
    np.testing.assert_allclose(target.mean, [0.5, 0])
    np.testing.assert_allclose(target.variance, [1, 4])


@given(st.integers(0, 1000))
@settings(max_examples=20)
def test_herding_beats_the_first_that_come(seed: int) -> None:
    from compress.evidence.norm_matching import NormTarget

    rng = np.random.default_rng(seed)
    target = NormTarget("x", np.zeros(4), np.ones(4))
    means = rng.normal(size=(60, 4))
    spreads = rng.uniform(0.2, 2, size=(60, 4))
    moments = [[np.stack([m, m**2 + s**2])] for m, s in zip(means, spreads, strict=True)]
    chosen = _herd(moments, [target], 12)
    assert len(set(chosen)) == 12
    herded = mismatch([moments[i] for i in chosen], [target])
    assert herded < mismatch(moments[:12], [target])


# -- inputs without batch norms --------------------------------------------------------------------


def tokens_model() -> ir.Model:
    return model_of(
        """
        net (int64[batch, length] input_ids, int64[batch, length] attention_mask,
             int32[batch, length] token_type_ids, int64[batch, length] position_ids)
            => (float[batch, length, 4] y) {
          flat = Cast<to = 6>(input_ids)
          a = Gather(words, flat)
          b = Gather(kinds, token_type_ids)
          c = Gather(places, position_ids)
          m = Cast<to = 1>(attention_mask)
          axes = Constant<value = int64[1] {2}>()
          m3 = Unsqueeze(m, axes)
          ab = Add(a, b)
          abc = Add(ab, c)
          y = Mul(abc, m3)
        }
        """,
        words=np.zeros((37, 4), np.float32),
        kinds=np.zeros((2, 4), np.float32),
        places=np.zeros((512, 4), np.float32),
    )


def test_token_inputs() -> None:
    model = tokens_model()
    samples, how = synthesise(model, specs(model), 20, 0)
    ids = np.concatenate([s["input_ids"] for s in samples])
    assert ids.shape == (20, 64)
    assert ids.min() >= 0
    assert 30 < ids.max() < 37
    first = samples[0]
    assert first["attention_mask"].min() == 1
    assert first["token_type_ids"].max() == 0
    assert first["token_type_ids"].dtype == np.int32
    np.testing.assert_array_equal(first["position_ids"][0], np.arange(64))
    assert "token numbers below 37" in how
    assert len(open_calibration(samples, specs(model))) == 20


def test_sizes_of_symbols_can_be_given() -> None:
    model = tokens_model()
    samples, _ = synthesise(model, specs(model), 1, 0, sizes={"length": 9, "batch": 2})
    assert {s.shape for s in samples[0].values()} == {(2, 9)}


def test_sums_of_symbols_and_empty_caches() -> None:
    model = model_of(
        """
        net (int64[batch, sequence] ids, float[batch, past_sequence, 4] past,
             int64[batch, past_sequence + sequence] mask) => (float[batch, total, 4] y) {
          new = Gather(words, ids)
          y = Concat<axis = 1>(past, new)
          used = Identity(mask)
        }
        """.replace("past_sequence + sequence", "all"),
        words=np.zeros((11, 4), np.float32),
    )
    given = specs(model)
    given[2] = InputSpec("mask", I64, ("batch", "past_sequence + sequence"))
    (sample,), _ = synthesise(model, given, 1, 0)
    assert sample["past"].shape == (1, 0, 4)
    assert sample["mask"].shape == (1, 64)


def image_model(body: str, **tensors: np.ndarray) -> ir.Model:
    return model_of(f"net (float[N, 3, H, W] x) => (float[A, B, C, D] y) {{ {body} }}", **tensors)


def test_spatial_sizes_are_the_first_that_run() -> None:
    free = image_model("y = Relu(x)")
    assert synthesise(free, specs(free), 1, 0)[0][0]["x"].shape == (1, 3, 224, 224)
    only_32 = image_model("y = Add(x, p)", p=np.zeros((1, 3, 32, 32), np.float32))
    assert synthesise(only_32, specs(only_32), 1, 0)[0][0]["x"].shape == (1, 3, 32, 32)
    never = image_model("y = Add(x, p)", p=np.zeros((1, 3, 17, 23), np.float32))
    with pytest.raises(UsageError, match="--shape") as caught:
        synthesise(never, specs(never), 1, 0)
    assert "\n" not in str(caught.value)
    found, _ = synthesise(never, specs(never), 1, 0, sizes={"H": 17, "W": 23})
    assert found[0]["x"].shape == (1, 3, 17, 23)


def test_refused_guesses_leave_the_terminal_clean(capfd: pytest.CaptureFixture[str]) -> None:
    only_32 = image_model("y = Add(x, p)", p=np.zeros((1, 3, 32, 32), np.float32))
    synthesise(only_32, specs(only_32), 1, 0)
    assert capfd.readouterr() == ("", "")


def spread(model: ir.Model) -> tuple[float, float]:
    samples, _ = synthesise(model, specs(model), 8, 0, sizes={"H": 16, "W": 16})
    values = np.concatenate([sample["x"] for sample in samples])
    return float(values.min()), float(values.max())


def test_declared_ranges_are_kept() -> None:
    clipped = image_model(
        "y = Clip(x, l, h)", l=np.array(-3, np.float32), h=np.array(5, np.float32)
    )
    low, high = spread(clipped)
    assert -3 <= low < 0 < 3 < high <= 5
    divided = image_model("y = Div(x, d)", d=np.array([255], np.float32))
    low, high = spread(divided)
    assert 0 <= low < 60 < 200 < high <= 255
    stated = image_model("y = Relu(x)")
    stated.metadata_props["Image.NominalPixelRange"] = "Normalized_0_1"
    low, high = spread(stated)
    assert 0 <= low < 0.2 < 0.8 < high <= 1
    low, high = spread(image_model("y = Relu(x)"))
    assert low < -0.5 < 1 < high


@pytest.mark.parametrize(
    ("onnx_type", "low", "high"), [("uint8", 0, 255), ("int64", 1, 1), ("bool", 1, 1)]
)
def test_other_inputs(onnx_type: str, low: int, high: int) -> None:
    model = model_of(f"net ({onnx_type}[N, 50] x) => ({onnx_type}[N, 50] y) {{ y = Identity(x) }}")
    samples, _ = synthesise(model, specs(model), 30, 0)
    values = np.concatenate([sample["x"] for sample in samples])
    assert (int(values.min()), int(values.max())) == (low, high)
    assert values.dtype == specs(model)[0].dtype


def test_plain_floats_are_standard_normal() -> None:
    model = model_of("net (float[N, 200] x) => (float[N, 200] y) { y = Relu(x) }")
    samples, how = synthesise(model, specs(model), 50, 0)
    values = np.concatenate([sample["x"] for sample in samples])
    assert abs(float(values.mean())) < 0.05
    assert abs(float(values.std()) - 1) < 0.05
    assert "'x' standard normal" in how


def test_scalars_have_no_size() -> None:
    model = model_of("net (float[N, 4] x, int64 rate) => (float[N, 4] y) { y = Relu(x) }")
    (sample,), _ = synthesise(model, specs(model), 1, 0)
    assert sample["rate"].shape == ()


def test_strings_cannot_be_made_up() -> None:
    model = model_of("net (string[N] x) => (string[N] y) { y = Identity(x) }")
    with pytest.raises(ModelError, match="give calibration data with --data"):
        synthesise(model, [InputSpec("x", np.dtype(object), ("N",))], 1, 0)


# -- patterns --------------------------------------------------------------------------------------

finite = st.floats(-6, 6)


@given(
    st.sampled_from(
        [(1, 3, 16, 20), (2, 1, 9, 9), (1, 12, 12, 3), (1, 8, 30), (4, 7), (1, 2, 3, 4, 5)]
    ),
    st.lists(finite, min_size=8, max_size=8),
    st.integers(0, 99),
)
def test_any_style_gives_finite_inputs_of_the_shape(
    shape: tuple[int, ...], shared: list[float], seed: int
) -> None:
    layout = layout_of(shape)
    vector = np.array([0.5] * layout.channels + [0.0] * layout.channels + shared)
    style = Style.from_vector(vector)
    np.testing.assert_array_equal(style.vector(), vector)
    array = draw(style, layout, np.random.default_rng(seed))
    assert array.shape == shape
    assert array.dtype == F32
    assert np.isfinite(array).all()


def test_means_and_contrasts_of_channels_are_kept() -> None:
    layout = layout_of((1, 3, 64, 64))
    style = Style((1.0, -2.0, 0.0), (0.0, 1.0, -1.0), contrast=-9.0, brightness=-9.0)
    images = np.concatenate([draw(style, layout, np.random.default_rng(i)) for i in range(20)])
    np.testing.assert_allclose(images.mean((0, 2, 3)), style.mean, atol=0.3)
    np.testing.assert_allclose(images.std((0, 2, 3)), np.exp(style.log_std), rtol=0.2)


def test_slope_smooths() -> None:
    layout = layout_of((1, 1, 64, 64))

    def roughness(slope: float) -> float:
        style = Style((0.0,), (0.0,), slope=slope, structure=-9.0)
        image = draw(style, layout, np.random.default_rng(0))
        return float(np.abs(np.diff(image, axis=-1)).mean() / image.std())

    assert roughness(2.0) < 0.5 * roughness(1.0) < 0.5 * roughness(0.0)


@pytest.mark.parametrize(
    ("shape", "channel_axis", "spatial_axes"),
    [
        ((1, 3, 8, 9), 1, (2, 3)),
        ((1, 8, 9, 3), 3, (1, 2)),
        ((1, 1, 28, 28), 1, (2, 3)),
        ((1, 100, 1), 2, (1,)),
        ((1, 40, 100), 1, (2,)),
        ((1, 10), None, (1,)),
        ((1,), None, ()),
    ],
)
def test_layouts(
    shape: tuple[int, ...], channel_axis: int | None, spatial_axes: tuple[int, ...]
) -> None:
    assert layout_of(shape) == Layout(shape, channel_axis, spatial_axes)
