"""Weights and pickles: .pt, .pth, .safetensors, and what is refused."""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frontend_models import Touch, run

from compress.errors import ModelError, UsageError
from compress.frontends import load

torch = pytest.importorskip("torch")

from torch_models import Classifier, image_batch  # noqa: E402 needs torch

FACTORY = f"{Path(__file__).with_name('torch_models.py')}:Classifier"
SHAPES = {"image": (2, 3, 8, 8)}


def trained() -> Classifier:
    module = Classifier().eval()
    with torch.no_grad():
        module.fc.bias.fill_(3.5)
    return module


def check_trained(model: Any) -> None:
    outputs = run(model, {"image": image_batch().numpy()})
    expected = trained()(image_batch())["logits"].detach()
    np.testing.assert_allclose(outputs["logits"], expected, atol=1e-5)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_state_dict_fills_the_factory_module(tmp_path: Path, suffix: str, legacy: bool) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save(trained().state_dict(), path, _use_new_zipfile_serialization=not legacy)
    check_trained(load(path, factory=FACTORY, shapes=SHAPES))


def test_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "weights.safetensors"
    save_file(trained().state_dict(), path)
    check_trained(load(path, factory=FACTORY, shapes=SHAPES))


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_checkpoints_of_training_scripts(tmp_path: Path, key: str) -> None:
    prefixed = {f"module.{name}": value for name, value in trained().state_dict().items()}
    torch.save({"epoch": 3, key: prefixed, "loss": 0.1}, tmp_path / "c.pth")
    check_trained(load(tmp_path / "c.pth", factory=FACTORY, shapes=SHAPES))


def test_example_inputs_from_the_factory(tmp_path: Path) -> None:
    torch.save(trained().state_dict(), tmp_path / "w.pt")
    (tmp_path / "net.py").write_text(
        "import torch\n"
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from torch_models import Classifier\n"
        "def make():\n    return Classifier(), (torch.zeros(2, 3, 8, 8),)\n"
    )
    check_trained(load(tmp_path / "w.pt", factory=f"{tmp_path / 'net.py'}:make"))


def test_weights_alone_ask_for_a_factory(tmp_path: Path) -> None:
    torch.save(trained().state_dict(), tmp_path / "w.pt")
    with pytest.raises(UsageError, match="--model"):
        load(tmp_path / "w.pt")


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    weights = trained().state_dict()
    del weights["fc.bias"]
    weights["extra"] = torch.zeros(1)
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"lacks 'fc.bias' and has 'extra'"):
        load(tmp_path / "w.pt", factory=FACTORY, shapes=SHAPES)
    torch.save({**trained().state_dict(), "fc.bias": torch.zeros(9)}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"'fc.bias' of shape \(9,\)"):
        load(tmp_path / "w.pt", factory=FACTORY, shapes=SHAPES)


def test_files_without_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="no state dict"):
        load(tmp_path / "w.pt", factory=FACTORY, shapes=SHAPES)


def test_factory_that_returns_no_module_is_refused(tmp_path: Path) -> None:
    torch.save(trained().state_dict(), tmp_path / "w.pt")
    (tmp_path / "net.py").write_text("def make():\n    return 3\n")
    with pytest.raises(UsageError, match="not a torch module"):
        load(tmp_path / "w.pt", factory=f"{tmp_path / 'net.py'}:make")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_pickled_module_is_refused_with_a_way_out(
    tmp_path: Path, suffix: str, legacy: bool
) -> None:
    path = tmp_path / f"model{suffix}"
    torch.save(trained(), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ModelError) as caught:
        load(path, shapes=SHAPES)
    message = str(caught.value)
    assert "torch_models.Classifier" in message
    assert "torch.export.save(torch.export.export(" in message
    assert "--trust-pickle" in message
    assert "\n" not in message


def test_trusted_pickled_module_loads(tmp_path: Path) -> None:
    torch.save(trained(), tmp_path / "model.pth")
    check_trained(load(tmp_path / "model.pth", shapes=SHAPES, trust_pickle=True))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pt2", ".onnx"])
@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
@pytest.mark.parametrize("where", ["top", "inside"])
def test_payloads_do_not_run(
    tmp_path: Path, proof: Path, suffix: str, form: str, where: str
) -> None:
    payload: Any = Touch(proof)
    if where == "inside":
        payload = {**trained().state_dict(), "fc.bias": payload}
    path = tmp_path / f"model{suffix}"
    if form == "plain":
        path.write_bytes(pickle.dumps(payload, protocol=2))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ModelError):
        load(path, factory=FACTORY, shapes=SHAPES)
    with pytest.raises(ModelError):
        load(path, shapes=SHAPES)
    assert not proof.exists()
    if form != "plain":
        torch.load(path, weights_only=False)
        assert proof.exists(), "the file is harmless, so the test proves nothing"


def test_environment_is_as_before(
    tmp_path: Path, proof: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save(Touch(proof), tmp_path / "m.pt")
    with pytest.raises(ModelError):
        load(tmp_path / "m.pt")
    assert not proof.exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_name_of_the_foreign_class_is_found_in_new_protocols(tmp_path: Path) -> None:
    from compress.frontends.pickles import foreign_class

    for protocol in (2, 3, 4, 5):
        buffer = io.BytesIO()
        pickle.dump({"x": [1, "text", b"bytes"], "p": Path("a")}, buffer, protocol=protocol)
        (tmp_path / "p").write_bytes(buffer.getvalue())
        assert (foreign_class(tmp_path / "p") or "").startswith("pathlib.")
    (tmp_path / "p").write_bytes(b"\x80\x04garbage")
    assert foreign_class(tmp_path / "p") is None


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file(trained().state_dict(), path)
    else:
        zipped = kind == "zip"
        torch.save(trained().state_dict(), path, _use_new_zipfile_serialization=zipped)
    valid = path.read_bytes()
    for data in (valid[: len(valid) // 2], valid[:-8], valid[:20]):
        path.write_bytes(data)
        with pytest.raises(ModelError) as caught:
            load(path, factory=FACTORY, shapes=SHAPES)
        assert "\n" not in str(caught.value)


def test_without_torch_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(trained().state_dict(), tmp_path / "w.pt")
    (tmp_path / "net.py").write_text("def make():\n    return None\n")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match=r"pip install '\.\[torch\]'"):
        load(tmp_path / "w.pt", factory=f"{tmp_path / 'net.py'}:make")
