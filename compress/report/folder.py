"""The folder of a finished run: it appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx_ir as ir

from compress.errors import UsageError
from compress.report.c_header import c_header
from compress.report.html import PAGE_FILE, render
from compress.report.memory_plan import MEMORY_PLAN_FILE, MemoryPlan
from compress.report.schema import Plan, Report
from compress.report.scratchpad_picture import picture
from compress.report.write_json import PLAN_FILE, REPORT_FILE, is_memory_plan, is_result, to_json

HEADER_FILE = "memory_plan.h"
PICTURE_FILE = "memory_plan.svg"

ATTEMPTS = 50
"""How often a folder is put in its place when other processes keep doing the same."""

TAKEN = frozenset({errno.ENOTEMPTY, errno.EEXIST})

LONGEST_PAUSE_S = 0.02
"""Between two attempts, drawn at random so that no process keeps losing."""


def save(
    folder: Path,
    model: ir.Model,
    report: Report,
    plan: Plan,
    memory: MemoryPlan | None = None,
    *,
    force: bool = False,
) -> Path:
    """Write model.onnx, report.json, report.html and plan.json; with `memory` its files as well.

    Everything is written beside `folder` first; what `folder` held is then replaced as a whole.

    Args:
        force: replace whatever `folder` holds, not only the result of an earlier run.

    Returns:
        `folder`.

    Raises:
        UsageError: it cannot be written, or something else than a result would be lost; what was
            there before is still there.
    """

    def texts() -> dict[str, str]:
        return {
            REPORT_FILE: to_json(report),
            PLAN_FILE: to_json(plan),
            PAGE_FILE: render(report, plan, memory),
            **({} if memory is None else memory_files(memory)),
        }

    return write_whole(folder, model, texts, force=force)


def save_plan(folder: Path, model: ir.Model, plan: MemoryPlan, *, force: bool = False) -> Path:
    """Write memory_plan.json, memory_plan.h, memory_plan.svg and model.onnx, in the same way.

    Args:
        model: with its nodes in the order of the plan.
        force: replace whatever `folder` holds, not only an earlier plan.

    Raises:
        UsageError: as `save` does.
    """
    force = force or is_memory_plan(folder)
    return write_whole(folder, model, lambda: memory_files(plan), force=force)


def memory_files(plan: MemoryPlan) -> dict[str, str]:
    """What is written of a memory plan, by file."""
    return {
        MEMORY_PLAN_FILE: to_json(plan),
        HEADER_FILE: c_header(plan),
        PICTURE_FILE: picture(plan),
    }


def write_whole(
    folder: Path,
    model: ir.Model,
    texts: Callable[[], Mapping[str, str]],
    *,
    force: bool = False,
) -> Path:
    """Write model.onnx and the texts, by file; `folder` holds all of them and nothing else then.

    Raises:
        UsageError: it cannot be written, or something foreign would be lost.
    """
    from compress.backends.onnxruntime import lower

    place = folder.resolve()  # what a symbolic link points at is replaced, not the link
    try:
        check_replaceable(folder, force=force)
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as temporary:
            made = Path(temporary) / "new"
            made.mkdir()
            lower(model, made)
            for name, content in texts().items():
                (made / name).write_text(content, encoding="utf-8", newline="\n")
            for file in made.iterdir():
                _flush(file)
            _put_in_place(made, place, Path(temporary))
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"the results cannot be written to {folder}: {reason}") from error
    return folder


def check_replaceable(folder: Path, *, force: bool = False) -> None:
    """Make sure that nothing is lost but the result of an earlier run.

    Raises:
        UsageError: `folder` is a file, or holds something else and `force` is not set.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file: give a folder for the results")
    for _ in range(3):
        # another run may be replacing its result just now: what is foreign stays foreign
        if force or is_result(folder) or _is_empty(folder):
            return
        _pause()
    raise UsageError(
        f"{folder} is not empty and not the result of a run: choose another folder, or replace "
        "all it holds with --force"
    )


def _is_empty(folder: Path) -> bool:
    """Whether the folder holds nothing, or is no longer there."""
    try:
        return not any(folder.iterdir())
    except FileNotFoundError:
        return True


def _pause() -> None:
    time.sleep(random.uniform(0.0, LONGEST_PAUSE_S))


def _put_in_place(made: Path, place: Path, aside: Path) -> None:
    """Rename `made` to `place`; what was there moves into the folder `aside`."""
    for attempt in range(ATTEMPTS):
        old = aside / f"old{attempt}"
        with contextlib.suppress(FileNotFoundError):
            place.rename(old)
        try:
            made.rename(place)
        except OSError as error:
            if error.errno in TAKEN and attempt < ATTEMPTS - 1:
                # another process was faster
                _pause()
                continue
            if old.exists() and not place.exists():
                old.rename(place)
            raise
        else:
            shutil.rmtree(old, ignore_errors=True)
            return


def _flush(path: Path) -> None:
    """Make sure that a file is on the disk before its name is."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
