"""torch.export archives: what they compute, and that nothing in them runs."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from frontend_models import Touch, rewrite_zip, run, shapes_of

from compress.errors import ModelError
from compress.frontends import load

torch = pytest.importorskip("torch")

from torch_models import (  # noqa: E402 needs torch
    Classifier,
    Encoder,
    TwoInputs,
    image_batch,
    save_pt2,
)


def edit_program(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        program = json.loads(content)
        edit(program)
        return json.dumps(program).encode()

    rewrite_zip(path, change)


def pickled(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def load_as_torch_does(path: Path) -> None:
    """For proof that an archive is dangerous; torch may fail after the payload ran."""
    with contextlib.suppress(Exception):
        torch.export.load(path)


def test_program_keeps_names_dynamic_dimensions_and_results(tmp_path: Path) -> None:
    program = save_pt2(tmp_path / "m.pt2", dynamic=True)
    model = load(tmp_path / "m.pt2")
    assert list(shapes_of(model.graph.inputs)) == ["image"]
    batch, channels, height, width = model.graph.inputs[0].shape
    assert isinstance(batch, ir.SymbolicDim)
    assert isinstance(height, ir.SymbolicDim)
    assert (channels, width) == (3, 8)
    assert list(shapes_of(model.graph.outputs)) == ["logits", "features"]
    assert {"conv.weight", "fc.weight", "fc.bias", "scale"} <= set(model.graph.initializers)
    image = image_batch(5, 12, 8)
    outputs = run(model, {"image": image.numpy()})
    expected = program.module()(image)
    np.testing.assert_allclose(outputs["logits"], expected["logits"].detach(), atol=1e-5)
    np.testing.assert_allclose(outputs["features"], expected["features"].detach(), atol=1e-5)


def test_static_shapes_stay_static(tmp_path: Path) -> None:
    save_pt2(tmp_path / "m.pt2")
    assert shapes_of(load(tmp_path / "m.pt2").graph.inputs) == {"image": [2, 3, 8, 8]}


def test_transposed_weights_keep_their_names(tmp_path: Path) -> None:
    save_pt2(tmp_path / "m.pt2", Encoder(), torch.ones((2, 7), dtype=torch.int64))
    model = load(tmp_path / "m.pt2")
    names = set(model.graph.initializers)
    assert {"embed.weight", "layer.self_attn.in_proj_weight", "layer.linear1.weight"} <= names
    assert {"layer.linear2.weight", "head.weight", "layer.norm1.weight"} <= names


def test_names_of_structured_outputs(tmp_path: Path) -> None:
    save_pt2(tmp_path / "a.pt2", TwoInputs(), torch.rand(2, 4), torch.rand(2, 4))
    model = load(tmp_path / "a.pt2")
    assert list(shapes_of(model.graph.inputs)) == ["left", "right"]
    assert list(shapes_of(model.graph.outputs)) == ["output_0", "output_1_0"]


def test_loading_is_silent_and_independent_of_the_suffix(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save_pt2(tmp_path / "m.pt2")
    (tmp_path / "m.pt2").rename(tmp_path / "model.pt")
    capfd.readouterr()
    load(tmp_path / "model.pt")
    assert capfd.readouterr() == ("", "")


def test_notes_of_the_exporting_machine_are_dropped(tmp_path: Path) -> None:
    save_pt2(tmp_path / "m.pt2")
    text = ir.to_proto(load(tmp_path / "m.pt2")).SerializeToString()
    assert str(Path(__file__).parent).encode() not in text


def test_programs_saved_on_a_gpu_load_without_one(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    save_pt2(path)

    def to_gpu(name: str, content: bytes) -> bytes:
        gpu = b'"device": {"type": "cuda", "index": 0}'
        return content.replace(b'"device": {"type": "cpu", "index": null}', gpu)

    rewrite_zip(path, to_gpu)
    assert set(run(load(path), {"image": image_batch().numpy()})) == {"logits", "features"}


def test_payload_in_sample_inputs_does_not_run(tmp_path: Path, proof: Path) -> None:
    path = tmp_path / "m.pt2"
    save_pt2(path)
    payload = pickled((Touch(proof), {}))
    rewrite_zip(path, lambda name, c: payload if "sample_inputs" in name else c)
    load(path)
    assert not proof.exists()
    load_as_torch_does(path)
    assert proof.exists(), "the archive is harmless, so the test proves nothing"


@pytest.mark.parametrize("kind", ["weights", "constants"])
def test_payload_in_pickled_tensors_does_not_run(tmp_path: Path, proof: Path, kind: str) -> None:
    path = tmp_path / "m.pt2"
    save_pt2(path)
    member = {"weights": "weight_0", "constants": "tensor_0"}[kind]

    def use_pickle(name: str, content: bytes) -> bytes | None:
        if name.endswith(f"{kind}/{member}"):
            return None
        if not name.endswith(f"model_{kind}_config.json"):
            return content
        config = json.loads(content)
        entry = config["config"].setdefault("conv.weight", {"is_param": True})
        entry.update(path_name=member, use_pickle=True, tensor_meta=None)
        return json.dumps(config).encode()

    rewrite_zip(path, use_pickle, **{f"data__{kind}__{member}": pickled(Touch(proof))})
    with pytest.raises(ModelError):
        load(path)
    assert not proof.exists()
    load_as_torch_does(path)
    assert proof.exists(), "the archive is harmless, so the test proves nothing"


def test_harmless_pickled_weights_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    program = save_pt2(path)

    def use_pickle(name: str, content: bytes) -> bytes:
        if name.endswith("weights/weight_0"):
            return pickled(program.state_dict["conv.weight"])
        if name.endswith("model_weights_config.json"):
            config = json.loads(content)
            config["config"]["conv.weight"]["use_pickle"] = True
            return json.dumps(config).encode()
        return content

    rewrite_zip(path, use_pickle)
    outputs = run(load(path), {"image": image_batch().numpy()})
    expected = program.module()(image_batch())["logits"]
    np.testing.assert_allclose(outputs["logits"], expected.detach(), atol=1e-5)


@pytest.mark.parametrize("prefix", ["custom_obj_0", "opaque_obj_0"])
def test_custom_objects_are_refused(tmp_path: Path, proof: Path, prefix: str) -> None:
    import pickle

    path = tmp_path / "m.pt2"
    save_pt2(path)
    entry = {"path_name": prefix, "is_param": False, "use_pickle": True, "tensor_meta": None}
    config = json.dumps({"config": {"obj": entry}}).encode()
    rewrite_zip(
        path,
        lambda name, content: config if name.endswith("constants_config.json") else content,
        **{f"data__constants__{prefix}": pickle.dumps(Touch(proof))},
    )
    with pytest.raises(ModelError, match="custom object"):
        load(path)
    assert not proof.exists()


def test_payload_in_the_older_weights_file_does_not_run(tmp_path: Path, proof: Path) -> None:
    path = tmp_path / "m.pt2"
    save_pt2(path)
    rewrite_zip(path, lambda _, content: content, data__weights__model__pt=b"")
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{root}/data/weights/model.pt", pickled({"conv.weight": Touch(proof)}))
    with pytest.raises(ModelError):
        load(path)
    assert not proof.exists()


def legacy_archive(path: Path, example_inputs: bytes) -> Any:
    """The zip that torch.export.save wrote until torch 2.7."""
    from torch._export.serde.serialize import serialize

    program = torch.export.export(Classifier().eval(), (image_batch(),))
    artifact = serialize(program)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("version", "8.2")
        archive.writestr("serialized_exported_program.json", artifact.exported_program)
        archive.writestr("serialized_state_dict.pt", artifact.state_dict)
        archive.writestr("serialized_constants.pt", artifact.constants)
        archive.writestr("serialized_example_inputs.pt", example_inputs)
    return program


def test_archives_of_older_torch_load_without_their_payload(tmp_path: Path, proof: Path) -> None:
    program = legacy_archive(tmp_path / "old.pt2", pickled((Touch(proof), {})))
    outputs = run(load(tmp_path / "old.pt2"), {"image": image_batch().numpy()})
    expected = program.module()(image_batch())["logits"]
    np.testing.assert_allclose(outputs["logits"], expected.detach(), atol=1e-5)
    assert not proof.exists()


def test_payload_in_a_shape_expression_does_not_run(tmp_path: Path, proof: Path) -> None:
    path = tmp_path / "m.pt2"
    save_pt2(path, dynamic=True)
    code = f"__import__('pathlib').Path('{proof}').touch() or 1"

    def poison(program: dict[str, Any]) -> None:
        image = program["graph_module"]["graph"]["tensor_values"]["image"]
        image["sizes"][0]["as_expr"]["expr_str"] = code

    edit_program(path, poison)
    with pytest.raises(ModelError, match="shape expression"):
        load(path)
    assert not proof.exists()
    load_as_torch_does(path)
    assert proof.exists(), "the archive is harmless, so the test proves nothing"


def test_guards_are_dropped(tmp_path: Path, proof: Path) -> None:
    path = tmp_path / "m.pt2"
    save_pt2(path)
    code = f"__import__('pathlib').Path('{proof}').touch() or True"
    edit_program(path, lambda program: program.update(guards_code=[code]))
    load(path)
    assert not proof.exists()


def test_call_of_a_python_function_is_refused(tmp_path: Path, proof: Path) -> None:
    path = tmp_path / "m.pt2"
    save_pt2(path)

    def poison(program: dict[str, Any]) -> None:
        node = program["graph_module"]["graph"]["nodes"][0]
        node["target"] = "torch.os.mkdir"
        node["inputs"] = [{"name": "", "arg": {"as_string": str(proof)}, "kind": 1}]

    edit_program(path, poison)
    with pytest.raises(ModelError, match=r"torch\.os\.mkdir"):
        load(path)
    assert not proof.exists()


def test_code_in_a_value_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    save_pt2(path)
    name = "image):\n    import this\ndef f(x"

    def poison(program: dict[str, Any]) -> None:
        text = json.dumps(program).replace('"image"', json.dumps(name))
        program.clear()
        program.update(json.loads(text))

    edit_program(path, poison)
    with pytest.raises(ModelError, match="value name"):
        load(path)


def test_compiled_code_is_neither_loaded_nor_needed(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    save_pt2(path)
    rewrite_zip(path, lambda _, c: c, **{"data__aotinductor__model__x.so": b"\x7fELF"})
    assert load(path).graph.outputs[0].name == "logits"
    rewrite_zip(path, lambda name, content: None if "models/" in name else content)
    with pytest.raises(ModelError, match="compiled code"):
        load(path)


def test_trusted_archives_are_loaded_by_torch_itself(tmp_path: Path, proof: Path) -> None:
    path = tmp_path / "m.pt2"
    save_pt2(path)
    payload = pickled((Touch(proof), {}))
    rewrite_zip(path, lambda name, c: payload if "sample_inputs" in name else c)
    with pytest.raises(ModelError):
        load(path, trust_pickle=True)
    assert proof.exists()


def test_damaged_archives_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    save_pt2(path)
    valid = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [valid[: len(valid) // 2], valid[:-30], b"PK\x03\x04" + rng.bytes(1000)]
    for _ in range(20):
        data = bytearray(valid)
        for _ in range(8):
            data[int(rng.integers(len(data)))] ^= 0xFF
        damaged.append(bytes(data))
    refused = []
    for data in damaged:
        path.write_bytes(data)
        try:
            load(path)
        except ModelError as error:
            refused.append(str(error))
    assert len(refused) > 10
    assert all("\n" not in line for line in refused)


def test_missing_members_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    save_pt2(path)
    rewrite_zip(path, lambda name, content: None if name.endswith("weight_1") else content)
    with pytest.raises(ModelError, match="weight_1"):
        load(path)


def test_weights_that_claim_to_be_huge_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    save_pt2(path)

    def inflate(name: str, content: bytes) -> bytes:
        if name.endswith("weights_config.json"):
            config = json.loads(content)
            config["config"]["fc.bias"]["tensor_meta"]["sizes"] = [{"as_int": 1 << 40}]
            return json.dumps(config).encode()
        return b"" if name.endswith("weight_5") else content

    rewrite_zip(path, inflate)
    with pytest.raises(ModelError, match="too short"):
        load(path)
