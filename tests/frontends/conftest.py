from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    """The file that a payload creates if it runs."""
    return tmp_path / "payload-ran"
