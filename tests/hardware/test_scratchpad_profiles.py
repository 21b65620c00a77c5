"""Shipped profiles of devices whose memory the program manages."""

from __future__ import annotations

import pytest

from compress.hardware.device import list_devices, load_device


@pytest.mark.parametrize("name", ["ethos-u55-256", "u55-256", "gap8"])
def test_devices_with_a_scratchpad(name: str) -> None:
    device = load_device(name)
    assert device.runtime == "scratchpad"
    assert not device.measurable
    assert device in list_devices()


def test_their_figures() -> None:
    npu = load_device("ethos-u55-256")
    assert npu.peak("int8") == 256e9
    assert npu.scratchpad_bytes is None, "it depends on the chip around it"
    assert npu.memory_bandwidth_bytes_per_s == 5e8
    gap8 = load_device("gap8")
    assert gap8.scratchpad_bytes == 512 * 1024
    assert gap8.peak("int8") == pytest.approx(8 * 8 * 175e6)
