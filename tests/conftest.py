"""What end-to-end tests share: evidence of their own, and machines whose clock is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known_machine import KnownMachine

_STATES: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def same_numbers(request: pytest.FixtureRequest) -> None:
    """Every test draws what it would draw if it ran alone, from its module's RNG."""
    generator = getattr(request.module, "RNG", None)
    if isinstance(generator, np.random.Generator):
        state = _STATES.setdefault(request.module.__name__, generator.bit_generator.state)
        generator.bit_generator.state = state


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
