"""What every peer program takes: the float model, calibration samples, where to write."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def parser(description: str | None) -> argparse.ArgumentParser:
    """An argument parser with the three positional arguments that all peers share."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("model", type=Path, help="the float ONNX model")
    result.add_argument("data", type=Path, help="folder with one .npz per calibration sample")
    result.add_argument("output", type=Path, help="the quantized ONNX model to write")
    return result


def samples(folder: Path) -> Iterator[dict[str, Any]]:
    """The calibration samples in the order of their file names."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as content:
            yield dict(content)
