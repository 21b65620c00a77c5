"""Everything that is compared: ways to turn a float model into an artifact for a runtime."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.interpreter import peers_python
from benchmarks.zoo import Case

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / "peers"

FLOAT = "float"
OURS = "compress"


class NotAvailable(RuntimeError):
    """The method cannot run on this machine; the message says what is missing."""


@dataclass(frozen=True)
class Method:
    """One way, with one setting.

    Attributes:
        group: what is compared (`onnxruntime static`); the table shows the best of its settings.
        setting: tells the members of a group apart; empty where there is only one.
        runtime: a key of `benchmarks.runtimes.RUNTIMES`.
        artifact: the file's path inside the output folder; empty for the float model itself.
        command: (case, output folder) -> the program that builds the artifact.
        sources: files and folders whose content decides what the command does.
        packages: distributions whose versions do, in the interpreter that the command runs in.
        done: exit codes with which the command has written an artifact.
        only: names of the models it applies to; empty for all.
    """

    group: str
    setting: str
    runtime: str
    artifact: str
    command: Callable[[Case, Path], list[str]] | None
    sources: tuple[Path, ...] = ()
    packages: tuple[str, ...] = ()
    done: tuple[int, ...] = (0,)
    only: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Group and setting, unique among all methods."""
        return f"{self.group}, {self.setting}" if self.setting else self.group


def all_methods() -> Iterator[Method]:
    """Float, ours and every peer with its settings."""
    yield Method(FLOAT, "", "onnxruntime", "", None)
    yield Method(FLOAT, "OpenVINO", "openvino", "", None)
    yield Method(
        OURS,
        "",
        "onnxruntime",
        "out/model.onnx",
        _compress_run,
        sources=(ROOT / "compress",),
        packages=("onnx", "onnx-ir", "onnxruntime", "numpy", "pulp", "highspy"),
        # 1: the budget cannot be met; the best that was found is written all the same.
        done=(0, 1),
    )
    yield from _onnxruntime_static()
    for operators in ("all", "matmul"):
        yield _here(
            "onnxruntime dynamic", f"{operators} operators", "ort_dynamic", "--operators", operators
        )
    yield from _nncf()


def quick(methods: Iterable[Method]) -> list[Method]:
    """The first setting of every group and runtime: enough to see that everything works."""
    first: dict[tuple[str, str], Method] = {}
    for method in methods:
        if method.only == ():
            first.setdefault((method.group, method.runtime), method)
    return list(first.values())


def _onnxruntime_static() -> Iterator[Method]:
    convolutional = ("ocr_rec", "ocr_det", "ocr_cls")
    for operators, calibrations, only in (
        ("all", ("minmax", "percentile"), ()),
        ("compute", ("minmax", "percentile", "entropy"), ()),
        ("no-depthwise", ("minmax", "percentile", "entropy"), convolutional),
    ):
        for calibration in calibrations:
            yield _here(
                "onnxruntime static",
                f"{operators} operators, {calibration}",
                "ort_static",
                *("--operators", operators, "--calibration", calibration),
                only=only,
            )


def _nncf() -> Iterator[Method]:
    settings: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
        ("performance", (), ()),
        ("mixed", ("--preset", "mixed"), ()),
        ("transformer", ("--transformer",), ("minilm", "ocr_rec")),
    )
    for setting, options, only in settings:
        native = _with_peers_python("nncf_openvino", "model.xml", options)
        onnx = _with_peers_python("nncf_ptq", "model.onnx", options)
        for group, name, runtime, artifact, command in (
            ("NNCF in onnxruntime", setting, "onnxruntime", "model.onnx", onnx),
            ("NNCF in OpenVINO", setting, "openvino", "model.xml", native),
            ("NNCF in OpenVINO", f"{setting}, from ONNX", "openvino", "model.onnx", onnx),
        ):
            # The versions are pinned by requirements.txt, which is in the peers' folder.
            yield Method(group, name, runtime, artifact, command, (PEERS,), only=only)


def _here(
    group: str, setting: str, module: str, *options: str, only: tuple[str, ...] = ()
) -> Method:
    """A peer that runs in this interpreter."""

    def command(case: Case, output: Path) -> list[str]:
        return _peer(sys.executable, module, case, output / "model.onnx", options)

    packages = ("onnx", "onnxruntime", "numpy")
    return Method(
        group, setting, "onnxruntime", "model.onnx", command, (PEERS,), packages, only=only
    )


def _with_peers_python(
    module: str, artifact: str, options: tuple[str, ...]
) -> Callable[[Case, Path], list[str]]:
    def command(case: Case, output: Path) -> list[str]:
        python = peers_python()
        if python is None:
            raise NotAvailable("run `python -m benchmarks.peers.interpreter` to install NNCF")
        return _peer(str(python), module, case, output / artifact, options)

    return command


def _peer(
    python: str, module: str, case: Case, output: Path, options: tuple[str, ...]
) -> list[str]:
    paths = [str(case.model_path()), str(case.calibration_dir()), str(output)]
    return [python, "-m", f"benchmarks.peers.{module}", *paths, *options]


def _compress_run(case: Case, output: Path) -> list[str]:
    command = [sys.executable, "-m", "compress", "run", str(case.model_path())]
    command += ["--target", "host", "--data", str(case.calibration_dir())]
    command += ["--eval", f"{case.eval_file}:evaluate", "--max-drop", case.max_drop]
    return [*command, "-o", str(output / "out")]
