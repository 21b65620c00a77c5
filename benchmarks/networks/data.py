"""Fashion-MNIST as the networks' benchmarks read it: .npz files in the zoo's folder.

The images come from the Debian package `dataset-fashion-mnist` (MIT licence). This module needs
numpy only.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.zoo import fetch

PACKAGE = fetch.Deb("dataset-fashion-mnist", "0.0~git20200523.55506a9-1")
CALIBRATION_IMAGES = 512


@dataclass(frozen=True)
class DataFiles:
    """The files that all networks share. `image` is (n, 1, 28, 28) float32 in [0, 1].

    Attributes:
        calibration: 512 training images, `image` only.
        train_images: all 60 000 training images, `image` only: to distil from, without labels.
        test: the 10 000 test images, `image` and `labels` (n,) int64.
    """

    calibration: Path
    train_images: Path
    test: Path


def data_files() -> DataFiles:
    """The files, written on first use. Raises `FetchError` where the package cannot be had."""
    home = fetch.zoo_folder() / "networks" / "data"
    files = DataFiles(home / "calib.npz", home / "train_images.npz", home / "test.npz")
    if not all(path.is_file() for path in (files.calibration, files.train_images, files.test)):
        home.mkdir(parents=True, exist_ok=True)
        images, _ = split("train")
        chosen = np.random.default_rng(0).choice(len(images), CALIBRATION_IMAGES, replace=False)
        _write_whole(files.calibration, {"image": unit(images[np.sort(chosen)])})
        _write_whole(files.train_images, {"image": unit(images)})
        test_images, test_labels = split("t10k")
        _write_whole(
            files.test, {"image": unit(test_images), "labels": test_labels.astype(np.int64)}
        )
    return files


def split(name: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Images (n, 1, 28, 28) and labels (n,) of `train` (60 000) or `t10k` (10 000), as uint8.

    Raises `FetchError` where the package cannot be obtained.
    """
    folder = fetch.deb(PACKAGE) / "usr" / "share" / "datasets" / "fashion-mnist"
    images = read_idx(folder / f"{name}-images-idx3-ubyte.gz")
    return images[:, None], read_idx(folder / f"{name}-labels-idx1-ubyte.gz")


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """The array in a gzip-compressed IDX file of unsigned bytes.

    The format: two zero bytes, 8 for uint8, the rank, every dimension as a big-endian int32, the
    elements in C order. Raises `ValueError` for any other content.
    """
    raw = gzip.decompress(path.read_bytes())
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an IDX file of unsigned bytes")
    rank = raw[3]
    shape = np.frombuffer(raw, ">i4", count=rank, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def unit(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Pixels divided by 255, and nothing else."""
    return images.astype(np.float32) / np.float32(255)


def _write_whole(path: Path, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
    partial = path.with_name(f"{path.stem}-{os.getpid()}.partial.npz")
    # Uncompressed: it is read far more often than it is written.
    np.savez(partial, **arrays)  # type: ignore[arg-type]
    os.replace(partial, path)
