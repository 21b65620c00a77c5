"""compress plan: what lies where in a scratchpad, and when."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from compress.cli.options import general_options, json_option, model_options, quiet_option
from compress.cli.progress import shown_progress, stdout_for
from compress.cli.values import BYTES, TIME

if TYPE_CHECKING:
    from compress.report.memory_plan import MemoryPlan


@click.command("plan")
@model_options
@click.option(
    "--sram",
    type=BYTES,
    help="Of the scratchpad, as in 256KiB (262,144 bytes) or 1MB (1,000,000).  "
    "[default: the device's]",
)
@click.option(
    "--target",
    metavar="DEVICE",
    help="A device's name (see `compress devices`), or a profile as FILE.toml.",
)
@click.option(
    "--align",
    type=BYTES,
    default="16",
    show_default=True,
    help="Addresses are multiples of it: a power of two, as in 64.",
)
@click.option(
    "--time-limit", type=TIME, default="60s", show_default=True, help="For the search, as in 5m."
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Execute the plan in one byte buffer and compare the outputs with onnxruntime's.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Folder for the plan. It appears whole or not at all.",
)
@click.option("--force", is_flag=True, help="Replace OUT even if it is not an earlier plan.")
@json_option("the plan")
@quiet_option
@general_options
def command(
    model: str,
    factory: str | None,
    shapes: dict[str, tuple[int, ...]],
    fixed_inputs: dict[str, str],
    trust_pickle: bool,
    sram: int | None,
    target: str | None,
    align: int,
    time_limit: float,
    seed: int,
    verify: bool,
    out: Path | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Schedule MODEL on a scratchpad with the least traffic on and off the chip.

    OUT will hold memory_plan.json (every step, address and lifetime), memory_plan.h (the same for
    firmware), memory_plan.svg (a picture) and model.onnx with its nodes in the plan's order.
    """
    if sram is None and target is None:
        raise click.UsageError("give the size of the scratchpad with --sram, or a --target")
    if out is not None:
        from compress.cli.output_folder import check_output
        from compress.report.write_json import is_memory_plan

        check_output(out, (model, factory, target), force=force or is_memory_plan(out))

    from compress import api

    with shown_progress(silent=quiet or as_json) as progress, stdout_for(as_json):
        result = api.plan(
            model,
            sram=sram,
            target=target,
            align=align,
            factory=factory,
            shapes=shapes or None,
            fixed_inputs=fixed_inputs or None,
            trust_pickle=trust_pickle,
            time_limit_s=time_limit,
            seed=seed,
            verify=verify,
            progress=progress,
        )
        if out is not None:
            result.save(out, force=force)
    if as_json:
        from compress.report.write_json import to_json

        click.echo(to_json(result.plan), nl=False)
    else:
        _show(result.plan, out, brief=quiet)


def _show(plan: MemoryPlan, folder: Path | None, *, brief: bool) -> None:
    from compress.report import summary
    from compress.report.screen import Screen

    screen = Screen()
    bounds = plan.bounds
    screen.line(summary.scratchpad(plan))
    if brief:
        return
    if plan.advisory:
        screen.line(
            f"advisory: {plan.target} has caches, not a scratchpad; the order of the nodes keeps "
            "the working set small, the addresses mean nothing"
        )
    screen.line()
    screen.table(("", "bytes", ""), _rows(plan), numbers=("bytes",))
    if bounds.baselines:
        screen.line()
        screen.table(
            ("plain scheduler", "extra bytes"),
            [
                (
                    f"{baseline.order}, {baseline.policy}",
                    "no plan" if baseline.extra_bytes is None else f"{baseline.extra_bytes:,}",
                )
                for baseline in bounds.baselines
            ],
            numbers=("extra bytes",),
        )
    screen.line()
    screen.line(_proof(plan))
    if folder is not None:
        screen.line(
            f"{folder} holds memory_plan.json, memory_plan.h, memory_plan.svg and model.onnx"
        )


def _rows(plan: MemoryPlan) -> list[tuple[str, str, str]]:
    bounds, traffic = plan.bounds, plan.traffic
    rows = [
        ("compulsory traffic", bounds.compulsory_bytes, "inputs and weights in, outputs out"),
        ("extra traffic", traffic.extra_bytes, plan.method),
        ("highest address in use", bounds.peak_bytes, f"{bounds.fragmentation:.1%} fragmentation"),
        ("largest operator", bounds.largest_operator.bytes, bounds.largest_operator.name),
        ("smallest peak of an order", bounds.smallest_peak_bytes, "whole tensors"),
    ]
    rows.append(("runs at all from", bounds.smallest_scratchpad_bytes, "in stripes"))
    if bounds.zero_extra_bytes is not None:
        note = "smallest scratchpad found for it"
        rows.append(("no extra traffic from", bounds.zero_extra_bytes, note))
    shown = [(name, f"{count:,}", note) for name, count, note in rows]
    if traffic.dma_ms is not None:
        shown.append(("copying", "", f"{traffic.dma_ms:.3g} ms at {plan.target}'s bandwidth"))
    return shown


def _proof(plan: MemoryPlan) -> str:
    proof = plan.proof
    if not proof.executed:
        return "checked, not executed"
    if proof.differing:
        count = f"{proof.differing:,} element{'s' if proof.differing > 1 else ''}"
        return (
            f"executed in one byte buffer: equal to {proof.reference}, but for {count} halfway "
            "between two levels, rounded the other way"
        )
    equal = "exactly" if proof.exact else f"up to {proof.largest_error:.1e}"
    return f"executed in one byte buffer: the outputs equal {proof.reference} {equal}"
