"""Device profiles: the shipped ones hold, and a wrong one is refused with the key that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from compress.errors import UsageError
from compress.hardware.device import Device, list_devices, load_device, read_profile

GOOD = """
name = "board"
aliases = ["b"]
kind = "cpu"
runtime = "onnxruntime"
threads = 4
isa = ["neon"]
clock_hz = 1e9

[caches_bytes]
l2 = 1024

[peak_ops_per_cycle]
float32 = 8
int8 = 32

[sources]
threads = "datasheet"
isa = "datasheet"
clock_hz = "datasheet"
"caches_bytes.l2" = "datasheet"
peak_ops_per_cycle = "datasheet"
"""


def profile(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "board.toml"
    file.write_text(text)
    return file


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_device(str(profile(tmp_path, text)))
    message = str(caught.value)
    assert "\n" not in message
    assert "board.toml" in message
    return message


def test_the_shipped_profiles_load_by_every_name() -> None:
    devices = list_devices()
    names = [device.name for device in devices]
    assert names[0] == "host"
    assert {"raspberry-pi-4", "raspberry-pi-5", "jetson-orin-nano"} < set(names)
    assert {"x86-avx2", "x86-avx512-vnni"} < set(names)
    all_names = [name for device in devices for name in (device.name, *device.aliases)]
    assert len(set(all_names)) == len(all_names)
    for device in devices:
        for name in (device.name, *device.aliases, device.name.upper()):
            assert load_device(name) == device
        assert device.measurable == (device.name == "host")


def test_the_host_is_filled_in() -> None:
    host = load_device("host")
    assert host.threads is not None
    assert host.runtime_version
    assert host.sources["threads"] == "detected on this machine"
    assert host.fingerprint == load_device("host").fingerprint


def test_a_profile_of_ones_own(tmp_path: Path) -> None:
    device = load_device(profile(tmp_path, GOOD))
    assert device.isa == ("neon",)
    assert device.caches_bytes.l2 == 1024
    assert device.figures()["peak_ops_per_cycle.int8"] == 32


def test_peak_is_of_the_whole_device(tmp_path: Path) -> None:
    device = load_device(profile(tmp_path, GOOD))
    assert device.peak("int8") == 32 * 1e9 * 4
    assert device.peak("float16") is None
    assert device.peak("complex64") is None
    total = GOOD.replace("[peak_ops_per_cycle]", "[peak_ops_per_s]\nint8 = 7e9\n[old]")
    total = total.replace("[old]\nfloat32 = 8\nint8 = 32", "")
    total = total.replace('peak_ops_per_cycle = "', 'peak_ops_per_s = "')
    assert load_device(profile(tmp_path, total)).peak("int8") == 7e9
    assert load_device("x86-avx2").peak("float32") is None


def test_what_decides_latencies_decides_the_fingerprint(tmp_path: Path) -> None:
    first = load_device(profile(tmp_path, GOOD)).fingerprint
    assert (
        load_device(profile(tmp_path, GOOD.replace("l2 = 1024", "l2 = 2048"))).fingerprint != first
    )
    renamed = GOOD.replace('name = "board"', 'name = "other"\nnotes = "n"')
    assert load_device(profile(tmp_path, renamed)).fingerprint == first


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("threads = 4", 'threads = "four"', "threads: "),
        ("threads = 4", "threads = 0", "threads: "),
        ("threads = 4", "threads = true", "threads: "),
        ("threads = 4", "thread = 4", "thread: "),
        ("clock_hz = 1e9", "clock_hz = nan", "clock_hz: "),
        ("clock_hz = 1e9", "clock_hz = -1.0", "clock_hz: "),
        ("l2 = 1024", "l2 = 1024.5", "caches_bytes.l2: "),
        ("l2 = 1024", "l9 = 1024", "caches_bytes.l9: "),
        ('kind = "cpu"', 'kind = "tpu"', "kind: "),
        ('kind = "cpu"', "", "kind: "),
        ('name = "board"', 'name = "a/b"', "name: "),
        ('isa = ["neon"]', "isa = [1]", "isa.0: "),
        ('threads = "datasheet"', "", "threads has no source"),
        ('threads = "datasheet"', 'threads = " "', "threads has no source"),
        ('"caches_bytes.l2" = "datasheet"', "", "caches_bytes.l2 has no source"),
        ('isa = "datasheet"', 'isa = "x"\nmemory_bytes = "y"', "sources.memory_bytes"),
        ("[sources]", "[sources", "not valid TOML"),
    ],
)
def test_a_wrong_profile_is_refused_with_its_key(
    tmp_path: Path, old: str, new: str, part: str
) -> None:
    assert old in GOOD
    assert part in refused(tmp_path, GOOD.replace(old, new, 1))


def test_unreadable_profiles(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load_device(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_profile(tmp_path / "binary.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        load_device(tmp_path)


def test_unknown_names_list_the_known_and_the_near() -> None:
    with pytest.raises(UsageError, match="did you mean raspberry-pi-5") as caught:
        load_device("raspbery-pi-5")
    assert "known are ethos-u55-256, gap8, host, jetson-orin-nano" in str(caught.value)
    with pytest.raises(UsageError, match="known are"):
        load_device("qqqq")
    with pytest.raises(UsageError, match="known are"):
        load_device("")


def test_devices_cannot_be_changed() -> None:
    device = load_device("raspberry-pi-5")
    with pytest.raises(ValidationError):
        device.threads = 8  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Device.model_validate({"name": "x", "kind": "cpu"})
