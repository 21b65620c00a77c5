"""torch.export archives (.pt2) -> Model, without running anything that the file brings.

`torch.export.load` unpickles the sample inputs, pickled weights and constants and custom objects,
loads compiled libraries, and evaluates strings of the program. So it never sees the file itself,
but a copy made of vetted parts: the program after `clean_program`, weights and constants as raw
bytes, no sample inputs. Where a weight is pickled, torch's own weights-only reader takes it.
"""

from __future__ import annotations

import json
import math
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir as ir

from compress.errors import ModelError
from compress.frontends.archive import Archive, open_archive
from compress.frontends.exported_json import clean_payloads, clean_program
from compress.frontends.module import convert, quiet, require_torch
from compress.frontends.pickles import first_line, only_weights

_MODEL = "model"
"""The name under which torch.export.save stores a program, and load looks for it."""

_LEGACY_PROGRAM = "serialized_exported_program.json"
_LEGACY_PARTS = ("serialized_state_dict.pt", "serialized_constants.pt")
_TENSOR_CONSTANT = "tensor_"
"""Constants whose file is named otherwise are custom objects: unpickling them runs code."""

MAX_EXPANDED = 1 << 24
"""Elements that a weight may have beyond those stored for it (strides of 0 repeat them)."""


def load_pt2(path: Path, *, trust_pickle: bool = False) -> ir.Model:
    """The exported program at `path`; its dynamic dimensions stay dynamic.

    Raises:
        ModelError: damaged, made for another torch version, compiled code, or it holds something
            that would run when read (unless `trust_pickle`).
    """
    require_torch()
    with quiet():
        if trust_pickle:
            return convert(_read(path, path))
        with _clean_copy(path) as copy, only_weights():
            program = _read(copy, path)
        return convert(program)


def _read(file: Path, path: Path) -> Any:
    import torch

    try:
        return torch.export.load(file)
    except Exception as error:
        raise ModelError(
            f"torch cannot read the exported program {path}: {first_line(error)[:300]}"
        ) from None


@contextmanager
def _clean_copy(path: Path) -> Iterator[Path]:
    """A temporary archive with the vetted parts of the one at `path`."""
    with tempfile.TemporaryDirectory(prefix="compress-pt2-") as folder:
        copy = Path(folder) / "model.pt2"
        with open_archive(path) as archive, zipfile.ZipFile(copy, "w") as target:
            if _LEGACY_PROGRAM in archive:
                _copy_legacy(archive, target)
            else:
                _copy_program(archive, target)
        yield copy


def _copy_program(archive: Archive, target: zipfile.ZipFile) -> None:
    name = _program_name(archive)
    _write(target, "archive_format", b"pt2")
    for record in ("archive_version", ".data/version", "byteorder"):
        if record in archive:
            _write(target, record, archive.read(record))
    _write(target, f"models/{_MODEL}.json", clean_program(archive.read(f"models/{name}.json")))
    _write(target, f"data/sample_inputs/{_MODEL}.pt", b"")
    for kind in ("weights", "constants"):
        _copy_payloads(archive, target, kind, name)


def _program_name(archive: Archive) -> str:
    names = [n[7:-5] for n in archive.names if n.startswith("models/") and n.endswith(".json")]
    if not names:
        compiled = any(n.startswith("data/aotinductor/") for n in archive.names)
        what = "compiled code, not a program" if compiled else "no exported program"
        raise ModelError(f"{archive.path} holds {what}: save the torch.export program itself")
    if _MODEL not in names and len(names) > 1:
        raise ModelError(
            f"{archive.path} holds several programs ({', '.join(sorted(names))}): save one alone"
        )
    return _MODEL if _MODEL in names else names[0]


def _copy_payloads(archive: Archive, target: zipfile.ZipFile, kind: str, name: str) -> None:
    """Copy the weights or constants that the archive's index lists, and the index."""
    legacy = f"data/{kind}/{name}.pt"
    if legacy in archive:
        _copy_member(archive, target, legacy, f"data/{kind}/{_MODEL}.pt")
        return
    index = f"{name}_{kind}_config.json"
    payloads = clean_payloads(archive.read(f"data/{kind}/{index}"))
    files: set[str] = set()
    for entry in payloads.values():
        file = entry.get("path_name")
        if not isinstance(file, str):
            raise ModelError(f"{archive.path} does not say where it keeps its {kind}")
        if kind == "constants" and not file.startswith(_TENSOR_CONSTANT):
            raise ModelError(
                f"{archive.path} holds a custom object among its constants, and reading it runs "
                "code: export a model whose constants are tensors"
            )
        if not entry.get("use_pickle"):
            _check_size(archive, f"data/{kind}/{file}", entry.get("tensor_meta"))
        files.add(file)
    for file in sorted(files):
        _copy_member(archive, target, f"data/{kind}/{file}", f"data/{kind}/{file}")
    _write(
        target,
        f"data/{kind}/{_MODEL}_{kind}_config.json",
        json.dumps({"config": payloads}).encode(),
    )


def _check_size(archive: Archive, member: str, meta: Any) -> None:
    """Refuse a weight that claims far more elements than are stored for it."""
    try:
        elements = math.prod(size["as_int"] for size in meta["sizes"])
    except (TypeError, KeyError):
        raise ModelError(f"{archive.path} describes the tensor {member} wrongly") from None
    if elements > archive.size(member) + MAX_EXPANDED:
        raise ModelError(f"{archive.path} is damaged: the tensor {member} is too short")


def _copy_legacy(archive: Archive, target: zipfile.ZipFile) -> None:
    """The format that torch.export.save wrote until torch 2.7."""
    for record in ("version", *_LEGACY_PARTS):
        if record not in archive:
            raise ModelError(f"{archive.path} is damaged: it has no member {record}")
        _copy_member(archive, target, record, record, folder="")
    _write(target, _LEGACY_PROGRAM, clean_program(archive.read(_LEGACY_PROGRAM)), folder="")
    _write(target, "serialized_example_inputs.pt", b"", folder="")


def _write(target: zipfile.ZipFile, name: str, content: bytes, folder: str = "model/") -> None:
    target.writestr(zipfile.ZipInfo(folder + name), content)


def _copy_member(
    archive: Archive, target: zipfile.ZipFile, name: str, new: str, folder: str = "model/"
) -> None:
    # the size is known only at the end for zipfile, so it must be told that it may need 64 bits
    with target.open(zipfile.ZipInfo(folder + new), "w", force_zip64=True) as member:
        archive.copy(name, member)
