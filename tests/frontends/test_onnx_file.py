"""ONNX files: laziness, versions, external data and damage."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from frontend_models import onnx_model, run
from onnx import TensorProto, helper, numpy_helper

from compress.errors import CompressError, ModelError, UsageError
from compress.frontends import load

X = np.array([[1, 2, 3]], dtype=np.float32)


def save_external(folder: Path, location: str = "weights.bin", **attributes: int) -> Path:
    """A model whose weight lies in external data at `location`, without writing that file."""
    model = onnx_model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **attributes}.items():
        tensor.external_data.add(key=key, value=str(value))
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


WEIGHTS = np.arange(12, dtype=np.float32).tobytes()


@pytest.mark.parametrize("opset", [7, 9, 13, 17, 21, onnx.defs.onnx_opset_version()])
def test_loads_every_opset_from_7(tmp_path: Path, opset: int) -> None:
    onnx.save(onnx_model(opset), tmp_path / "m.onnx")
    model = load(tmp_path / "m.onnx")
    assert model.opset_imports[""] == opset
    assert list(model.graph.initializers) == ["w"]
    assert [str(d) for d in model.graph.inputs[0].shape] == ["batch", "3"]


def test_accepts_path_as_string_and_computes_the_same(tmp_path: Path) -> None:
    onnx.save(onnx_model(), tmp_path / "m.onnx")
    outputs = run(load(str(tmp_path / "m.onnx")), {"x": X})
    weight = np.arange(12, dtype=np.float32).reshape(3, 4) - 5
    np.testing.assert_allclose(outputs["y"], np.maximum(X @ weight, 0))


@pytest.mark.parametrize(("opset", "word"), [(6, "older"), (9999, "upgrade onnx")])
def test_refuses_opsets_outside_the_range(tmp_path: Path, opset: int, word: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_model(opset).SerializeToString())
    with pytest.raises(ModelError, match=word):
        load(path)


def test_refuses_a_model_without_opset() -> None:
    proto = onnx_model()
    del proto.opset_import[:]
    with pytest.raises(ModelError, match="does not say which ONNX opset"):
        load(proto)


def test_proto_and_ir_model_stay_as_they_are(tmp_path: Path) -> None:
    proto = onnx_model()
    before = proto.SerializeToString()
    model = load(proto)
    model.graph.initializers["w"].name = "renamed"
    model.graph.remove(model.graph[-1])
    assert proto.SerializeToString() == before

    original = ir.from_proto(onnx_model())
    copy = load(original)
    copy.graph.initializers["w"].name = "renamed"
    assert original.graph.initializers["w"].const_value.name == "w"
    assert len(list(copy.graph)) == len(list(original.graph)) == 2


def test_external_data_is_mapped_and_read(tmp_path: Path) -> None:
    path = save_external(tmp_path, offset=8, length=48)
    (tmp_path / "weights.bin").write_bytes(b"\0" * 8 + WEIGHTS)
    tensor = load(path).graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    np.testing.assert_array_equal(tensor.numpy().ravel(), np.arange(12))


def test_external_data_in_a_subfolder_and_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(WEIGHTS)
    save_external(tmp_path, "data/w.bin")
    monkeypatch.chdir(tmp_path)
    model = load("model.onnx")
    monkeypatch.chdir("/")
    assert model.graph.initializers["w"].const_value.numpy()[2, 3] == 11


def test_external_data_of_constants_and_subgraphs_is_found(tmp_path: Path) -> None:
    def external(name: str) -> TensorProto:
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[12])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="w.bin")
        return tensor

    branch = helper.make_graph(
        [helper.make_node("Identity", ["inner"], ["out"])],
        "branch",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [12])],
        [external("inner")],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["c"], value=external("c")),
            helper.make_node("If", ["cond"], ["d"], then_branch=branch, else_branch=branch),
            helper.make_node("Add", ["c", "d"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("cond", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [12])],
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    )
    (tmp_path / "w.bin").write_bytes(WEIGHTS)
    model = load(path)
    constant = model.graph[0].attributes["value"].as_tensor()
    inner = model.graph[1].attributes["then_branch"].as_graph().initializers["inner"]
    assert constant.numpy()[11] == inner.const_value.numpy()[11] == 11


def test_models_over_2_gb_stay_on_disk(tmp_path: Path) -> None:
    elements = 3 << 28
    path = save_external(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    proto.graph.initializer[0].dims[:] = [3, elements // 3]
    path.write_bytes(proto.SerializeToString())
    with (tmp_path / "weights.bin").open("wb") as file:
        file.seek(elements * 4 - 4)
        file.write(np.float32(7).tobytes())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    tensor = load(path).graph.initializers["w"].const_value
    assert tensor.nbytes == 3 * 2**30
    assert tensor.numpy()[-1, -1] == 7
    assert time.monotonic() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


@pytest.mark.parametrize(
    "location",
    ["../outside.bin", "a/../../outside.bin", "/etc/hostname", "\\\\host\\share", "", "."],
)
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "outside.bin").write_bytes(WEIGHTS)
    (tmp_path / "model").mkdir()
    with pytest.raises(ModelError, match="external data"):
        load(save_external(tmp_path / "model", location))


def test_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside.bin").write_bytes(WEIGHTS)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").symlink_to(tmp_path / "outside.bin")
    with pytest.raises(ModelError, match="link out of"):
        load(save_external(folder))


def test_linked_folder_of_links_is_followed(tmp_path: Path) -> None:
    """The layout of the Hugging Face cache: the model and its data both link into blobs/."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    save_external(blobs).rename(blobs / "abc")
    (blobs / "def").write_bytes(WEIGHTS)
    (snapshot / "model.onnx").symlink_to(blobs / "abc")
    (snapshot / "weights.bin").symlink_to(blobs / "def")
    model = load(snapshot / "model.onnx")
    assert model.graph.initializers["w"].const_value.numpy()[2, 3] == 11


def test_hard_linked_data_is_read(tmp_path: Path) -> None:
    (tmp_path / "cache.bin").write_bytes(WEIGHTS)
    (tmp_path / "model").mkdir()
    os.link(tmp_path / "cache.bin", tmp_path / "model" / "weights.bin")
    model = load(save_external(tmp_path / "model"))
    assert model.graph.initializers["w"].const_value.numpy()[2, 3] == 11


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'weights.bin' of tensor 'w' .* is missing"):
        load(save_external(tmp_path))


def test_external_data_that_is_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "weights.bin")
    with pytest.raises(ModelError, match="not a regular file"):
        load(save_external(tmp_path))


@pytest.mark.parametrize(
    "attributes",
    [{"offset": 4}, {"offset": -8}, {"length": 12}, {"offset": 10**18}, {"offset": "many"}],
)
def test_external_data_too_short_is_refused(tmp_path: Path, attributes: dict[str, int]) -> None:
    path = save_external(tmp_path, **attributes)
    (tmp_path / "weights.bin").write_bytes(WEIGHTS)
    with pytest.raises(ModelError, match="external data of tensor 'w'"):
        load(path)


def test_proto_with_external_data_asks_for_the_path(tmp_path: Path) -> None:
    proto = onnx.load(save_external(tmp_path), load_external_data=False)
    with pytest.raises(ModelError, match="give the path"):
        load(proto)


def test_file_over_the_protobuf_limit_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.write(onnx_model().SerializeToString())
        file.truncate(5 << 30)
    with pytest.raises(ModelError, match="larger than 2 GB"):
        load(path)


@pytest.mark.parametrize(
    "content",
    [b"\0" * 1000, b"hello world" * 50, onnx_model().SerializeToString()[:-20], b"\x08\x08"],
)
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_empty_graph_is_refused(tmp_path: Path) -> None:
    proto = onnx_model()
    del proto.graph.node[:]
    with pytest.raises(ModelError, match="empty graph"):
        load(proto)


def test_other_protobuf_message_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "t.onnx"
    path.write_bytes(numpy_helper.from_array(np.ones(3, np.float32), "t").SerializeToString())
    with pytest.raises(ModelError):
        load(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("dims", [3, 5]), ("dims", [-3, -4]), ("data_type", 0), ("data_type", 99), ("raw_data", b"1")],
)
def test_tensor_that_does_not_fill_its_shape_is_named(field: str, value: object) -> None:
    proto = onnx_model()
    tensor = proto.graph.initializer[0]
    if field == "dims":
        tensor.dims[:] = value
    else:
        setattr(tensor, field, value)
    with pytest.raises(ModelError, match="'w'"):
        load(proto)


@pytest.mark.parametrize(
    "dtype",
    [
        *("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "FLOAT8E4M3FN", "COMPLEX64", "BOOL", "STRING"),
        *("INT64", "INT32", "INT8", "INT4", "UINT64", "UINT8", "UINT4"),
    ],
)
@pytest.mark.parametrize("raw", [False, True])
def test_tensors_of_every_type_pass_the_size_check(dtype: str, raw: bool) -> None:
    kind = TensorProto.DataType.Value(dtype)
    values: list[object] = [b"a"] * 3 if dtype == "STRING" else [1, 0, 1]
    tensor = helper.make_tensor("t", kind, [3], values)
    if raw and dtype != "STRING":
        tensor = numpy_helper.from_array(numpy_helper.to_array(tensor), "t")
        tensor.data_type = kind
    proto = onnx_model()
    proto.graph.initializer.append(tensor)
    assert load(proto).graph.initializers["t"].const_value.size == 3


def test_directory_and_missing_file_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a directory"):
        load(tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        load(tmp_path / "none.onnx")


def branching_model() -> onnx.ModelProto:
    """An If, a function and a Constant: the parts of the format that `onnx_model` leaves out."""
    branch = helper.make_graph(
        [helper.make_node("Add", ["x", "inner"], ["out"])],
        "branch",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.ones(2, np.float32), "inner")],
    )
    twice = helper.make_function(
        "own",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )
    constant = numpy_helper.from_array(np.array(True), "c")
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["c"], value=constant),
            helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch),
            helper.make_node("Twice", ["d"], ["y"], domain="own"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=[twice])
    model.ir_version = 8
    return model


def mutated(valid: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(valid)
    for _ in range(rng.integers(1, 3)):
        position = int(rng.integers(len(data) + 1))
        match rng.integers(8):
            case 0 | 1 | 2 | 3:
                data[position : position + 1] = rng.bytes(1)
            case 4 | 5:
                del data[position : position + int(rng.integers(1, 9))]
            case 6:
                data[position:position] = rng.bytes(int(rng.integers(1, 9)))
            case 7:
                del data[position:]
    return bytes(data)


@pytest.mark.parametrize("kind", ["plain", "branching", "external"])
def test_fuzzed_models_load_or_are_refused(tmp_path: Path, kind: str) -> None:
    """Every mutation of a valid file ends in a model with readable weights or one line, soon."""
    path = tmp_path / "model.onnx"
    (tmp_path / "weights.bin").write_bytes(WEIGHTS)
    if kind == "external":
        valid = save_external(tmp_path, offset=0, length=48).read_bytes()
    else:
        valid = (onnx_model() if kind == "plain" else branching_model()).SerializeToString()
    rng = np.random.default_rng(0)
    outcomes = {"loaded": 0, "refused": 0}
    lines = 0
    for _ in range(1000):
        path.write_bytes(mutated(valid, rng))
        started = time.monotonic()
        try:
            model = load(path)
        except CompressError as error:
            outcomes["refused"] += 1
            lines = max(lines, len(str(error).splitlines()))
        else:
            outcomes["loaded"] += 1
            for graph in model.graphs():
                for value in graph.initializers.values():
                    value.const_value.numpy()
        assert time.monotonic() - started < 2
    assert min(outcomes.values()) > 30
    assert lines == 1
