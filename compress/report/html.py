"""report.html: the story of a run as one page that needs nothing but a browser."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib.resources
from typing import Any

from compress.report import recoveries, summary, text
from compress.report.memory_plan import MemoryPlan
from compress.report.scatter import scatter
from compress.report.schema import LayerPlan, Plan, Report
from compress.report.scratchpad_picture import picture

PAGE_FILE = "report.html"


@dataclasses.dataclass(frozen=True)
class _LayerRow:
    """A layer as its line in the table shows it."""

    plan: LayerPlan
    form: str
    changed: bool
    latency_us: float | None
    float_us: float | None
    distortion: float | None
    share: float
    """Of the time of the slowest layer's float form, for the bar."""


def render(report: Report, plan: Plan, memory: MemoryPlan | None = None) -> str:
    """The page. Names from the model are shown as text, whatever they contain.

    Args:
        memory: of the scratchpad, where the device has one.
    """
    import jinja2
    import markupsafe

    def shown(value: Any) -> Any:
        plain = isinstance(value, str) and not isinstance(value, markupsafe.Markup)
        return text.printable(value) if plain else value

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        ms=lambda us: text.milliseconds(us / 1000),
        figures=text.figures,
        size=text.size,
        binary_size=text.binary_size,
        percent=text.percent,
        duration=text.duration,
        count=lambda number: f"{number:,}",
    )
    style, script = _template("report.css"), _template("report.js")
    return environment.get_template(PAGE_FILE).render(
        report=report,
        plan=plan,
        headline=summary.headline(report),
        forms=summary.forms(report.after),
        fidelity=summary.fidelity,
        latency=summary.latency,
        picture=scatter(plan.frontier, report.candidates),
        tried=recoveries.tried(plan.recoveries, report.candidates),
        trained_s=sum(recovery.seconds for recovery in plan.recoveries),
        layers=_layer_rows(plan),
        kept=summary.kept_float(plan),
        total_s=sum(step.seconds for step in report.steps),
        memory=memory,
        scratchpad=None if memory is None else markupsafe.Markup(picture(memory)),
        style=markupsafe.Markup(style),
        script=markupsafe.Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _layer_rows(plan: Plan) -> list[_LayerRow]:
    rows = []
    slowest = max((o.latency_us for layer in plan.layers for o in layer.options), default=0.0)
    for layer in plan.layers:
        chosen = [o for o in layer.options if f"{o.technique}:{o.form}" == layer.chosen]
        floats = [o.latency_us for o in layer.options if o.technique == "float"]
        latency = chosen[0].latency_us if chosen else None
        rows.append(
            _LayerRow(
                plan=layer,
                form=layer.chosen.partition(":")[2] or layer.chosen,
                changed=not summary.is_float(layer),
                latency_us=latency,
                float_us=floats[0] if floats else None,
                distortion=chosen[0].distortion if chosen else None,
                share=(latency or 0.0) / slowest if slowest else 0.0,
            )
        )
    return rows


def _template(name: str) -> str:
    folder = importlib.resources.files("compress.report") / "templates"
    return (folder / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    """What the page's content security policy knows its own script and style by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
