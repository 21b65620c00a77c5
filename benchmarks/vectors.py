"""Test vectors of the exact solvers: finding files, what is wrong with them, rows of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click


class NoVectorsError(click.ClickException):
    """There is nothing at the path that could be solved."""

    exit_code = 2


class VectorError(click.ClickException):
    """A file is not what its format says."""

    exit_code = 3

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path}: {what}")


def vector_files(path: Path, suffix: str) -> list[Path]:
    """The file itself, or all files of a folder that end in `suffix`, by name.

    Raises:
        NoVectorsError: neither exists, or the folder has none.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise NoVectorsError(f"{path}: there is no such file or folder")
    found = sorted(entry for entry in path.iterdir() if entry.suffix == suffix and entry.is_file())
    if not found:
        raise NoVectorsError(f"{path}: no {suffix} files in this folder")
    return found


def print_rows(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table in columns: the first to the left, as the last, the others to the right."""
    table = [titles, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(titles))]
    for row in table:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[0], cells[-1] = row[0].ljust(widths[0]), row[-1]
        click.echo("  ".join(cells))


def verdict(rows: int, failures: int, files: int) -> int:
    """Prints how many results are right; the exit code."""
    outcome = f"{failures} NOT ok" if failures else "all ok"
    click.echo(f"{files} file{'s' * (files != 1)}, {rows} result{'s' * (rows != 1)}: {outcome}")
    return int(failures > 0)
