"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from compress.cli.values import SETTING, SHAPE

_DEBUG = "compress.debug"

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def debugging(ctx: click.Context) -> bool:
    """Whether --debug was given, before or after the verb."""
    return bool(ctx.meta.get(_DEBUG, False))


def general_options(function: Decorated) -> Decorated:
    """--debug, which every verb takes."""
    return click.option(
        "--debug",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_remember_debug,
        help="Show the traceback of an error.",
    )(function)


def _remember_debug(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        ctx.meta[_DEBUG] = True


def model_options(function: Decorated) -> Decorated:
    """MODEL and how to read it: `model, factory, shapes, fixed_inputs, trust_pickle`."""
    decorators = (
        click.argument("model"),
        click.option(
            "--model",
            "factory",
            metavar="FACTORY",
            help="Builds the module that weights belong to: pkg.mod:factory or FILE.py:factory.",
        ),
        click.option(
            "--shape",
            "shapes",
            type=SHAPE,
            multiple=True,
            callback=_without_repeats,
            help="Fix an input's dimensions, as in x=1x3x224x224. May be repeated.",
        ),
        click.option(
            "--set",
            "fixed_inputs",
            type=SETTING,
            multiple=True,
            callback=_without_repeats,
            help="Fix an input's value, as in training=false. May be repeated.",
        ),
        click.option(
            "--trust-pickle",
            is_flag=True,
            help="Unpickle what MODEL holds, which runs code of its author.",
        ),
    )
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def target_option(function: Decorated) -> Decorated:
    """--target"""
    return click.option(
        "--target",
        default="host",
        show_default=True,
        metavar="DEVICE",
        help="A device's name (see `compress devices`), or a profile as FILE.toml.",
    )(function)


def json_option(what: str) -> Callable[[Decorated], Decorated]:
    """--json, which prints `what` alone on standard output."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print only {what}, as JSON.")


def quiet_option(function: Decorated) -> Decorated:
    """--quiet"""
    return click.option("--quiet", "-q", is_flag=True, help="No progress, and one line of result.")(
        function
    )


def _without_repeats(
    ctx: click.Context, parameter: click.Parameter, pairs: tuple[tuple[str, Any], ...]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice", ctx, parameter)
        found[name] = value
    return found
