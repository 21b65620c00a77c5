"""What end-to-end tests share: evidence of their own, and machines whose clock is known."""

from __future__ import annotations

from pathlib import Path

import pytest
from known_machine import KnownMachine


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty evidence store, for this test alone."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("COMPRESS_CACHE", str(folder))
    return folder


@pytest.fixture
def machine(cache: Path, monkeypatch: pytest.MonkeyPatch) -> KnownMachine:
    """A machine on which integer kernels are four times as fast, and every run takes the same."""
    known = KnownMachine()
    known.install(monkeypatch)
    return known
