"""Measures how long `compress --help` takes, as a fresh process, against its limit.

python -m benchmarks.startup
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

LIMIT_SECONDS = 0.4


def seconds_of(command: Sequence[str], runs: int) -> list[float]:
    """Wall seconds of each run after one that fills the file caches."""
    times = []
    for run in range(runs + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        if run:
            times.append(time.perf_counter() - start)
    return times


def main() -> int:
    """Prints median and range; 1 if the median is over the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    runs = parser.parse_args().runs
    times = seconds_of([sys.executable, "-m", "compress", "--help"], runs)
    median = statistics.median(times)
    print(
        f"compress --help: {median:.3f} s (median of {runs}; {min(times):.3f}-{max(times):.3f}), "
        f"limit {LIMIT_SECONDS} s"
    )
    return int(median > LIMIT_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
