"""The folder a run writes to: refused before the long work rather than after it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from compress.errors import UsageError


def check_output(folder: Path, inputs: Iterable[str | None], *, force: bool) -> None:
    """Make sure that the results can go to `folder`, which they will replace as a whole.

    Args:
        folder: new, empty, or the result of an earlier run.
        inputs: paths and FILE.py:function references that the run reads.
        force: replace whatever `folder` holds.

    Raises:
        UsageError: it cannot be written, or something else than a result would be lost.
    """
    place = folder.resolve()
    if place.exists():
        if not place.is_dir():
            raise UsageError(f"{folder} is a file: give -o a folder")
        _refuse_loss(folder, place, inputs, force)
    nearest = place.parent
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".compress-", dir=nearest):
            pass
    except OSError as error:
        raise UsageError(f"nothing can be written to {nearest}: {error.strerror}") from error


def _refuse_loss(folder: Path, place: Path, inputs: Iterable[str | None], force: bool) -> None:
    from compress.report.write_json import is_result

    if Path.cwd().is_relative_to(place):
        raise UsageError(f"{folder} holds the current directory: choose another folder for -o")
    for given in inputs:
        if given is not None and _file(given).resolve().is_relative_to(place):
            raise UsageError(
                f"{given} lies in {folder}, which will be replaced: choose another folder for -o"
            )
    try:
        empty = not any(place.iterdir())
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror}") from error
    if not (empty or force or is_result(place)):
        raise UsageError(
            f"{folder} is not empty and not the result of a run: choose another folder for -o, or "
            "replace all it holds with --force"
        )


def _file(given: str) -> Path:
    """The file that a path or a FILE.py:function reference speaks of."""
    path = Path(given)
    before, colon, _ = given.rpartition(":")
    return path if path.exists() or not colon else Path(before)
