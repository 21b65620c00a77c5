"""`--eval` file of the benchmark model minilm; see `benchmarks/zoo/minilm.py`."""

import sys
from pathlib import Path

# The command line loads this file by its path, from any working directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from benchmarks.zoo.minilm import evaluate

__all__ = ["evaluate"]
