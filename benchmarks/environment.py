"""What a result has to be read with: processor, versions, date."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("onnxruntime", "openvino", "onnx", "onnx-ir", "numpy", "torch")
ISA_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimddp")


@dataclass(frozen=True)
class Environment:
    """The machine and the software of a run."""

    cpu: str
    isa: tuple[str, ...]
    cores: int
    system: str
    date: str
    versions: Mapping[str, str]

    def runtime_version(self, runtime: str) -> str:
        """The version of the package behind a key of `benchmarks.runtimes.RUNTIMES`."""
        return self.versions[runtime]


def describe() -> Environment:
    """The environment of this process."""
    information = _processor_information()
    flags = information.get("flags", information.get("Features", "")).split()
    return Environment(
        cpu=information.get("model name", platform.processor() or platform.machine()),
        isa=tuple(flag for flag in ISA_FLAGS if flag in flags),
        cores=os.cpu_count() or 1,
        system=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        date=datetime.date.today().isoformat(),
        versions={**{name: _version(name) for name in PACKAGES}, "nncf": _pinned("nncf")},
    )


def _processor_information() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _pinned(package: str) -> str:
    """The version in the peers' requirements, which are installed elsewhere."""
    lines = (Path(__file__).parent / "peers" / "requirements.txt").read_text().splitlines()
    return next(line.split("==")[1] for line in lines if line.startswith(f"{package}=="))
