"""Runs a method's program under a clock and keeps what it made, under a key of its inputs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.methods import ROOT, Method, NotAvailable
from benchmarks.timing import ONE_THREAD
from benchmarks.zoo import Case, fetch, store

TIME_LIMIT_SECONDS = 3600.0
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Built:
    """A finished program: what it made, or why it failed.

    Attributes:
        artifact: the file to load; None where the program failed.
        failure: one line, empty where it did not fail.
        seconds: wall time of the whole program, imports and all.
        peak_bytes: highest resident memory of the program with its children.
    """

    artifact: Path | None
    failure: str
    seconds: float
    peak_bytes: int

    @property
    def size_bytes(self) -> int:
        """Bytes of the artifact with the file of its weights, where that is apart."""
        if self.artifact is None:
            return 0
        parts = [self.artifact, self.artifact.with_suffix(".bin")]
        parts.append(self.artifact.with_name(self.artifact.name + ".data"))
        return sum(part.stat().st_size for part in parts if part.is_file())


def results_folder() -> Path:
    """Where results of earlier runs are kept."""
    return fetch.zoo_folder() / "results"


def build(method: Method, case: Case, retry: bool = False) -> Built:
    """The method's artifact for the case: from an earlier run, or built now.

    A failure of the program itself is kept too and tried again only when something it depends
    on changes, or with `retry`; what is merely not installed is tried again each time.
    """
    if method.command is None:
        return Built(case.model_path(), "", 0.0, 0)
    home = results_folder() / f"{case.name}-{build_key(method, case)}"
    if retry and home.is_dir() and _read(home)["failure"]:
        shutil.rmtree(home)
    if not home.is_dir():
        home.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=home.parent))
        try:
            command = method.command(case, scratch)
            failure, seconds, peak = run_measured(command, scratch, method.done)
            if not failure and not (scratch / method.artifact).is_file():
                failure = f"the program ended well but wrote no {method.artifact}"
            outcome = {"failure": failure, "seconds": seconds, "peak_bytes": peak}
            (scratch / "build.json").write_text(json.dumps(outcome))
            scratch.chmod(0o755)
            scratch.rename(home)
        except NotAvailable as missing:
            return Built(None, str(missing), 0.0, 0)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    record = _read(home)
    artifact = None if record["failure"] else home / method.artifact
    return Built(artifact, record["failure"], record["seconds"], record["peak_bytes"])


def _read(home: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((home / "build.json").read_text())
    return record


def build_key(method: Method, case: Case) -> str:
    """A digest of everything that decides what the method makes of the case's model."""
    command = [] if method.command is None else _command_without_paths(method, case)
    versions = [f"{name} {_version(name)}" for name in method.packages]
    parts = [case.model_digest(), case.calibration_dir().name, case.max_drop]
    return store.key_of(*parts, *command, *versions, digest_of(method.sources))


def digest_of(sources: Iterable[Path]) -> str:
    """SHA-256 over the names and contents of the files and of the folders' source files."""
    digest = hashlib.sha256()
    for source in sources:
        inside = sorted(path for path in source.rglob("*") if path.is_file())
        for path in inside if source.is_dir() else [source]:
            if "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def run_measured(
    command: list[str], scratch: Path, done: tuple[int, ...] = (0,)
) -> tuple[str, float, int]:
    """Runs a program with one thread and an empty evidence cache; `done`: its good exit codes.

    Returns (failure in one line or "", wall seconds, peak resident bytes). The memory is that of
    the whole process tree, sampled twenty times a second.
    """
    environment = {**os.environ, **ONE_THREAD, "COMPRESS_CACHE": str(scratch / "evidence")}
    log = scratch / "log.txt"
    start, peak, timed_out = time.perf_counter(), 0, False
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        while process.poll() is None:
            peak = max(peak, _resident_bytes(process.pid))
            if time.perf_counter() - start > TIME_LIMIT_SECONDS and not timed_out:
                timed_out = True
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(POLL_SECONDS)
    seconds = time.perf_counter() - start
    code = process.returncode
    shutil.rmtree(scratch / "evidence", ignore_errors=True)
    if timed_out:
        return f"stopped after {TIME_LIMIT_SECONDS:.0f} s", seconds, peak
    if code in done:
        return "", seconds, peak
    return _reason(code, log.read_text(errors="replace")), seconds, peak


def _reason(code: int, log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    said = lines[-1][:200] if lines else "no message"
    return f"killed by signal {-code}: {said}" if code < 0 else f"exit code {code}: {said}"


def _resident_bytes(root: int) -> int:
    """Resident memory of a process and all that it started, or the highest that one of them had
    so far, whichever is more. From /proc; 0 where there is none.

    The kernel's `ru_maxrss` will not do: it counts the memory of this process, out of which the
    other was forked, as the other's own.
    """
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The name in parentheses may itself hold blanks and parentheses.
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
        except (OSError, IndexError):
            continue  # it ended meanwhile
    tree = {root}
    while grown := {child for child, parent in parents.items() if parent in tree} - tree:
        tree |= grown
    now, highest = 0, 0
    for process in tree:
        try:
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
        except OSError:
            continue
        fields = dict(line.split(":", 1) for line in lines if line.startswith("Vm"))
        # A process that is ending has no memory left and no such lines.
        now += int(fields.get("VmRSS", "0 kB").split()[0])
        highest = max(highest, int(fields.get("VmHWM", "0 kB").split()[0]))
    return max(now, highest) * 1024


def _command_without_paths(method: Method, case: Case) -> list[str]:
    """The command with nothing in it that differs between machines or runs."""
    assert method.command is not None
    try:
        command = method.command(case, Path("output"))
    except NotAvailable:
        return ["not available"]
    return [part for part in command if not Path(part).is_absolute()]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
