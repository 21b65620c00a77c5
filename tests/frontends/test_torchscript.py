"""TorchScript archives: traced, scripted and frozen, with and without shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frontend_models import Touch, rewrite_zip, run, shapes_of

from compress.errors import ModelError, UsageError
from compress.frontends import load
from compress.frontends.torchscript import traced_inputs

torch = pytest.importorskip("torch")

from torch_models import Classifier, Encoder, Gated, TwoInputs, image_batch  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


def scripted(path: Path, module: Any) -> Any:
    script = torch.jit.script(module.eval())
    script.save(str(path))
    return script


def traced(path: Path, module: Any, *inputs: Any) -> Any:
    with torch.no_grad():
        script = torch.jit.trace(module.eval(), inputs, strict=False, check_trace=False)
    script.save(str(path))
    return script


def test_traced_module_tells_its_shapes(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    script = traced(path, Classifier(), image_batch())
    model = load(path)
    assert shapes_of(model.graph.inputs) == {"image": [2, 3, 8, 8]}
    assert list(shapes_of(model.graph.outputs)) == ["logits", "features"]
    assert {"conv.weight", "fc.weight", "fc.bias"} <= set(model.graph.initializers)
    outputs = run(model, {"image": image_batch().numpy()})
    expected = script(image_batch())
    np.testing.assert_allclose(outputs["logits"], expected["logits"].detach(), atol=1e-5)


def test_given_shapes_override_traced_ones(tmp_path: Path) -> None:
    traced(tmp_path / "m.pt", Classifier(), image_batch())
    model = load(tmp_path / "m.pt", shapes={"image": (1, 3, 16, 16)})
    assert shapes_of(model.graph.inputs) == {"image": [1, 3, 16, 16]}


def test_traced_integer_inputs_and_fused_attention(tmp_path: Path) -> None:
    ids = torch.arange(14).reshape(2, 7)
    script = traced(tmp_path / "m.pt", Encoder(), ids)
    assert "_transformer_encoder_layer_fwd" in str(script.layer.code)
    model = load(tmp_path / "m.pt")
    assert traced_inputs(tmp_path / "m.pt") == [((2, 7), "int64")]
    outputs = run(model, {"input_ids": ids.numpy()})
    np.testing.assert_allclose(outputs["output"], script(ids).detach(), atol=1e-5)
    assert {"embed.weight", "head.weight", "layer.linear1.weight"} <= set(model.graph.initializers)


@pytest.mark.parametrize(("norm_first", "activation"), [(False, "relu"), (True, "gelu")])
def test_fused_encoder_layers_compute_the_same(
    tmp_path: Path, norm_first: bool, activation: str
) -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(
        8, 2, 16, batch_first=True, norm_first=norm_first, activation=activation
    )
    x = torch.rand(2, 3, 8)
    script = traced(tmp_path / "m.pt", layer, x)
    outputs = run(load(tmp_path / "m.pt"), {"src": x.numpy()})
    np.testing.assert_allclose(outputs["output"], script(x).detach(), atol=1e-5)


def test_fused_attention_computes_the_same(tmp_path: Path) -> None:
    class SelfAttention(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> Any:
            return self.attention(x, x, x)

    torch.manual_seed(0)
    x = torch.rand(2, 3, 8)
    script = traced(tmp_path / "m.pt", SelfAttention(), x)
    assert "_native_multi_head_attention" in str(script.attention.code)
    outputs = run(load(tmp_path / "m.pt"), {"x": x.numpy()})
    expected, weights = script(x)
    np.testing.assert_allclose(outputs["output_0"], expected.detach(), atol=1e-5)
    np.testing.assert_allclose(outputs["output_1"], weights.detach(), atol=1e-5)


def test_scripted_module_needs_shapes(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    script = scripted(path, Classifier())
    with pytest.raises(UsageError, match=r"--shape image=1x3x224x224"):
        load(path)
    with pytest.raises(UsageError, match="no input 'picture'"):
        load(path, shapes={"image": (1, 3, 8, 8), "picture": (1,)})
    with pytest.raises(UsageError, match=r"does not run on inputs of shape image=1x4x8x8"):
        load(path, shapes={"image": (1, 4, 8, 8)})
    model = load(path, shapes={"image": (2, 3, 8, 8)})
    outputs = run(model, {"image": image_batch().numpy()})
    expected = script(image_batch())
    np.testing.assert_allclose(outputs["logits"], expected["logits"].detach(), atol=1e-5)


def test_frozen_module(tmp_path: Path) -> None:
    script = torch.jit.freeze(torch.jit.script(Classifier().eval()))
    script.save(str(tmp_path / "m.pt"))
    model = load(tmp_path / "m.pt", example_inputs=image_batch())
    outputs = run(model, {"image": image_batch().numpy()})
    expected = script(image_batch())
    np.testing.assert_allclose(outputs["logits"], expected["logits"].detach(), atol=1e-5)


def test_example_inputs_by_name_and_position(tmp_path: Path) -> None:
    scripted(tmp_path / "m.pt", Classifier())
    for inputs in (image_batch(), (image_batch(),), {"image": image_batch().numpy()}):
        model = load(tmp_path / "m.pt", example_inputs=inputs)
        assert shapes_of(model.graph.inputs) == {"image": [2, 3, 8, 8]}
    with pytest.raises(UsageError, match="no input 'x'"):
        load(tmp_path / "m.pt", example_inputs={"x": image_batch()})


def test_control_flow_on_data_is_kept(tmp_path: Path) -> None:
    script = scripted(tmp_path / "m.pt", Gated())
    model = load(tmp_path / "m.pt", shapes={"x": (1, 4)})
    assert "If" in [node.op_type for node in model.graph]
    for sign in (-10, 10):
        x = torch.full((1, 4), float(sign))
        outputs = run(model, {"x": x.numpy()})
        np.testing.assert_allclose(outputs["output"], script(x).detach(), atol=1e-5)


def test_two_inputs_keep_their_names(tmp_path: Path) -> None:
    traced(tmp_path / "m.pt", TwoInputs(), torch.rand(2, 4), torch.rand(2, 4))
    model = load(tmp_path / "m.pt")
    assert list(shapes_of(model.graph.inputs)) == ["left", "right"]


class WritesWhenRun(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "payload-ran")
        return x


class WritesWhenLoaded(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x = 1

    @torch.jit.export
    def __getstate__(self) -> tuple[int, bool]:
        return self.x, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[int, bool]) -> None:
        self.x, self.training = state
        torch.save(torch.zeros(1), "payload-ran")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize("kind", [WritesWhenRun, WritesWhenLoaded])
def test_programs_that_write_files_are_refused(
    tmp_path: Path, proof: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.script(kind()).save("m.pt")
    proof.unlink(missing_ok=True)
    with pytest.raises(ModelError, match="may access files"):
        load("m.pt", shapes={"x": (1,)})
    assert not proof.exists()
    torch.jit.load("m.pt")(torch.zeros(1))
    assert proof.exists(), "the archive is harmless, so the test proves nothing"


def test_payload_in_traced_inputs_does_not_run(tmp_path: Path, proof: Path) -> None:
    import pickle

    path = tmp_path / "m.pt"
    traced(path, Classifier(), image_batch())
    payload = pickle.dumps({"forward": Touch(proof)}, protocol=2)
    rewrite_zip(path, lambda name, c: payload if name.endswith("traced_inputs.pkl") else c)
    with pytest.raises((UsageError, ModelError)):
        load(path)
    assert not proof.exists()


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    traced(path, Classifier(), image_batch())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError):
        load(path)
    traced(path, Classifier(), image_batch())
    rewrite_zip(path, lambda name, c: b"garbage" if name.endswith(".py") else c)
    with pytest.raises(ModelError, match="cannot read the TorchScript"):
        load(path)


def test_loading_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scripted(tmp_path / "m.pt", Gated())
    capfd.readouterr()
    load(tmp_path / "m.pt", shapes={"x": (1, 4)})
    assert capfd.readouterr() == ("", "")
