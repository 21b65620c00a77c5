"""Freed memory goes back to the system."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from compress.execute import memory


@pytest.fixture
def trims(monkeypatch):
    """Counts the calls of the C library's function; what the process holds is made up."""
    calls = []
    monkeypatch.setattr(memory, "_trim", lambda: calls.append)
    monkeypatch.setattr(memory, "_after_last", 0)
    return calls


def test_growth_decides(trims, monkeypatch):
    resident = 500 * 2**20
    monkeypatch.setattr(memory, "_resident", lambda: resident)
    memory.give_back_growth()
    assert len(trims) == 1
    memory.give_back_growth()
    assert len(trims) == 1
    resident += memory.GROWTH_BYTES + 1
    memory.give_back_growth()
    assert len(trims) == 2


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory._trim.__wrapped__() is None
    monkeypatch.setattr(memory, "_trim", lambda: None)
    memory.give_back()
    memory.give_back_growth()


@pytest.mark.skipif(memory._trim() is None, reason="the C library has no malloc_trim")
def test_what_was_freed_is_no_longer_held():
    # small enough not to be mapped apart, with a few left between those that go
    blocks = [np.ones(12_000, np.float32) for _ in range(3000)]
    held = memory._resident()
    blocks = blocks[::100]
    memory.give_back()
    assert memory._resident() < held - 80 * 2**20
    assert all((block == 1).all() for block in blocks)


def test_memory_can_be_kept_for_a_while():
    blocks = 64
    with memory.keeping_freed():
        for _ in range(3):
            arrays = [np.ones(2**17) for _ in range(blocks)]
            del arrays
        kept = memory._resident()
    assert memory._resident() <= kept
