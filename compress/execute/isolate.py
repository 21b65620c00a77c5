"""Load and run foreign models in a process of their own, which they may take down with them.

onnxruntime can crash on a malformed model, run forever or eat the memory. A fresh interpreter
(never a fork, which would inherit threads and locks) does it first; its end becomes one line.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import ModelError, UsageError

_CHILD = Path(__file__).with_name("probe_child.py")
_DOING = {"start": "starting", "load": "loading", "run": "running"}


@dataclass(frozen=True)
class Port:
    """An input or output as onnxruntime declares it."""

    name: str
    dtype: str
    """Name of the element type as in NumPy ('float32'), or onnxruntime's for other types."""
    shape: tuple[int | str | None, ...]
    """A free dimension is its name, or None if it has none."""


@dataclass(frozen=True)
class ProbeReport:
    """What one load and one run of a model showed."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    load_ms: float
    first_run_ms: float
    peak_rss_bytes: int
    """Of the process that loaded and ran it; interpreter and onnxruntime included."""


class RunRefused(ModelError):
    """onnxruntime loaded the model but refused to run it on the inputs that it was given."""


def probe(
    model_path: Path,
    *,
    inputs: Path | None = None,
    outputs: Path | None = None,
    dimensions: Mapping[str, int] | None = None,
    disabled_optimizers: Sequence[str] = (),
    threads: int = 1,
    timeout_s: float = 120,
) -> ProbeReport:
    """Load `model_path` with onnxruntime on the CPU and run it once, in a fresh process.

    inputs: an .npz with one array per input; else random numbers (float inputs) and zeros of the
        declared shapes.
    outputs: where to write an .npz with one array per output.
    dimensions: sizes of free dimensions by name, for made-up inputs; others are 1.
    disabled_optimizers: names of onnxruntime's graph optimizers to leave out.

    Raises:
        UsageError: there is no such file.
        ModelError: onnxruntime refused the model, crashed, or took longer than `timeout_s`;
            RunRefused if it is the inputs that it refused.
    """
    if not model_path.is_file():
        raise UsageError(f"{model_path} does not exist or is not a file")
    request = {
        "model": str(model_path),
        "inputs": None if inputs is None else str(inputs),
        "outputs": None if outputs is None else str(outputs),
        "dimensions": dict(dimensions or {}),
        "disabled_optimizers": list(disabled_optimizers),
        "threads": threads,
    }
    # a script by path with -P: neither this package's imports nor the current folder slow it down
    # or get in its way
    with subprocess.Popen(
        [sys.executable, "-P", str(_CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as child:
        try:
            answer, complaints = child.communicate(json.dumps(request), timeout=timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            answer, _ = child.communicate()
            doing = _DOING[_last_phase(answer)]
            raise ModelError(
                f"onnxruntime was still {doing} {model_path} after {timeout_s:g} s: gave up"
            ) from None
        except BaseException:
            child.kill()
            raise
    return _outcome(model_path, answer, complaints, child.returncode)


def _outcome(model_path: Path, answer: str, complaints: str, returncode: int) -> ProbeReport:
    """The report in the child's `answer`, or the error that its end means."""
    messages = _messages(answer)
    for message in messages:
        if "error" in message:
            reason = str(message["error"]).removeprefix(f"Load model from {model_path} failed:")
            kind = RunRefused if message["phase"] == "run" else ModelError
            raise kind(f"onnxruntime cannot {message['phase']} {model_path}: {reason}")
        if "report" in message and returncode == 0:
            return _report(message["report"])
    doing = _DOING[_last_phase(answer)]
    if returncode < 0:
        name = _signal_name(-returncode)
        cause = "the model is malformed, or meets a defect of onnxruntime: export it again"
        if name == "SIGKILL":
            cause = "it needs more memory than there is"
        raise ModelError(f"onnxruntime died ({name}) while {doing} {model_path}: {cause}")
    last = complaints.strip().splitlines()[-1:] or [f"exit code {returncode}"]
    raise ModelError(f"onnxruntime died while {doing} {model_path}: {last[0][:300]}")


def _messages(answer: str) -> list[dict[str, Any]]:
    messages = []
    for line in answer.splitlines():
        try:
            message = json.loads(line)
        except ValueError:
            # cut off by the child's death
            continue
        if isinstance(message, dict):
            messages.append(message)
    return messages


def _last_phase(answer: str | None) -> str:
    phases = [m["phase"] for m in _messages(answer or "") if "phase" in m]
    return phases[-1] if phases else "start"


def _report(report: Mapping[str, Any]) -> ProbeReport:
    return ProbeReport(
        inputs=_ports(report["inputs"]),
        outputs=_ports(report["outputs"]),
        load_ms=float(report["load_ms"]),
        first_run_ms=float(report["first_run_ms"]),
        peak_rss_bytes=int(report["peak_rss_bytes"]),
    )


def _ports(ports: Sequence[Mapping[str, Any]]) -> tuple[Port, ...]:
    return tuple(Port(p["name"], p["dtype"], tuple(p["shape"])) for p in ports)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
