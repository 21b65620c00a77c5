"""The process behind `isolate.probe`: a request on stdin, messages on stdout, one JSON a line.

Run as a script. It imports nothing of this package, so that it starts fast and stands alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

_MAX_TEXT = 500
"""Characters of a message; onnxruntime puts file names and whole signatures into some."""

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
    **{
        f"tensor({kind}{bits})": f"{kind}{bits}"
        for kind in ("int", "uint")
        for bits in (8, 16, 32, 64)
    },
}


def main() -> None:
    """Answer the request; whatever else writes to stdout goes to stderr."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    _die_quietly()
    request = json.loads(sys.stdin.read())
    phase = "load"

    def enter(name: str) -> None:
        nonlocal phase
        phase = name
        tell({"phase": name})

    try:
        tell({"report": _probe(request, enter)})
    except MemoryError:
        tell({"error": "not enough memory", "phase": phase})
    except Exception as error:
        tell({"error": _one_line(error), "phase": phase})


def _die_quietly() -> None:
    """No core file after a crash; where memory runs out, this process goes before others."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
            score.write("1000")
    except (ImportError, OSError, ValueError):
        # not on every system, and only a courtesy
        pass


def _probe(request: dict[str, Any], enter: Callable[[str], None]) -> dict[str, Any]:
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = request["threads"]
    options.inter_op_num_threads = 1
    # what matters is in the exceptions
    options.log_severity_level = 4
    enter("load")
    start = time.perf_counter()
    session = ort.InferenceSession(
        request["model"],
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=request["disabled_optimizers"],
    )
    load_ms = (time.perf_counter() - start) * 1e3
    enter("run")
    if request["inputs"] is None:
        feeds = {port.name: _made_up(port, request["dimensions"]) for port in session.get_inputs()}
    else:
        with np.load(request["inputs"], allow_pickle=False) as arrays:
            feeds = dict(arrays)
    start = time.perf_counter()
    try:
        results = session.run(None, feeds)
    except Exception as error:
        if request["inputs"] is not None:
            raise
        shapes = ", ".join(f"{name}={'x'.join(map(str, a.shape))}" for name, a in feeds.items())
        raise RuntimeError(f"{_one_line(error)} (tried {shapes[:200]})") from None
    first_run_ms = (time.perf_counter() - start) * 1e3
    if request["outputs"] is not None:
        names = [port.name for port in session.get_outputs()]
        np.savez(request["outputs"], **dict(zip(names, results, strict=True)))
    return {
        "inputs": [_described(port) for port in session.get_inputs()],
        "outputs": [_described(port) for port in session.get_outputs()],
        "load_ms": load_ms,
        "first_run_ms": first_run_ms,
        "peak_rss_bytes": _peak_rss_bytes(),
    }


def _made_up(port: Any, dimensions: dict[str, int]) -> Any:
    """An array of the declared type and shape: uniform in [0, 1) for floats, else zeros."""
    import numpy as np

    if port.type not in _DTYPES:
        raise RuntimeError(f"input '{port.name}' is a {port.type}: give inputs")
    shape = [size if isinstance(size, int) else dimensions.get(size, 1) for size in port.shape]
    dtype = np.dtype(_DTYPES[port.type])
    if dtype.kind == "f":
        return np.random.default_rng(0).random(shape, dtype=np.float32).astype(dtype, copy=False)
    if dtype.kind == "O":
        return np.full(shape, "", dtype=object)
    return np.zeros(shape, dtype=dtype)


def _described(port: Any) -> dict[str, Any]:
    return {"name": port.name, "dtype": _DTYPES.get(port.type, port.type), "shape": port.shape}


def _peak_rss_bytes() -> int:
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _one_line(error: BaseException) -> str:
    """onnxruntime's message without its '[ONNXRuntimeError] : 1 : FAIL : ' and in one line."""
    text = " ".join(str(error).split())
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    if len(text) > _MAX_TEXT:
        # where it happened comes first, what happened last
        text = f"{text[: _MAX_TEXT // 2]} ... {text[-_MAX_TEXT // 2 :]}"
    return text or type(error).__name__


if __name__ == "__main__":
    main()
