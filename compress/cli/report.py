"""compress report: the story of a finished run again."""

from __future__ import annotations

from pathlib import Path

import click

from compress.cli.options import general_options, json_option


@click.command("report")
@click.argument("out", type=click.Path(path_type=Path))
@json_option("the report")
@click.option("--verbose", "-v", is_flag=True, help="Tell about every candidate and layer.")
@general_options
def command(out: Path, as_json: bool, verbose: bool) -> None:
    """Show the result of a run again, and rebuild OUT/report.html."""
    from compress.report.html import PAGE_FILE, render
    from compress.report.write_json import read_memory_plan, read_plan, read_report, to_json

    report, plan, memory = read_report(out), read_plan(out), read_memory_plan(out)
    _replace(out / PAGE_FILE, render(report, plan, memory))
    if as_json:
        click.echo(to_json(report), nl=False)
        return
    from compress.report.terminal import show

    show(report, plan, memory, folder=out, verbose=verbose)


def _replace(path: Path, content: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
