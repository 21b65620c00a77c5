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
    from compress.report.folder import check_replaceable

    place = folder.resolve()
    try:
        check_replaceable(folder, force=force)
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror}") from error
    if place.exists():
        _keep_inputs(folder, place, inputs)
    nearest = place.parent
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".compress-", dir=nearest):
            pass
    except OSError as error:
        raise UsageError(f"nothing can be written to {nearest}: {error.strerror}") from error


def _keep_inputs(folder: Path, place: Path, inputs: Iterable[str | None]) -> None:
    """Refuse a folder whose replacement would take away what the run reads, or stands in."""
    if Path.cwd().is_relative_to(place):
        raise UsageError(f"{folder} holds the current directory: choose another folder for -o")
    for given in inputs:
        if given is not None and _file(given).resolve().is_relative_to(place):
            raise UsageError(
                f"{given} lies in {folder}, which will be replaced: choose another folder for -o"
            )


def _file(given: str) -> Path:
    """The file that a path or a FILE.py:function reference speaks of."""
    path = Path(given)
    before, colon, _ = given.rpartition(":")
    return path if path.exists() or not colon else Path(before)
