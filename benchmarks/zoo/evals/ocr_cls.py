"""`--eval` file of the benchmark model ocr_cls; see `benchmarks/zoo/ocr_cls.py`."""

import sys
from pathlib import Path

# The command line loads this file by its path, from any working directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from benchmarks.zoo.ocr_cls import evaluate

__all__ = ["evaluate"]
