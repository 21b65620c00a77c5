"""compress bench: how long models take, measured in turns."""

from __future__ import annotations

import click

from compress.cli.options import general_options, json_option, model_options, target_option
from compress.cli.progress import shown_progress


@click.command("bench")
@model_options
@target_option
@click.option("--against", metavar="OTHER", help="Another model with the same inputs.")
@click.option(
    "--data",
    metavar="SAMPLES",
    help="Inputs as for `compress run --data`; default: made up from shapes.",
)
@click.option(
    "--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Of the runtime."
)
@json_option("the figures")
@general_options
def command(
    model: str,
    factory: str | None,
    shapes: dict[str, tuple[int, ...]],
    fixed_inputs: dict[str, str],
    trust_pickle: bool,
    target: str,
    against: str | None,
    data: str | None,
    threads: int,
    as_json: bool,
) -> None:
    """Measure MODEL's latency, alone or in turns with another model, as fresh processes."""
    from compress import api

    with shown_progress(silent=as_json) as progress:
        bench = api.bench(
            model,
            against=against,
            data=data,
            target=target,
            threads=threads,
            factory=factory,
            shapes=shapes or None,
            fixed_inputs=fixed_inputs or None,
            trust_pickle=trust_pickle,
            progress=progress,
        )
    if as_json:
        from compress.report.write_json import to_json

        click.echo(to_json(bench), nl=False)
        return
    from compress.report import text
    from compress.report.screen import Screen

    rows = [
        (
            entry.name,
            text.latency(entry.latency),
            text.speedup(entry.speedup) if entry.speedup else "",
            text.size(entry.size_bytes),
            str(entry.latency.runs),
        )
        for entry in bench.models
    ]
    screen = Screen()
    screen.table(("model", "latency", "speed", "size", "runs"), rows, numbers=("size", "runs"))
    threads_used = f"{bench.threads} thread{'s' if bench.threads > 1 else ''}"
    screen.line(f"{bench.target}, {threads_used}, {bench.inputs}")
