"""compress inspect: a model's layers, what they cost and what they could become."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from compress.cli.options import general_options, json_option, model_options, target_option
from compress.cli.progress import shown_progress

if TYPE_CHECKING:
    from compress.report.schema import LayerInfo


@click.command("inspect")
@model_options
@target_option
@click.option("--measure", is_flag=True, help="Measure each layer in every form it could take.")
@click.option("--all", "-a", "everything", is_flag=True, help="Also layers without arithmetic.")
@json_option("the layers")
@general_options
def command(
    model: str,
    factory: str | None,
    shapes: dict[str, tuple[int, ...]],
    fixed_inputs: dict[str, str],
    trust_pickle: bool,
    target: str,
    measure: bool,
    everything: bool,
    as_json: bool,
) -> None:
    """Show MODEL layer by layer: shape, multiply-accumulates, bytes, and what it could become."""
    from compress import api

    with shown_progress(silent=as_json) as progress:
        layers = api.inspect(
            model,
            target=target,
            measure=measure,
            factory=factory,
            shapes=shapes or None,
            fixed_inputs=fixed_inputs or None,
            trust_pickle=trust_pickle,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps([layer.model_dump(mode="json") for layer in layers], indent=2))
        return
    _show(layers, measure=measure, everything=everything)


def _show(layers: Sequence[LayerInfo], *, measure: bool, everything: bool) -> None:
    from compress.report import text
    from compress.report.screen import Screen

    shown = [x for x in layers if everything or x.macs or x.weight_bytes]
    forms = list(dict.fromkeys(form.form for layer in shown for form in layer.forms))
    rows = []
    for layer in shown:
        row = [
            layer.name,
            layer.kind,
            layer.shape,
            f"{layer.macs:,}",
            text.size(layer.weight_bytes),
        ]
        if measure:
            measured = {form.form: form.latency_us for form in layer.forms}
            row += [_latency(measured.get(form)) for form in forms]
        else:
            row.append(", ".join(form.form for form in layer.forms))
        rows.append(row)
    counted = ["MACs", "weights"]
    last = [f"{form}, us" for form in forms] if measure else ["could be"]
    screen = Screen()
    screen.table(
        ["layer", "kind", "output", *counted, *last],
        rows,
        numbers=[*counted, *(last if measure else [])],
    )
    screen.line()
    macs, total = sum(x.macs for x in layers), sum(x.weight_bytes for x in layers)
    hidden = len(layers) - len(shown)
    more = f"; {hidden} without arithmetic are shown with --all" if hidden else ""
    screen.line(f"{len(layers)} layers, {macs:,} MACs, {text.size(total)} of weights{more}")


def _latency(us: float | None) -> str:
    return "" if us is None else f"{us:.1f}"
