"""A Model as a torch module: whole, in parts, trained and written back."""

from __future__ import annotations

import copy
import weakref
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.errors import ModelError, UsageError
from compress.execute.session import Runner, with_outputs
from compress.graph.canonical import canonicalize
from compress.graph.simplify import simplify

torch = pytest.importorskip("torch")

from compress.execute.differentiable import TorchModel, unsupported  # noqa: E402
from compress.execute.differentiable.registry import OPERATORS, Operator  # noqa: E402

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "fashion_mnist"
RNG = np.random.default_rng(3)
HEAD = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1, "own" : 1]> '


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def parse(text: str, **tensors: np.ndarray) -> ir.Model:
    proto = onnx.parser.parse_model(HEAD + text)
    for name, data in tensors.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(data), name))
    return ir.from_proto(proto)


def perceptron(dtype=np.float32) -> ir.Model:
    kind = {np.float32: "float", np.float16: "float16", np.float64: "double"}[dtype]
    return parse(
        f"g ({kind}[N,4] x, {kind}[N,3] z) => ({kind}[N,3] y, {kind}[N,3] out) {{"
        " a = MatMul (x, w1) h = Relu (a) b = Mul (h, half) c = MatMul (b, w2)"
        " y = Add (c, bias) out = Sub (y, z) }",
        w1=floats(4, 6).astype(dtype), w2=floats(6, 3).astype(dtype),
        bias=floats(3).astype(dtype), half=np.array(0.5, dtype),
    )  # fmt: skip


def arrays(module, feeds, outputs=None):
    found = module({k: torch.from_numpy(np.asarray(a)) for k, a in feeds.items()}, outputs)
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


def close(found, expected):
    assert set(found) == set(expected)
    for name, right in expected.items():
        assert found[name].shape == right.shape
        # differences of nearly equal values are rounding alone, whatever their size
        assert np.abs(found[name] - right).max() <= 1e-4 * np.abs(right).max() + 1e-6


# --- running


@pytest.mark.parametrize("form", [lambda model: model, simplify], ids=["canonical", "simplified"])
def test_the_shipped_example(form):
    model = form(canonicalize(ir.load(EXAMPLE / "model.onnx")))
    assert unsupported(model) == []
    module, runner = TorchModel(model), Runner(model)
    assert module.inputs == ("image",)
    assert module.outputs == ("logits",)
    with np.load(EXAMPLE / "calib.npz") as data:
        images = next(iter(data.values()))[:12]
    for batch in (images[:1], images):
        close(arrays(module, {"image": batch}), runner({"image": batch}))


def test_every_value_can_be_asked_for():
    model = canonicalize(ir.load(EXAMPLE / "model.onnx"))
    names = [str(value.name) for node in model.graph for value in node.outputs]
    image = np.abs(floats(2, 1, 28, 28))
    expected = Runner(with_outputs(model, names))({"image": image})
    close(arrays(TorchModel(model), {"image": image}, names), expected)


def test_only_what_the_outputs_need_is_computed():
    module = TorchModel(perceptron())
    x = floats(2, 4)
    # z is missing, and not needed for these
    found = arrays(module, {"x": x}, ["y", "h"])
    assert list(found) == ["y", "h"]
    assert found["h"].shape == (2, 6)
    with pytest.raises(UsageError, match="input 'z'"):
        module({"x": torch.from_numpy(x)})
    with pytest.raises(UsageError, match="'nonsense'"):
        module({"x": torch.from_numpy(x)}, ["nonsense"])


def test_what_is_fed_is_not_computed():
    module = TorchModel(perceptron())
    h = floats(2, 6)
    found = arrays(module, {"h": h}, ["y"])["y"]
    np.testing.assert_allclose(
        found, 0.5 * h @ module.parameter("w2").detach().numpy()
        + module.parameter("bias").detach().numpy(), rtol=1e-5, atol=1e-6)  # fmt: skip
    assert arrays(module, {"h": h}, ["h"])["h"] is not None
    # an input, and a value after the cut, at once
    y = floats(2, 3)
    np.testing.assert_array_equal(arrays(module, {"x": floats(2, 4), "y": y}, ["y"])["y"], y)


def test_one_of_a_nodes_outputs_is_fed():
    model = parse(
        "g (float[N,4] x) => (float[N,2] y) { a, b = Split <axis = 1, num_outputs = 2> (x)"
        " y = Sub (a, b) }"
    )
    x, a = floats(2, 4), floats(2, 2)
    found = arrays(TorchModel(model), {"x": x, "a": a})["y"]
    np.testing.assert_allclose(found, a - x[:, 2:], rtol=1e-6)


def test_fed_initialisers_replace_the_models():
    """Weights that are functions of something else are trained through this."""
    model = perceptron()
    module = TorchModel(model)
    scale = torch.tensor(2.0, requires_grad=True)
    feeds = {"x": torch.from_numpy(floats(2, 4)), "w2": scale * module.parameter("w2").detach()}
    y = module(feeds, ["c"])["c"]
    torch.testing.assert_close(y, 2 * module({"x": feeds["x"]}, ["c"])["c"])
    y.sum().backward()
    assert scale.grad is not None
    assert module.parameter("w2").grad is None


def test_values_are_freed_after_their_last_use(monkeypatch):
    alive: list[weakref.ref] = []
    most = 0

    def negative(attributes, x):
        nonlocal most
        result = -x
        alive.append(weakref.ref(result))
        most = max(most, sum(ref() is not None for ref in alive))
        return result

    monkeypatch.setitem(OPERATORS, ("", "Neg"), Operator(negative, 1, lambda *_: None))
    chain = " ".join(f"v{i + 1} = Neg (v{i})" for i in range(30))
    module = TorchModel(parse(f"g (float[N] v0) => (float[N] v30) {{ {chain} }}"))
    with torch.no_grad():
        module({"v0": torch.ones(3)})
    assert len(alive) == 30
    assert most == 2


def test_feeds_stay_as_they_are():
    module = TorchModel(parse("g (float[N] x) => (float[N] y) { a = Relu (x) y = Clip (a) }"))
    feeds = {"x": torch.tensor([-1.0, 2.0])}
    module(feeds)
    assert set(feeds) == {"x"}
    torch.testing.assert_close(feeds["x"], torch.tensor([-1.0, 2.0]))


def test_an_input_that_does_not_fit_is_named():
    with pytest.raises(
        ModelError, match=r"^MatMul node 'a' does not fit its inputs: .+$"
    ) as caught:
        TorchModel(perceptron())({"x": torch.ones(2, 5)}, ["y"])
    assert "\n" not in str(caught.value)


def test_double_precision_goes_through_casts():
    model = parse(
        "g (int64[N] i, float[N] x) => (float[N] y, int64[M] n) {"
        " a = Cast <to = 1> (i) s = Shape (x) b = ConstantOfShape <value = float[1] {0.5}> (s)"
        " c = Add (a, b) d = Mul (c, x) y = Add (d, w) n = Shape (y) }",
        w=floats(1),
    )
    module = TorchModel(model)
    feeds = {"i": torch.arange(3), "x": torch.from_numpy(floats(3))}
    single = module(feeds)
    assert single["y"].dtype == torch.float32
    double = module.double()({**feeds, "x": feeds["x"].double()})
    assert double["y"].dtype == torch.float64
    assert double["n"].dtype == torch.int64
    torch.testing.assert_close(double["y"].float(), single["y"])


# --- what is refused

BRANCH = (
    "<then_branch = t () => (float[N] p) { p = Neg (x) },"
    " else_branch = e () => (float[N] q) { q = Exp (x) }>"
)
REFUSED = {
    "If": f"z = If (flag) {BRANCH} y = Relu (z)",
    "own.Special": "z = own.Special (x) y = Relu (z)",
    "Resize": 'z = Resize <mode = "cubic"> (x, , scale) y = Relu (z)',
    "MaxPool": "p, i = MaxPool <kernel_shape = [2]> (x) z = Cast <to = 1> (i) y = Add (p, z)",
    "Cast": "z = Cast <to = 8> (x) y = Cast <to = 1> (z)",
    "Pad": 'y = Pad <mode = "unknown"> (x, four)',
    "LSTM": "w = Cast <to = 1> (four) y = LSTM <clip = 1.0, hidden_size = 2> (x, w, w)",
}


@pytest.mark.parametrize("operator", REFUSED)
def test_what_is_not_supported_is_named(operator):
    model = parse(
        f"g (float[N] x, bool flag) => (float[N] y) {{ {REFUSED[operator]} }}",
        scale=np.float32([2.0]), four=np.array([1, 2, 3, 4]),
    )  # fmt: skip
    for index, node in enumerate(model.graph):
        node.name = f"node/{index}"
    (found,) = unsupported(model)
    assert operator == ".".join(filter(None, (found.domain, found.op_type)))
    with pytest.raises(ModelError, match=f"^{operator} node '{found.name}' .*: .+$"):
        TorchModel(model)


def test_an_unused_output_that_is_not_computed_is_no_obstacle():
    model = parse(
        "g (float[1,1,N] x) => (float[1,1,M] y) { y, i = MaxPool <kernel_shape = [2]> (x) }"
    )
    assert unsupported(model) == []
    assert TorchModel(model)({"x": torch.ones(1, 1, 4)})["y"].shape == (1, 1, 3)


# --- parameters


def test_parameters_are_found_by_the_names_of_initialisers():
    model = parse(
        "g (float[N,4] x) => (float[N,4] y) {"
        " a = Mul (x, scale) b = Add (a, w) y = Slice (b, i, j) }",
        w=floats(4), scale=np.float32(2), i=np.array([0]), j=np.array([9]),
    )  # fmt: skip
    odd = "net/layer.1/weight:0"
    value = model.graph.initializers.pop("w")
    value.name = odd
    model.graph.register_initializer(value)
    module = TorchModel(model)
    assert [tuple(p.shape) for p in module.parameters()] == [(4,)]
    assert module.parameter(odd) is next(iter(module.parameters()))
    for name in ("scale", "i", "nothing"):
        with pytest.raises(KeyError):
            module.parameter(name)
    other = copy.deepcopy(module)
    with torch.no_grad():
        other.parameter(odd).add_(1.0)
    x = torch.zeros(1, 4)
    torch.testing.assert_close(other({"x": x})["y"], module({"x": x})["y"] + 1)
    module.load_state_dict(other.state_dict())
    torch.testing.assert_close(other({"x": x})["y"], module({"x": x})["y"])


def test_only_what_is_named_is_trained():
    model = perceptron()
    module = TorchModel(model, trainable=["w1", "half"])
    wanted = {n: module.parameter(n).requires_grad for n in ("w1", "w2", "bias", "half")}
    assert wanted == {"w1": True, "w2": False, "bias": False, "half": True}
    assert not any(p.requires_grad for p in TorchModel(model, trainable=[]).parameters())
    with pytest.raises(UsageError, match="'w3', 'x'"):
        TorchModel(model, trainable=["w1", "w3", "x"])


def test_modules_start_in_evaluation_mode_and_drop_in_training():
    model = parse(
        "g (float[N] x) => (float[N] y) { y = Dropout (x, ratio) }", ratio=np.float32(0.25)
    )
    module = TorchModel(model)
    assert not module.training
    x = torch.ones(4000)
    torch.testing.assert_close(module({"x": x})["y"], x)
    torch.manual_seed(0)
    dropped = module.train()({"x": x})["y"]
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert 0.2 < float((dropped == 0).float().mean()) < 0.3


# --- writing back


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_what_was_trained_is_written_back(dtype):
    model = perceptron(dtype)
    shared = model.clone()
    old = {
        name: value.const_value.numpy().copy() for name, value in model.graph.initializers.items()
    }
    module = TorchModel(model, trainable=["w1", "bias"]).double()
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=0.05)
    x, target = torch.from_numpy(floats(32, 4)).double(), torch.from_numpy(floats(32, 3)).double()
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = module({"x": x, "z": target})["out"].square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    module.write_back(model)
    for name, value in model.graph.initializers.items():
        array = value.const_value.numpy()
        assert array.dtype == dtype
        assert (array == old[name]).all() == (name not in ("w1", "bias"))
        # who shares the tensors keeps the old ones
        np.testing.assert_array_equal(
            shared.graph.initializers[name].const_value.numpy(), old[name]
        )
    feeds = {"x": x.numpy().astype(dtype), "z": target.numpy().astype(dtype)}
    expected = module({"x": x, "z": target})["out"].detach().numpy()
    found = Runner(model)(feeds)["out"]
    tolerance = 2e-2 if dtype == np.float16 else 1e-4
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def test_bfloat16_survives():
    model = parse("g (bfloat16[2] x) => (bfloat16[2] y) { y = Add (x, w) }")
    values = ir.tensor(np.array([1.5, -2.25]).astype(ir.DataType.BFLOAT16.numpy()), name="w")
    kind = ir.TensorType(values.dtype)
    weight = ir.Value(name="w", shape=ir.Shape([2]), type=kind, const_value=values)
    model.graph.register_initializer(weight)
    model.graph.node(0).replace_input_with(1, weight)
    module = TorchModel(model)
    with torch.no_grad():
        module.parameter("w").mul_(2.0)
    module.write_back(model)
    tensor = model.graph.initializers["w"].const_value
    assert tensor.dtype == ir.DataType.BFLOAT16
    np.testing.assert_array_equal(tensor.numpy().astype(np.float32), [3.0, -4.5])


def test_writing_back_to_another_model_is_refused():
    module, other = TorchModel(perceptron()), perceptron()
    del other.graph.initializers["w2"]
    with pytest.raises(ModelError, match="'w2'"):
        module.write_back(other)
    other = perceptron()
    other.graph.initializers["bias"].const_value = ir.tensor(floats(4))
    with pytest.raises(ModelError, match="'bias'"):
        module.write_back(other)


# --- any graph


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_part_of_any_graph(data):
    """Fed with the values at a cut, what lies behind computes what the whole computes."""
    lines, values = [], ["x", "z"]
    for index in range(data.draw(st.integers(2, 14))):
        first, second = (data.draw(st.sampled_from(values[-5:])) for _ in range(2))
        operation = data.draw(st.sampled_from(["Add", "Sub", "Tanh", "Gemm"]))
        operands = f"{first}, {'w' if operation == 'Gemm' else second}"
        lines.append(f"n{index} = {operation} ({first if operation == 'Tanh' else operands})")
        values.append(f"n{index}")
    model = parse(
        f"g (float[N,4] x, float[N,4] z) => (float[N,4] {values[-1]}) {{ {' '.join(lines)} }}",
        w=floats(4, 4) / 2,
    )
    module = TorchModel(model)
    x = {"x": torch.from_numpy(floats(2, 4)), "z": torch.from_numpy(floats(2, 4))}
    wanted = data.draw(st.lists(st.sampled_from(values), min_size=1, unique=True))
    with torch.no_grad():
        everything = module(x, values)
        expected = Runner(with_outputs(model, values[2:]))({k: a.numpy() for k, a in x.items()})
        cut = data.draw(st.lists(st.sampled_from(values), unique=True))
        part = module({**x, **{name: everything[name] for name in cut}}, wanted)
    close({n: everything[n].numpy() for n in expected}, expected)
    assert list(part) == wanted
    for name in wanted:
        torch.testing.assert_close(part[name], everything[name])
