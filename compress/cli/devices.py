"""compress devices: what is known about the hardware that models are compressed for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from compress.cli.options import general_options, json_option

if TYPE_CHECKING:
    from compress.hardware.device import Device


@click.group("devices", invoke_without_command=True)
@general_options
@click.pass_context
def command(ctx: click.Context) -> None:
    """List the known devices, or show one."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_all, as_json=False)


@command.command("list")
@json_option("the devices")
@general_options
def list_all(as_json: bool) -> None:
    """List the known devices."""
    from compress.hardware.device import list_devices
    from compress.report.screen import Screen

    devices = list_devices()
    if as_json:
        click.echo(json.dumps([_content(device) for device in devices], indent=2))
        return
    rows = [
        (
            device.name,
            device.kind,
            device.runtime,
            device.cpu or "",
            "measured here" if device.measurable else "predicted",
        )
        for device in devices
    ]
    Screen().table(("device", "kind", "runtime", "processor", "latencies"), rows)


@command.command("show")
@click.argument("name", metavar="NAME")
@json_option("the device")
@general_options
def show(name: str, as_json: bool) -> None:
    """Show all figures of one device with their sources. NAME is a name or a FILE.toml."""
    from compress.hardware.device import load_device
    from compress.report.screen import Screen

    device = load_device(name)
    if as_json:
        click.echo(json.dumps(_content(device), indent=2))
        return
    screen = Screen()
    screen.line((device.name, "bold"), f"  {device.cpu or device.kind}")
    if device.notes:
        screen.line(device.notes)
    if device.aliases:
        screen.line(f"also called {', '.join(device.aliases)}")
    version = f" {device.runtime_version}" if device.runtime_version else ""
    screen.line(f"runtime {device.runtime}{version}")
    screen.line(f"fingerprint {device.fingerprint}")
    screen.line()
    rows = [
        (path, _shown(path, value), _source(device, path))
        for path, value in device.figures().items()
    ]
    screen.table(("figure", "value", "source"), rows)


def _content(device: Device) -> dict[str, Any]:
    return {**device.model_dump(mode="json"), "fingerprint": device.fingerprint}


def _shown(path: str, value: Any) -> str:
    from compress.report.text import binary_size

    if isinstance(value, tuple):
        return " ".join(value)
    if "_bytes" in path and not path.endswith("_per_s"):
        return binary_size(value)
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def _source(device: Device, path: str) -> str:
    return device.sources.get(path) or device.sources.get(path.partition(".")[0], "")
