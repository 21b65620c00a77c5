"""Telling formats apart, factories, and working without torch."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from frontend_models import onnx_model

from compress.errors import ModelError, UsageError
from compress.frontends import load
from compress.frontends.archive import open_archive
from compress.frontends.factory import build, is_factory
from compress.frontends.formats import Format, detect


def test_onnx_is_loaded_without_importing_torch(tmp_path: Path) -> None:
    onnx.save(onnx_model(), tmp_path / "m.onnx")
    script = (
        "import sys; from compress.frontends import load\n"
        "load(sys.argv[1])\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'onnxscript', 'onnxruntime')))"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", script, str(tmp_path / "m.onnx")]
    assert subprocess.run(command, cwd=root, check=False).returncode == 0


def test_content_decides_not_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    onnx.save(onnx_model(), path, format="protobuf")
    with pytest.raises(ModelError, match="truncated or damaged"):
        load(path)
    path.rename(tmp_path / "model.bin2")
    assert detect(tmp_path / "model.bin2") is Format.ONNX


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x1c\0\0\0TFL3" + b"\0" * 50, "TensorFlow Lite"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 50, "Keras"),
        (b"GGUF" + b"\0" * 50, "GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"PK\x03\x04" + b"\0" * 50, "truncated or damaged"),
    ],
)
def test_other_files_are_told_what_they_are(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load(path)


def test_arrays_and_unknown_archives_are_no_models(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.ones(3))
    with pytest.raises(UsageError, match="--data"):
        load(tmp_path / "data.npz")
    with zipfile.ZipFile(tmp_path / "z.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ModelError, match="not one that PyTorch wrote"):
        load(tmp_path / "z.pt")


def test_bombs_are_refused_before_they_expand(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/archive_format", "pt2")
        archive.writestr("m/models/model.json", b" " * (64 << 20))
    with pytest.raises(ModelError, match="expands to far more"):
        load(path)


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/archive_format", "pt2")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("m/archive_format", "other")
    with pytest.raises(ModelError, match="two members of one name"):
        load(path)


def test_archive_members_without_their_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("root/a/b", "one")
        archive.writestr("root/c", "two!")
    with open_archive(tmp_path / "a.zip") as archive:
        assert sorted(archive.names) == ["a/b", "c"]
        assert archive.read("a/b") == b"one"
        assert archive.size("c") == 4
        with pytest.raises(ModelError, match="no member d"):
            archive.read("d")


@pytest.mark.parametrize("source", [3, None, b"bytes", object()])
def test_other_objects_are_no_models(source: object) -> None:
    with pytest.raises(UsageError, match="is no model"):
        load(source)


def test_factory_beside_a_whole_model_is_refused(tmp_path: Path) -> None:
    onnx.save(onnx_model(), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="weights only"):
        load(tmp_path / "m.onnx", factory="net:make")
    with pytest.raises(UsageError, match="live model"):
        load(onnx_model(), factory="net:make")
    with pytest.raises(UsageError, match="factory already"):
        load("pkg.mod:make", factory="net:make")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("pkg.mod:make", True),
        ("mod:make", True),
        ("some/folder/net.py:make", True),
        ("model.onnx", False),
        ("folder/model.onnx:make", False),
        ("C:model", True),
        ("C:\\model.onnx", False),
        ("a b:make", False),
        ("net.py:not-a-name", False),
    ],
)
def test_what_reads_as_a_factory(source: str, expected: bool) -> None:
    assert is_factory(source) is expected


def test_file_with_a_colon_in_its_name_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx_model(), "a:b", format="protobuf")
    assert load("a:b").graph.inputs[0].name == "x"


def test_factory_of_a_file_and_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_parts_of_it.py").write_text("VALUE = 'part'\n")
    (tmp_path / "net.py").write_text(
        "from my_parts_of_it import VALUE\ndef make():\n    return VALUE, {'x': 1}\n"
    )
    before = list(sys.path)
    assert build(f"{tmp_path / 'net.py'}:make") == ("part", {"x": 1})
    assert sys.path == before


def test_factory_of_a_module_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_factory_module.py").write_text("class Net:\n    pass\n")
    monkeypatch.chdir(tmp_path)
    made, inputs = build("own_factory_module:Net")
    assert type(made).__name__ == "Net"
    assert inputs is None


def test_factory_may_build_an_onnx_model(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import onnx\nfrom pathlib import Path\n"
        "def make():\n    return onnx.load(Path(__file__).with_name('m.onnx'))\n"
    )
    onnx.save(onnx_model(), tmp_path / "m.onnx")
    assert load(f"{tmp_path / 'net.py'}:make").graph.outputs[0].name == "y"


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        ("def make():\n    raise KeyError('lost')\n", "make", r"KeyError: 'lost' \(.*net.py:2\)"),
        ("import not_there_at_all\n", "make", "cannot import .*not_there_at_all"),
        ("def make(:\n", "make", "SyntaxError"),
        ("x = 1\n", "make", "defines no 'make'"),
        ("def make():\n    pass\n", "make", "returned None"),
        ("def make():\n    return 1, 2, 3\n", "make", "returned 3 values"),
        ("def make(size):\n    pass\n", "make", "TypeError"),
    ],
)
def test_factories_that_fail(tmp_path: Path, code: str, name: str, message: str) -> None:
    (tmp_path / "net.py").write_text(code)
    with pytest.raises(UsageError, match=message) as caught:
        load(f"{tmp_path / 'net.py'}:{name}")
    assert "\n" not in str(caught.value)


def test_factory_file_that_is_missing() -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load("no/such/net.py:make")
