"""Device profiles: what is known about the hardware that a model is compressed for."""

from __future__ import annotations

import difflib
import importlib.resources
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from compress.errors import UsageError
from compress.evidence.digest import digest

Count = Annotated[int | None, Field(gt=0)]
Rate = Annotated[float | None, Field(gt=0)]
Words = Annotated[tuple[str, ...], Field(strict=False)]
"""A TOML array of strings."""

HOST = "host"
"""The name of the profile that detection fills in."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Caches(_Table):
    """Sizes in bytes; l1i, l1d and l2 of one core, l3 of all cores that share it."""

    l1i: Count = None
    l1d: Count = None
    l2: Count = None
    l3: Count = None


class PeakOps(_Table):
    """Arithmetic operations by dtype, without sparsity; a multiply-add counts as two."""

    float32: Rate = None
    float16: Rate = None
    bfloat16: Rate = None
    float8: Rate = None
    int16: Rate = None
    int8: Rate = None
    int4: Rate = None


class Device(_Table):
    """A device profile. Figures that are not known are None; those that are have a source."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    aliases: Words = ()
    kind: Literal["cpu", "gpu", "npu", "mcu"]
    runtime: Literal["onnxruntime", "tensorrt", "scratchpad"]
    measurable: bool = False
    """Whether the machine that runs this program can measure latencies on the device itself."""
    cpu: str | None = None
    """The name of the processor."""
    runtime_version: str | None = None
    notes: str = ""

    threads: Count = None
    """How many threads inference should use: physical cores, unless something limits them."""
    isa: Words = ()
    """Instruction-set extensions that kernels choose by, as Linux names them ("neon" for asimd)."""
    clock_hz: Rate = None
    caches_bytes: Caches = Caches()
    scratchpad_bytes: Count = None
    """Memory that the program, not a cache, decides the content of."""
    memory_bytes: Count = None
    memory_bandwidth_bytes_per_s: Rate = None
    """Sustained traffic with main memory, reads and writes together, of the whole device."""
    peak_ops_per_s: PeakOps = PeakOps()
    """Of the whole device."""
    peak_ops_per_cycle: PeakOps = PeakOps()
    """Of one core, where the clock or the number of cores is left open or gives the product."""

    sources: dict[str, str] = Field(default_factory=dict)
    """Where each figure comes from, by its path, as in "caches_bytes.l2"; the path of a table
    stands for all of its figures."""

    @model_validator(mode="after")
    def _every_figure_has_a_source(self) -> Device:
        figures = set(self.figures())
        for path in figures:
            source = self.sources.get(path) or self.sources.get(path.partition(".")[0])
            if not source or not source.strip():
                raise ValueError(f'{path} has no source: add "{path}" to [sources]')
        tables = {path.partition(".")[0] for path in figures}
        for path in self.sources:
            if path not in figures | tables:
                raise ValueError(f"sources.{path} speaks of a figure that is not set")
        return self

    def figures(self) -> dict[str, Any]:
        """The figures that are set, by path."""
        found: dict[str, Any] = {}
        for name in _FIGURES:
            value = getattr(self, name)
            if isinstance(value, _Table):
                for part, figure in value:
                    if figure is not None:
                        found[f"{name}.{part}"] = figure
            elif value is not None and value != ():
                found[name] = value
        return found

    def peak(self, dtype: str) -> float | None:
        """Operations per second of the whole device for a dtype such as "int8", if known."""
        if dtype not in PeakOps.model_fields:
            return None
        total: float | None = getattr(self.peak_ops_per_s, dtype)
        if total is not None:
            return total
        per_cycle: float | None = getattr(self.peak_ops_per_cycle, dtype)
        if per_cycle is None or self.clock_hz is None or self.threads is None:
            return None
        return per_cycle * self.clock_hz * self.threads

    @property
    def fingerprint(self) -> str:
        """SHA-256 over what decides latencies: the figures, the runtime and its version."""
        return digest(
            "device", self.kind, self.runtime, self.runtime_version, self.cpu, self.figures()
        )


_FIGURES = (
    "threads",
    "isa",
    "clock_hz",
    "caches_bytes",
    "scratchpad_bytes",
    "memory_bytes",
    "memory_bandwidth_bytes_per_s",
    "peak_ops_per_s",
    "peak_ops_per_cycle",
)


def load_device(name_or_path: str | Path) -> Device:
    """The profile with this name or alias, or the one in a TOML file.

    "host" is the machine at hand, filled in by detection.

    Raises:
        UsageError: there is none of this name, or the file is not a profile.
    """
    text = str(name_or_path)
    path = Path(text)
    if path.suffix == ".toml" or path.parent != Path() or isinstance(name_or_path, Path):
        return read_profile(path)
    known: dict[str, Device] = {}
    for device in _shipped():
        for name in (device.name, *device.aliases):
            known[name.casefold()] = device
    found = known.get(text.casefold())
    if found is not None:
        return _filled(found)
    near = difflib.get_close_matches(text.casefold(), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    names = ", ".join(sorted({device.name for device in known.values()}))
    raise UsageError(
        f"there is no device {text!r}: {hint}known are {names}; or give a profile as FILE.toml"
    )


def list_devices() -> tuple[Device, ...]:
    """All shipped profiles: the host first, the others by name."""
    found = sorted(_shipped(), key=lambda device: (device.name != HOST, device.name))
    return tuple(map(_filled, found))


def read_profile(path: Path) -> Device:
    """The profile in a TOML file, as it stands there.

    Raises:
        UsageError: the file cannot be read or is not a profile; names the key that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"device profile {path} cannot be read: {reason}") from error
    return _parse(text, str(path))


def _shipped() -> Iterator[Device]:
    folder = importlib.resources.files("compress.hardware") / "profiles"
    for file in folder.iterdir():
        if file.name.endswith(".toml"):
            yield _parse(file.read_text(encoding="utf-8"), file.name)


def _filled(device: Device) -> Device:
    if device.name != HOST:
        return device
    from compress.hardware.host import host_device

    return host_device(device)


def _parse(text: str, where: str) -> Device:
    try:
        return Device.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"device profile {where} is not valid TOML: {error}") from error
    except ValidationError as error:
        first, *others = error.errors()
        path = ".".join(map(str, first["loc"]))
        what = first["msg"].removeprefix("Value error, ")
        more = f" (and {len(others)} more)" if others else ""
        shown = f"{path}: {what}" if path else what
        raise UsageError(f"device profile {where}: {shown}{more}") from error
