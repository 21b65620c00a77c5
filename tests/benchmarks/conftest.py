from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The benchmarks are not installed with the package; they are imported from the repository.
ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


@pytest.fixture(autouse=True)
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty zoo: no test downloads anything or reads what a developer has."""
    folder = tmp_path / "zoo"
    monkeypatch.setenv("COMPRESS_ZOO", str(folder))
    return folder
