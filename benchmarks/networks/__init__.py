"""Networks for depth merging and pruning: layouts from papers, and three that are trained here.

`network("mobilenet_fmnist")` gives the files of a trained network; it trains on first use, which
needs torch and onnxscript, and keeps the result in the zoo's folder. `python -m benchmarks.networks
NAME` does the same and prints accuracy, size and latency.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.networks.data import DataFiles, data_files
from benchmarks.zoo import fetch

# Minutes of training on two idle CPU cores.
MINUTES = {"mobilenet_fmnist": 30, "vgg_fmnist": 10, "resnet_fmnist": 10}
NAMES = tuple(MINUTES)
# Counts changes of architectures and recipes: another number trains anew.
VERSION = 1
# Activations are freed and allocated in every step. The allocator's default is to give them back to
# the system, whose clearing of new pages takes a third of the training time. And threads that wait
# by spinning take time from other programs.
TRAINING_ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "-1",
    "MALLOC_TOP_PAD_": str(2**28),
    "OMP_WAIT_POLICY": "passive",
}


class TrainingError(RuntimeError):
    """The training process died; what it printed says why."""


@dataclass(frozen=True)
class Network:
    """A trained network: `image` (n, 1, 28, 28) in [0, 1] -> `logits` (n, 10), both float32.

    Attributes:
        name: one of `NAMES`.
        model: the ONNX file, batch norms folded, the batch dimension dynamic.
        record: a JSON object: `epochs`, `seconds` (of training), `parameters`, `macs`.
        weights: the torch state of `architectures.FMNIST_NETWORKS[name]()`, batch norms unfolded.
        data: images to calibrate, distil and test on.
    """

    name: str
    model: Path
    record: Path
    weights: Path
    data: DataFiles


def network(name: str) -> Network:
    """The trained network called `name`; trains it on first use.

    Raises `KeyError` for an unknown name, `FetchError` where the images cannot be obtained and
    `TrainingError` where the training fails. Training that was interrupted goes on where it was.
    """
    if name not in NAMES:
        raise KeyError(f"no network is called {name!r}; there are {', '.join(NAMES)}")
    home = fetch.zoo_folder() / "networks" / f"{name}-{VERSION}"
    found = Network(
        name, home / "model.onnx", home / "record.json", home / "weights.pt", data_files()
    )
    if not all(path.is_file() for path in (found.model, found.record, found.weights)):
        print(
            f"training {name}: about {MINUTES[name]} minutes on two cores, once; into {home}",
            file=sys.stderr,
            flush=True,
        )
        home.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.networks.training", name, str(home)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, **TRAINING_ENVIRONMENT},
        )
        if done.returncode != 0:
            raise TrainingError(f"the training of {name} failed with status {done.returncode}")
    return found
