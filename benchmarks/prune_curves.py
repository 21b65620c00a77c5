"""Chooses a sparsity per layer from curves of distortion, and checks every choice from the file.

    python -m benchmarks.prune_curves FOLDER

A file is .npz: `sizes` (L,) weights per layer; `phi` (L, S) sparsities; `dist` (L, S) distortions;
`budget`, most weights that are kept, where a layer keeps size - floor(phi * size + 1e-6);
`optimum_distortion`, NaN or absent if not known. A result is ok if it is within the budget and at
most 0.1 % above the optimum, or, where that is not known, above our own proven lower bound; if the
bound is further away, this is said. Exit codes: 0, 1 something is not ok, 2 no files, 3 a file is
wrong.
"""

from __future__ import annotations

import math
import time
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from benchmarks.vectors import VectorError, print_rows, vector_files, verdict
from compress.passes.knapsack import KnapsackChoice, solve_knapsack

GAP = 1e-3
"""Distortions this share above the optimum are still ok."""

TITLES = ("file", "budget", "kept", "distortion", "optimum", "lower bound", "seconds", "result")


@dataclass(frozen=True)
class Curves:
    """One file: sizes (L,) int64, sparsities and distortions (L, S) float64."""

    path: Path
    sizes: npt.NDArray[np.int64]
    sparsities: npt.NDArray[np.float64]
    distortions: npt.NDArray[np.float64]
    budget: int
    optimum: float | None

    def kept(self) -> npt.NDArray[np.int64]:
        """(L, S): weights that each layer keeps at each sparsity."""
        sizes = self.sizes[:, None]
        return sizes - np.floor(self.sparsities * sizes + 1e-6).astype(np.int64)


def read_curves(path: Path) -> Curves:
    """
    Raises:
        VectorError: the file has not what curves need.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is not an .npz file")
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        optimum = (
            float(arrays["optimum_distortion"]) if "optimum_distortion" in arrays else math.nan
        )
        curves = Curves(
            path,
            _whole(arrays["sizes"], "sizes"),
            arrays["phi"].astype(np.float64),
            arrays["dist"].astype(np.float64),
            math.floor(arrays["budget"].item()),
            None if math.isnan(optimum) else optimum,
        )
    except KeyError as error:
        raise VectorError(path, f"{error} is missing") from error
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise VectorError(path, f"is not a file of curves: {error}") from error
    shape = curves.distortions.shape
    if len(shape) != 2 or curves.sparsities.shape != shape or curves.sizes.shape != shape[:1]:
        raise VectorError(path, "sizes, phi and dist are not (L,), (L, S) and (L, S)")
    if not shape[1]:
        raise VectorError(path, "there is no sparsity to choose")
    if not np.isfinite(curves.distortions).all():
        raise VectorError(path, "distortions have to be finite")
    if not ((curves.sparsities >= 0) & (curves.sparsities <= 1)).all() or (curves.sizes < 0).any():
        raise VectorError(path, "sparsities have to be from 0 to 1, sizes not negative")
    return curves


def _whole(values: npt.NDArray[np.generic], name: str) -> npt.NDArray[np.int64]:
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int64)
    if (whole != values).any():
        raise ValueError(f"{name} are not whole numbers")
    return whole


def figures(curves: Curves, choices: Sequence[int]) -> tuple[int, float]:
    """(weights kept, distortion) of one sparsity per layer, straight from the file's arrays."""
    kept, distortion = 0, 0.0
    for layer, choice in enumerate(choices):
        size = int(curves.sizes[layer])
        kept += size - math.floor(float(curves.sparsities[layer, choice]) * size + 1e-6)
        distortion += float(curves.distortions[layer, choice])
    return kept, distortion


def judge(curves: Curves, found: KnapsackChoice) -> tuple[bool, str]:
    """Whether a choice is right, and what to say about it."""
    if found.status == "infeasible":
        least = int(curves.kept().min(axis=1).sum())
        if curves.optimum is None and least > curves.budget:
            return True, f"ok, infeasible: at least {least} weights stay"
        return False, "NOT ok: nothing found"
    if len(found.choices) != len(curves.sizes):
        return False, f"NOT ok: {len(found.choices)} choices for {len(curves.sizes)} layers"
    kept, distortion = figures(curves, found.choices)
    if kept > curves.budget:
        return False, f"NOT ok: {kept - curves.budget} weights over the budget"
    if curves.optimum is not None:
        if distortion - curves.optimum > GAP * abs(curves.optimum):
            return False, f"NOT ok: {distortion / curves.optimum - 1:.3%} above the optimum"
        if found.lower_bound - curves.optimum > GAP * abs(curves.optimum):
            return False, "NOT ok: the lower bound is above the optimum"
        return True, "ok"
    if distortion - found.lower_bound > GAP * abs(found.lower_bound):
        return True, f"ok, but unproven: the lower bound is {found.lower_bound:.6g}"
    return True, "ok, proven here" if found.status == "optimal" else "ok, within 0.1 % of the bound"


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.pass_context
def main(ctx: click.Context, path: Path) -> None:
    """Solve every file of curves at PATH, a folder or one file. Seconds are CPU seconds."""
    files = [read_curves(file) for file in vector_files(path, ".npz")]
    rows: list[Sequence[str]] = []
    failures = 0
    for curves in files:
        started = time.thread_time()
        found = solve_knapsack(list(curves.kept()), list(curves.distortions), curves.budget)
        seconds = time.thread_time() - started
        ok, text = judge(curves, found)
        failures += not ok
        kept, distortion = figures(curves, found.choices)
        there = found.status != "infeasible"
        rows.append(
            (
                curves.path.name,
                str(curves.budget),
                str(kept) if there else "",
                f"{distortion:.9f}" if there else "",
                "" if curves.optimum is None else f"{curves.optimum:.9f}",
                f"{found.lower_bound:.9f}" if there else "",
                f"{seconds:.3f}",
                text,
            )
        )
    print_rows(TITLES, rows)
    ctx.exit(verdict(len(rows), failures, len(files)))


if __name__ == "__main__":
    main()
