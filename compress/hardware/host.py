"""The machine at hand: its processor, caches, threads and runtime, read without running anything
but `sysctl` where there is no /proc."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compress.evidence.digest import digest
from compress.hardware.device import Caches, Device
from compress.hardware.linux import Cache, LinuxMachine

_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")

_DARWIN_ISA = {
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_FP16": "asimdhp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_SME": "sme",
    "hw.optional.neon": "neon",
    "hw.optional.AdvSIMD": "neon",
    "hw.optional.avx1_0": "avx",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.fma": "fma",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.avx512bw": "avx512bw",
    "hw.optional.avx512vl": "avx512vl",
    "hw.optional.avx512vnni": "avx512_vnni",
}


@dataclass(frozen=True)
class HostInfo:
    """What was detected; empty or 0 where the system does not tell."""

    cpu: str
    """The processor's name, as in "AMD EPYC 9654" or "4 x Cortex-A76 + 4 x Cortex-A55"."""
    cpu_id: str
    """What tells steppings and unnamed processors apart: family/model/stepping, or part numbers."""
    vendor: str
    architecture: str
    """As the kernel names it: x86_64, aarch64, arm64, AMD64."""
    isa: tuple[str, ...]
    """The instruction-set extensions that kernels choose by, sorted, as Linux names them."""
    caches: tuple[Cache, ...]
    physical_cores: int
    """Those that this process may run on."""
    threads: int
    """Logical processors that this process may keep busy: affinity and container quota count."""
    memory_bytes: int
    os: str
    onnxruntime: str
    """The version of the installed distribution, or empty."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over what changes latencies: the processor, its caches and the runtime."""
        processor = (self.cpu, self.cpu_id, self.vendor, self.architecture, self.isa, self.caches)
        return digest("host", processor, self.onnxruntime)

    def cache_bytes(self, level: int, kind: str = "data") -> int | None:
        """The size of the cache at this level that holds "data" (or "instruction"s)."""
        for cache in self.caches:
            if cache.level == level and cache.kind in (kind, "unified"):
                return cache.size_bytes
        return None


def detect(root: Path = Path("/"), *, system: str = sys.platform) -> HostInfo:
    """Look at the machine at hand. Never fails: what cannot be found out stays empty.

    Args:
        root: where /proc, /sys and /etc are.
        system: as in `sys.platform`.
    """
    if system.startswith("linux"):
        return _from_linux(LinuxMachine(root, _machine()))
    if system == "darwin":
        return from_sysctl(_sysctl())
    logical = os.cpu_count() or 1
    return HostInfo(
        cpu=os.environ.get("PROCESSOR_IDENTIFIER", "") or platform.processor(),
        cpu_id=os.environ.get("PROCESSOR_REVISION", ""),
        vendor="",
        architecture=_machine(),
        isa=(),
        caches=(),
        physical_cores=logical,
        threads=logical,
        memory_bytes=0,
        os=_os_name(),
        onnxruntime=_onnxruntime_version(),
    )


def host_device(stub: Device | None = None) -> Device:
    """The profile of the machine at hand: the shipped stub, filled in with what is detected."""
    if stub is None:
        from compress.hardware.device import HOST, load_device

        return load_device(HOST)
    return describe(stub, detect())


def describe(stub: Device, info: HostInfo) -> Device:
    """`stub` with the figures of `info`, each with its source."""
    caches = Caches(
        l1i=info.cache_bytes(1, "instruction"),
        l1d=info.cache_bytes(1),
        l2=info.cache_bytes(2),
        l3=info.cache_bytes(3),
    )
    found = {
        "cpu": info.cpu or None,
        "runtime_version": info.onnxruntime or None,
        "threads": max(1, min(info.physical_cores, info.threads)),
        "isa": info.isa,
        "caches_bytes": caches,
        "memory_bytes": info.memory_bytes or None,
    }
    filled = stub.model_copy(update={**found, "sources": {}})
    sources = dict.fromkeys(filled.figures(), "detected on this machine")
    return Device.model_validate({**dict(filled), "sources": {**sources, **stub.sources}})


def _from_linux(machine: LinuxMachine) -> HostInfo:
    return HostInfo(
        cpu=machine.cpu_name(),
        cpu_id=machine.cpu_id(),
        vendor=machine.vendor(),
        architecture=machine.architecture,
        isa=machine.isa(),
        caches=machine.caches(),
        physical_cores=machine.physical_cores(),
        threads=machine.threads(),
        memory_bytes=machine.memory_bytes(),
        os=_os_name(),
        onnxruntime=_onnxruntime_version(),
    )


def from_sysctl(values: Mapping[str, str]) -> HostInfo:
    """What macOS's `sysctl hw machdep.cpu` tells, by key."""

    def number(*keys: str) -> int:
        for key in keys:
            if values.get(key, "").isdigit():
                return int(values[key])
        return 0

    # Apple's cores are of two kinds; those of level 0 are the fast ones.
    caches = [
        Cache(level, kind, size, 1)
        for level, kind, size in (
            (1, "instruction", number("hw.perflevel0.l1icachesize", "hw.l1icachesize")),
            (1, "data", number("hw.perflevel0.l1dcachesize", "hw.l1dcachesize")),
            (2, "unified", number("hw.perflevel0.l2cachesize", "hw.l2cachesize")),
            (3, "unified", number("hw.l3cachesize")),
        )
        if size
    ]
    logical = number("hw.logicalcpu") or os.cpu_count() or 1
    return HostInfo(
        cpu=values.get("machdep.cpu.brand_string", "") or platform.processor(),
        cpu_id="/".join(
            values.get(key, "")
            for key in ("hw.cpufamily", "machdep.cpu.model", "machdep.cpu.stepping")
        ).strip("/"),
        vendor=values.get("machdep.cpu.vendor", ""),
        architecture=_machine(),
        isa=tuple(sorted({isa for key, isa in _DARWIN_ISA.items() if values.get(key) == "1"})),
        caches=tuple(caches),
        physical_cores=number("hw.perflevel0.physicalcpu", "hw.physicalcpu") or logical,
        threads=logical,
        memory_bytes=number("hw.memsize"),
        os=_os_name(),
        onnxruntime=_onnxruntime_version(),
    )


def _sysctl() -> dict[str, str]:
    try:
        done = subprocess.run(
            ["sysctl", "hw", "machdep.cpu"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    pairs = (line.partition(":") for line in done.stdout.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _machine() -> str:
    return platform.machine()


def _os_name() -> str:
    return f"{platform.system()} {platform.release()}".strip()


def _onnxruntime_version() -> str:
    for name in _RUNTIMES:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""
