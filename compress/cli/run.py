"""compress run: a model in, a faster verified artifact out."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from compress.cli.options import (
    general_options,
    json_option,
    model_options,
    quiet_option,
    target_option,
)
from compress.cli.progress import shown_progress, stdout_for
from compress.cli.values import BYTES, DROP, FACTOR, LATENCY, NAMES, TIME, Drop


@click.command("run")
@model_options
@target_option
@click.option(
    "--data",
    metavar="SAMPLES",
    help="Calibration inputs: an .npz with one array per input, a directory with one .npz per "
    "sample, or FILE.py:function yielding dicts.",
)
@click.option(
    "--eval",
    "evaluate",
    metavar="MEASURE",
    help="Quality, higher is better: FILE.py:function, or an .npz with labels (top-1).",
)
@click.option(
    "--max-drop",
    type=DROP,
    help="Largest loss of quality: 1% of the float model's, or 0.01 in its own unit.",
)
@click.option("--max-latency", type=LATENCY, help="Of one inference, as in 5ms.")
@click.option("--speedup", type=FACTOR, help="Over the model as given, as in 2x.")
@click.option("--max-size", type=BYTES, help="Of the model file, as in 4MB or 512KiB.")
@click.option(
    "--objective",
    type=click.Choice(["latency", "size"]),
    default="latency",
    show_default=True,
    help="What to make small within the budget.",
)
@click.option(
    "--techniques",
    type=NAMES,
    default="quantize",
    show_default=True,
    help="What may be done, with commas between: quantize, merge (layers), prune (channels).",
)
@click.option(
    "--labels",
    is_flag=True,
    help="Where layers are trained anew, learn from the array `labels` of --data as well.",
)
@click.option("--time-limit", type=TIME, help="Stop looking for better after this, as in 10m.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Use what earlier runs found out about this model, data and device.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="OUT",
    help="Folder for the results. It appears whole or not at all.",
)
@click.option("--force", is_flag=True, help="Replace OUT even if it is not the result of a run.")
@json_option("the report")
@quiet_option
@click.option("--verbose", "-v", is_flag=True, help="Tell about every candidate and layer.")
@general_options
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    factory: str | None,
    shapes: dict[str, tuple[int, ...]],
    fixed_inputs: dict[str, str],
    trust_pickle: bool,
    target: str,
    data: str | None,
    evaluate: str | None,
    max_drop: Drop | None,
    max_latency: float | None,
    speedup: float | None,
    max_size: int | None,
    objective: str,
    techniques: tuple[str, ...],
    labels: bool,
    time_limit: float | None,
    seed: int,
    resume: bool,
    out: Path,
    force: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Compress MODEL for a device: the fastest form within the budget, verified and measured.

    \b
    MODEL is one of
      .onnx
      .pt2          (torch.export)
      .pt           (TorchScript)
      .pt .pth .safetensors with weights, together with --model
      pkg.mod:factory or FILE.py:factory

    OUT will hold model.onnx, report.json, report.html and plan.json. A run that was interrupted
    continues where it stopped when it is started again.
    """
    from compress.cli.output_folder import check_output

    if quiet and verbose:
        raise click.UsageError("--quiet and --verbose exclude each other", ctx)
    check_output(out, (model, factory, data, evaluate, target), force=force)

    from compress import api
    from compress.passes.base import Budget
    from compress.report.folder import save

    budget = Budget(
        max_drop=None if max_drop is None else max_drop.value,
        absolute_drop=max_drop is not None and max_drop.absolute,
        max_latency_ms=max_latency,
        speedup=speedup,
        max_bytes=max_size,
    )
    with shown_progress(silent=quiet or as_json) as progress, stdout_for(as_json):
        result = api.run(
            model,
            target=target,
            data=data,
            evaluate=evaluate,
            budget=budget,
            factory=factory,
            shapes=shapes or None,
            fixed_inputs=fixed_inputs or None,
            objective=objective,
            techniques=techniques,
            labels=labels,
            time_limit_s=time_limit,
            seed=seed,
            resume=resume,
            trust_pickle=trust_pickle,
            progress=progress,
            command=shlex.join(["compress", *ctx.find_root().obj]),
        )
        save(out, result.model, result.report, result.plan, result.memory, force=force)
    if as_json:
        from compress.report.write_json import to_json

        click.echo(to_json(result.report), nl=False)
    elif quiet:
        from compress.report.text import printable

        click.echo(printable(result.report.outcome))
    else:
        from compress.report.terminal import show

        show(result.report, result.plan, result.memory, folder=out, verbose=verbose)
    ctx.exit(result.exit_code)
