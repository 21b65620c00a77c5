"""What Linux tells of the machine in /proc and /sys; every file may be missing or odd."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# fmt: off
_ISA = frozenset({
    "sse4_1", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx_vnni_int8",
    "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "avx10",
    "amx_tile", "amx_int8", "amx_bf16", "amx_fp16",
    "neon", "asimddp", "asimdhp", "asimdfhm", "fphp", "i8mm", "bf16",
    "sve", "sve2", "svei8mm", "svebf16", "sme", "sme2",
})
# fmt: on
_ISA_SYNONYMS = {"asimd": "neon"}

_ARM_VENDORS = {
    "0x41": "Arm",
    "0x46": "Fujitsu",
    "0x48": "HiSilicon",
    "0x4e": "NVIDIA",
    "0x51": "Qualcomm",
    "0x61": "Apple",
    "0xc0": "Ampere",
}

# Part numbers of MIDR_EL1, as in Linux's arch/arm64/include/asm/cputype.h.
_ARM_PARTS = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd04"): "Cortex-A35",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd09"): "Cortex-A73",
    ("0x41", "0xd0a"): "Cortex-A75",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd0d"): "Cortex-A77",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd41"): "Cortex-A78",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd44"): "Cortex-X1",
    ("0x41", "0xd46"): "Cortex-A510",
    ("0x41", "0xd47"): "Cortex-A710",
    ("0x41", "0xd48"): "Cortex-X2",
    ("0x41", "0xd49"): "Neoverse-N2",
    ("0x41", "0xd4d"): "Cortex-A715",
    ("0x41", "0xd4e"): "Cortex-X3",
    ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x41", "0xd83"): "Neoverse-V3AE",
    ("0x41", "0xd84"): "Neoverse-V3",
    ("0x4e", "0x003"): "Denver 2",
    ("0x4e", "0x004"): "Carmel",
    ("0xc0", "0xac3"): "Ampere-1",
}


@dataclass(frozen=True)
class Cache:
    """One cache of a core."""

    level: int
    kind: str
    """data, instruction or unified."""
    size_bytes: int
    shared_by: int
    """Logical processors that share it."""


class LinuxMachine:
    """The machine under `root`, as far as this process may use it."""

    def __init__(self, root: Path, architecture: str) -> None:
        self._root = root
        self.architecture = architecture

    def cpu_name(self) -> str:
        """The model name, or the cores of an Arm chip, or the board's name."""
        for key in ("model name", "cpu model", "Processor"):
            names = [cpu[key] for cpu in self._processors if cpu.get(key)]
            if names and "rev " not in names[0]:  # "ARMv7 Processor rev 4" names nothing
                return " ".join(names[0].split())
        parts = Counter(
            (cpu["CPU implementer"], cpu["CPU part"])
            for cpu in self._processors
            if "CPU implementer" in cpu and "CPU part" in cpu
        )
        if parts:
            # The most capable cores have the highest numbers within a vendor's generation.
            cores = sorted(parts.items(), reverse=True)
            return " + ".join(f"{n} x {_ARM_PARTS.get(part, ' '.join(part))}" for part, n in cores)
        board = self._text("proc/device-tree/model") or self._global.get("Model", "")
        return board or self.architecture

    def cpu_id(self) -> str:
        """family/model/stepping on x86, the implementer/part/revision of each core type on Arm."""
        keys = ("cpu family", "model", "stepping")
        arm = ("CPU implementer", "CPU part", "CPU variant", "CPU revision")
        found = {
            "/".join(cpu.get(key, "?") for key in (arm if "CPU part" in cpu else keys))
            for cpu in self._processors
            if "CPU part" in cpu or "cpu family" in cpu
        }
        return " ".join(sorted(found))

    def vendor(self) -> str:
        """As in "AuthenticAMD" or "Arm"."""
        for cpu in self._processors:
            if "vendor_id" in cpu:
                return cpu["vendor_id"]
            if "CPU implementer" in cpu:
                return _ARM_VENDORS.get(cpu["CPU implementer"], cpu["CPU implementer"])
        return ""

    def isa(self) -> tuple[str, ...]:
        """The extensions that all usable processors have and that matter to kernels, sorted."""
        common: set[str] | None = None
        for cpu in self._processors:
            words = (cpu.get("flags") or cpu.get("Features") or "").split()
            flags = {_ISA_SYNONYMS.get(word, word) for word in words}
            if flags:
                common = flags if common is None else common & flags
        return tuple(sorted(_ISA & (common or set())))

    def caches(self) -> tuple[Cache, ...]:
        """The caches of the first processor that this process may run on."""
        if not self._allowed:
            return ()
        folder = self._root / f"sys/devices/system/cpu/cpu{min(self._allowed)}/cache"
        found = []
        for index in sorted(_entries(folder, r"index\d+")):
            relative = index.relative_to(self._root)
            level = self._text(relative / "level")
            size = _parse_size(self._text(relative / "size"))
            if level.isdigit() and size:
                kind = self._text(relative / "type").lower() or "unified"
                shared = len(_parse_list(self._text(relative / "shared_cpu_list"))) or 1
                found.append(Cache(int(level), kind, size, shared))
        return tuple(sorted(found, key=lambda cache: (cache.level, cache.kind)))

    def physical_cores(self) -> int:
        """How many cores the usable processors are threads of."""
        siblings = set()
        for cpu in self._allowed:
            topology = Path(f"sys/devices/system/cpu/cpu{cpu}/topology")
            group = self._text(topology / "core_cpus_list") or self._text(
                topology / "thread_siblings_list"
            )
            siblings.add(min(_parse_list(group), default=cpu))
        if len(siblings) == len(self._allowed):  # no topology in /sys, or one thread per core
            cores = {
                (cpu.get("physical id"), cpu["core id"])
                for cpu in self._processors
                if "core id" in cpu
            }
            return max(1, min(len(cores) or len(siblings), len(siblings)))
        return max(1, len(siblings))

    def threads(self) -> int:
        """Usable processors, cut down to the container's quota; at least 1."""
        usable = len(self._allowed) or 1
        quota = self._cpu_quota()
        return max(1, min(usable, math.floor(quota))) if quota else usable

    def memory_bytes(self) -> int:
        """Of the machine, or of the container if that has less; 0 if unknown."""
        matched = re.search(r"^MemTotal:\s+(\d+) kB", self._text("proc/meminfo"), re.MULTILINE)
        total = int(matched[1]) * 1024 if matched else 0
        limits = [total] if total else []
        for file in self._cgroup_files("memory", "memory.max", "memory.limit_in_bytes"):
            # Version 1 says "no limit" with a number near 2 ** 63.
            if file.isdigit() and 0 < int(file) < 1 << 60:
                limits.append(int(file))
        return min(limits, default=0)

    def _cpu_quota(self) -> float | None:
        """Processors' worth of time that the tightest enclosing cgroup grants."""
        quotas = []
        for text in self._cgroup_files("cpu", "cpu.max", None):
            quota, _, period = text.partition(" ")
            if quota.isdigit() and period.isdigit() and int(period):
                quotas.append(int(quota) / int(period))
        amounts = self._cgroup_files("cpu", None, "cpu.cfs_quota_us")
        periods = self._cgroup_files("cpu", None, "cpu.cfs_period_us")
        for amount, period in zip(amounts, periods, strict=False):
            if amount.isdigit() and period.isdigit() and int(period):
                quotas.append(int(amount) / int(period))
        return min(quotas, default=None)

    def _cgroup_files(self, controller: str, v2: str | None, v1: str | None) -> Iterator[str]:
        """The contents of a control file, from this process's cgroup up to the root."""
        mount = Path("sys/fs/cgroup")
        for line in self._text("proc/self/cgroup").splitlines():
            number, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            inner = Path(path.lstrip("/"))
            if number == "0" and v2:
                folders = [mount, mount / "unified"]
                name = v2
            elif controller in controllers.split(",") and v1:
                folders = [mount / controllers, mount / controller]
                name = v1
            else:
                continue
            for folder in dict.fromkeys(folders):
                for part in (inner, *inner.parents):
                    if text := self._text(folder / part / name):
                        yield text

    @cached_property
    def _allowed(self) -> frozenset[int]:
        """The processors that this process may run on."""
        status = self._text("proc/self/status")
        matched = re.search(r"^Cpus_allowed_list:\s*(\S+)", status, re.MULTILINE)
        allowed = _parse_list(matched[1]) if matched else frozenset()
        online = _parse_list(self._text("sys/devices/system/cpu/online"))
        listed = frozenset(int(cpu["processor"]) for cpu in self._all if cpu["processor"].isdigit())
        present = online or listed
        return (allowed & present if present else allowed) or present

    @cached_property
    def _all(self) -> list[dict[str, str]]:
        return [block for block in self._cpuinfo if "processor" in block]

    @cached_property
    def _processors(self) -> list[dict[str, str]]:
        """The entries of /proc/cpuinfo that this process may run on."""
        usable = [
            cpu
            for cpu in self._all
            if cpu["processor"].isdigit() and int(cpu["processor"]) in self._allowed
        ]
        return usable or self._all

    @cached_property
    def _global(self) -> dict[str, str]:
        merged: dict[str, str] = {}
        for block in self._cpuinfo:
            if "processor" not in block:
                merged |= block
        return merged

    @cached_property
    def _cpuinfo(self) -> list[dict[str, str]]:
        blocks = []
        for block in re.split(r"\n\s*\n", self._text("proc/cpuinfo")):
            pairs = (line.partition(":") for line in block.splitlines() if ":" in line)
            blocks.append({key.strip(): value.strip() for key, _, value in pairs})
        return blocks

    def _text(self, path: str | Path) -> str:
        try:
            text = (self._root / path).read_text(encoding="utf-8", errors="replace")
        except (OSError, ValueError):
            return ""
        return text.strip().strip("\0")


def _entries(folder: Path, pattern: str) -> Iterator[Path]:
    try:
        yield from (entry for entry in folder.iterdir() if re.fullmatch(pattern, entry.name))
    except OSError:
        return


def _parse_list(text: str) -> frozenset[int]:
    """A list of processors as the kernel writes it: "0-3,8"."""
    found: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)


def _parse_size(text: str) -> int:
    """Bytes of a size as the kernel writes it: "48K"; 0 if it is none."""
    matched = re.fullmatch(r"(\d+)([KMG]?)", text)
    if not matched:
        return 0
    return int(matched[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[matched[2]]
