"""`--eval` file of the benchmark model basic_pitch; see `benchmarks/zoo/basic_pitch.py`."""

import sys
from pathlib import Path

# The command line loads this file by its path, from any working directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from benchmarks.zoo.basic_pitch import evaluate

__all__ = ["evaluate"]
