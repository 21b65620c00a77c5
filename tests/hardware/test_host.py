"""Detection on machines of all kinds, from copies of what their kernels say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from compress.hardware import host
from compress.hardware.device import Device
from compress.hardware.host import HostInfo, describe, detect, from_sysctl
from compress.hardware.linux import Cache, LinuxMachine

STUB = Device(name="host", kind="cpu", runtime="onnxruntime", measurable=True)

XEON = """processor	: {n}
vendor_id	: GenuineIntel
cpu family	: 6
model		: 143
model name	: Intel(R) Xeon(R)  Platinum 8480+
stepping	: 8
physical id	: 0
core id		: {core}
flags		: fpu sse4_1 avx avx2 fma avx512f avx512_vnni avx_vnni amx_tile amx_int8 hypervisor
bogomips	: 4000.00

"""

A76 = """processor	: {n}
BogoMIPS	: 108.00
Features	: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x4
CPU part	: {part}
CPU revision	: 1

"""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def cache(cpu: int, index: int, level: int, kind: str, size: str, shared: str) -> dict[str, str]:
    folder = f"sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
    return {
        f"{folder}/level": str(level),
        f"{folder}/type": kind,
        f"{folder}/size": size,
        f"{folder}/shared_cpu_list": shared,
    }


@pytest.fixture
def xeon(tmp_path: Path) -> Path:
    """Two cores with two threads each, on which this process may use all four."""
    topology = {
        f"sys/devices/system/cpu/cpu{n}/topology/core_cpus_list": f"{n % 2},{n % 2 + 2}"
        for n in range(4)
    }
    return write(
        tmp_path,
        {
            "proc/cpuinfo": "".join(XEON.format(n=n, core=n % 2) for n in range(4)),
            "proc/meminfo": "MemTotal:       16000000 kB\nMemFree: 1 kB",
            "proc/self/status": "Name:\tpython\nCpus_allowed:\tf\nCpus_allowed_list:\t0-3",
            "proc/self/cgroup": "0::/",
            "sys/devices/system/cpu/online": "0-3",
            **topology,
            **cache(0, 0, 1, "Data", "48K", "0,2"),
            **cache(0, 1, 1, "Instruction", "32K", "0,2"),
            **cache(0, 2, 2, "Unified", "2048K", "0,2"),
            **cache(0, 3, 3, "Unified", "105M", "0-3"),
        },
    )


def linux(root: Path, machine: str = "x86_64") -> LinuxMachine:
    return LinuxMachine(root, machine)


def test_a_server(xeon: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_machine", lambda: "x86_64")
    info = detect(xeon, system="linux")
    assert info.cpu == "Intel(R) Xeon(R) Platinum 8480+"
    assert info.cpu_id == "6/143/8"
    assert info.vendor == "GenuineIntel"
    assert info.architecture == "x86_64"
    assert {"avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"} < set(info.isa)
    assert "hypervisor" not in info.isa
    assert info.caches == (
        Cache(1, "data", 48 << 10, 2),
        Cache(1, "instruction", 32 << 10, 2),
        Cache(2, "unified", 2 << 20, 2),
        Cache(3, "unified", 105 << 20, 4),
    )
    assert info.cache_bytes(1, "instruction") == 32 << 10
    assert info.cache_bytes(2) == 2 << 20
    assert info.cache_bytes(4) is None
    assert (info.physical_cores, info.threads) == (2, 4)
    assert info.memory_bytes == 16_000_000 * 1024
    assert info.onnxruntime


def test_affinity_counts(xeon: Path) -> None:
    write(xeon, {"proc/self/status": "Cpus_allowed_list:\t1,3"})
    assert (linux(xeon).physical_cores(), linux(xeon).threads()) == (1, 2)
    write(xeon, {"proc/self/status": "Cpus_allowed_list:\t0-1"})
    assert (linux(xeon).physical_cores(), linux(xeon).threads()) == (2, 2)
    write(xeon, {"proc/self/status": "Cpus_allowed_list:\t0-255"})
    assert linux(xeon).threads() == 4


@pytest.mark.parametrize(
    ("files", "threads"),
    [
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, 4),
        ({"sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
        ({"sys/fs/cgroup/cpu.max": "150000 100000"}, 1),
        ({"sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        ({"sys/fs/cgroup/cpu.max": "900000 100000"}, 4),
        ({"sys/fs/cgroup/cpu.max": "nonsense"}, 4),
        ({"sys/fs/cgroup/cpu.max": "100000 0"}, 4),
        (
            {
                "proc/self/cgroup": "0::/pod/box",
                "sys/fs/cgroup/pod/box/cpu.max": "max 100000",
                "sys/fs/cgroup/pod/cpu.max": "300000 100000",
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/1",
                "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/1",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            4,
        ),
    ],
)
def test_container_quotas_count(xeon: Path, files: dict[str, str], threads: int) -> None:
    assert linux(write(xeon, files)).threads() == threads


def test_container_memory_counts(xeon: Path) -> None:
    write(xeon, {"sys/fs/cgroup/memory.max": "max"})
    assert linux(xeon).memory_bytes() == 16_000_000 * 1024
    write(xeon, {"sys/fs/cgroup/memory.max": str(1 << 30)})
    assert linux(xeon).memory_bytes() == 1 << 30
    write(
        xeon,
        {
            "proc/self/cgroup": "9:memory:/",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        },
    )
    assert linux(xeon).memory_bytes() == 16_000_000 * 1024


def test_a_raspberry_pi(tmp_path: Path) -> None:
    board = "Revision\t: d04170\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n"
    cores = "".join(A76.format(n=n, part="0xd0b") for n in range(4))
    machine = linux(write(tmp_path, {"proc/cpuinfo": cores + board}), "aarch64")
    assert machine.cpu_name() == "4 x Cortex-A76"
    assert machine.vendor() == "Arm"
    assert machine.isa() == ("asimddp", "asimdhp", "fphp", "neon")
    assert machine.caches() == ()
    assert (machine.physical_cores(), machine.threads()) == (4, 4)
    assert machine.memory_bytes() == 0


def test_two_kinds_of_cores_share_what_both_can_do(tmp_path: Path) -> None:
    little = A76.replace("asimddp", "").format(n=0, part="0xd05")
    machine = linux(
        write(tmp_path, {"proc/cpuinfo": little + A76.format(n=1, part="0xd0b")}), "aarch64"
    )
    assert machine.cpu_name() == "1 x Cortex-A76 + 1 x Cortex-A55"
    assert "asimddp" not in machine.isa()
    assert "neon" in machine.isa()


def test_unknown_arm_parts_keep_their_numbers(tmp_path: Path) -> None:
    text = A76.format(n=0, part="0xfff").replace("0x41", "0x99")
    machine = linux(write(tmp_path, {"proc/cpuinfo": text}), "aarch64")
    assert machine.cpu_name() == "1 x 0x99 0xfff"
    assert machine.vendor() == "0x99"
    assert machine.cpu_id() == "0x99/0xfff/0x4/1"


def test_only_the_board_is_known(tmp_path: Path) -> None:
    write(tmp_path, {"proc/cpuinfo": "processor : 0", "proc/device-tree/model": "Some Board\0"})
    assert linux(tmp_path, "riscv64").cpu_name() == "Some Board"


def test_nothing_can_be_read(tmp_path: Path) -> None:
    info = detect(tmp_path, system="linux")
    assert info.isa == ()
    assert info.caches == ()
    assert (info.physical_cores, info.threads, info.memory_bytes) == (1, 1, 0)
    device = describe(STUB, info)
    assert device.threads == 1
    assert device.memory_bytes is None


@pytest.mark.parametrize("text", ["", "\xff\xfe", ":::\n::", "processor : x\n\nprocessor : \n"])
def test_odd_files_do_no_harm(xeon: Path, text: str) -> None:
    files = [path for path in xeon.rglob("*") if path.is_file()]
    for path in files:
        path.write_bytes(text.encode("latin-1"))
    info = detect(xeon, system="linux")
    assert info.threads >= 1
    assert describe(STUB, info).threads == 1


def test_a_mac() -> None:
    info = from_sysctl(
        {
            "machdep.cpu.brand_string": "Apple M1",
            "hw.perflevel0.physicalcpu": "4",
            "hw.physicalcpu": "8",
            "hw.logicalcpu": "8",
            "hw.memsize": "17179869184",
            "hw.perflevel0.l1dcachesize": "131072",
            "hw.perflevel0.l2cachesize": "12582912",
            "hw.optional.arm.FEAT_DotProd": "1",
            "hw.optional.arm.FEAT_I8MM": "0",
            "hw.optional.neon": "1",
        }
    )
    assert info.cpu == "Apple M1"
    assert info.isa == ("asimddp", "neon")
    assert (info.physical_cores, info.threads) == (4, 8)
    assert info.cache_bytes(1) == 131072
    assert info.memory_bytes == 1 << 34


@pytest.mark.parametrize("system", ["darwin", "win32", "freebsd14"])
def test_other_systems_fall_back(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    info = detect(system=system)
    assert info.threads >= 1
    assert describe(STUB, info).threads is not None


def test_the_fingerprint_is_of_what_changes_latencies(xeon: Path) -> None:
    info = detect(xeon, system="linux")
    assert info.fingerprint == detect(xeon, system="linux").fingerprint

    def changed(**fields: object) -> str:
        return dataclasses.replace(info, **fields).fingerprint  # type: ignore[arg-type]

    prints = {
        changed(cpu="other"),
        changed(cpu_id="6/143/9"),
        changed(isa=info.isa[1:]),
        changed(caches=info.caches[1:]),
        changed(onnxruntime="0.0"),
        info.fingerprint,
    }
    assert len(prints) == 6
    assert changed(memory_bytes=1, os="other") == info.fingerprint


def test_this_machine() -> None:
    info: HostInfo = detect()
    assert info.cpu
    assert info.physical_cores >= 1
    device = describe(STUB, info)
    assert device.runtime_version == info.onnxruntime
    assert set(device.figures()) <= set(device.sources)
