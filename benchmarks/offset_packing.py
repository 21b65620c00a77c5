"""Packs buffers with known lifetimes into a capacity, and checks every packing from the file.

    python -m benchmarks.offset_packing FOLDER

A file NAME.CAPACITY.csv has the columns id, lower, upper and size: each buffer is in use at the
times lower <= t < upper and needs `size` bytes. A result is ok if no two buffers that are in use at
the same time overlap and none ends above CAPACITY bytes. The bound is proven: no packing has a
lower peak. Beside it, as shares of the capacity, the peaks of placing the largest first and of a
hill climb over orders as in Arm's Vela. Exit codes: 0, 1 something is not ok, 2 no files, 3 a file
is wrong.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.vectors import VectorError, print_rows, vector_files, verdict
from compress.passes.schedule.offsets import (
    CLIMB_STEPS,
    Block,
    Packing,
    Part,
    greedy,
    hill_climb,
    overlaps,
    pack,
    smallest,
)

TITLES = (
    "file",
    "buffers",
    "capacity",
    "peak",
    "bound",
    "peak/capacity",
    "seconds",
    "largest first",
    "hill climb",
    "method",
    "result",
)

COLUMNS = ("id", "lower", "upper", "size")

UNSUPPORTED = {"alignment": ("", "0", "1"), "gaps": ("",), "hint": ("", "-1")}
"""Columns that MiniMalloc knows besides, and the values that ask for nothing."""

MINIMALLOC = ("A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K")
MINIMALLOC_SECONDS = 87.5
"""MiniMalloc (C++) on its eleven "challenging" instances together; not measured here."""


@dataclass(frozen=True)
class Instance:
    """One file; `capacity` in bytes."""

    path: Path
    name: str
    capacity: int
    blocks: tuple[Block, ...]


def read_instance(path: Path) -> Instance:
    """
    Raises:
        VectorError: the file is not such an instance.
    """
    named = re.fullmatch(r"(.+)\.(\d+)\.csv", path.name)
    if named is None:
        raise VectorError(path, "is not called NAME.CAPACITY.csv")
    capacity = int(named[2])
    if capacity < 1:
        raise VectorError(path, "has a capacity of 0 bytes in its name")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            blocks = _read_blocks(csv.DictReader(file, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise VectorError(path, f"cannot be read as CSV: {error}") from error
    except ValueError as error:
        raise VectorError(path, str(error)) from error
    return Instance(path, named[1], capacity, blocks)


def _read_blocks(rows: csv.DictReader[str]) -> tuple[Block, ...]:
    missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
    if missing:
        raise ValueError(f"has no column {', '.join(missing)}")
    blocks, names = [], set()
    for row in rows:
        where = f"line {rows.line_num}"
        if None in row or None in row.values():
            raise ValueError(f"{where} does not have {len(rows.fieldnames or ())} columns")
        for name, plain in UNSUPPORTED.items():
            if row.get(name, "") not in plain:
                raise ValueError(f"{where} has {name} {row[name]!r}, which is not supported")
        if row["id"] in names:
            raise ValueError(f"{where} has the id {row['id']!r} again")
        names.add(row["id"])
        try:
            lower, upper, size = (int(row[name]) for name in COLUMNS[1:])
            blocks.append(Block((Part(lower, upper, size),)))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    if not blocks:
        raise ValueError("has no buffers")
    return tuple(blocks)


def judge(instance: Instance, packing: Packing) -> tuple[bool, str]:
    """Whether a packing is right, and what to say about it."""
    if packing.offsets is None:
        reason = "proven infeasible" if packing.status == "infeasible" else "out of time"
        return False, f"NOT packed: {reason}"
    problems = overlaps(instance.blocks, packing.offsets, instance.capacity)
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        return False, f"NOT ok: {problems[0]}{more}"
    ends = [
        base + block.height for block, base in zip(instance.blocks, packing.offsets, strict=True)
    ]
    if max(ends) != packing.peak:
        return False, f"NOT ok: the peak is {max(ends)}"
    if packing.bound > packing.peak:
        return False, "NOT ok: the bound is above the peak"
    return True, "ok, no packing is lower" if packing.peak == packing.bound else "ok"


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--seconds", default=60.0, show_default=True, help="Limit for each instance.")
@click.option("--threads", default=1, show_default=True, help="Of the solver, where it is needed.")
@click.option("--seed", default=0, show_default=True)
@click.option("--least", is_flag=True, help="Look for the lowest peak, not for any that fits.")
@click.option(
    "--climb",
    default=5.0,
    show_default=True,
    help=f"Seconds for each hill climb, which ends after {CLIMB_STEPS} steps.",
)
@click.pass_context
def main(
    ctx: click.Context,
    path: Path,
    seconds: float,
    threads: int,
    seed: int,
    least: bool,
    climb: float,
) -> None:
    """Pack every instance at PATH, a folder or one file."""
    instances = [read_instance(file) for file in vector_files(path, ".csv")]
    rows: list[Sequence[str]] = []
    failures = 0
    total = 0.0
    for instance in instances:
        if least:
            packing = smallest(instance.blocks, seconds=seconds, threads=threads, seed=seed)
        else:
            packing = pack(
                instance.blocks, instance.capacity, seconds=seconds, threads=threads, seed=seed
            )
        ok, text = judge(instance, packing)
        failures += not ok
        total += packing.seconds
        rows.append(_row(instance, packing, climb, text))
    print_rows(TITLES, rows)
    click.echo(f"{total:.1f} s to pack all")
    if sorted(instance.name for instance in instances) == list(MINIMALLOC):
        click.echo(f"{MINIMALLOC_SECONDS} s: MiniMalloc (C++) on these, not measured here")
    ctx.exit(verdict(len(rows), failures, len(instances)))


def _row(instance: Instance, packing: Packing, climb: float, text: str) -> Sequence[str]:
    found = packing.offsets is not None
    others = [greedy(instance.blocks)]
    others.append(hill_climb(instance.blocks, seconds=climb) if climb > 0 else others[0])
    return (
        instance.path.name,
        str(len(instance.blocks)),
        str(instance.capacity),
        str(packing.peak) if found else "",
        str(packing.bound),
        f"{packing.peak / instance.capacity:.4f}" if found else "",
        f"{packing.seconds:.2f}",
        *(f"{other.peak / instance.capacity:.3f}" for other in others),
        packing.method,
        text,
    )


if __name__ == "__main__":
    main()
