"""What is worth saying first about a run: plain values, for the terminal and the page."""

from __future__ import annotations

import dataclasses

from compress.report import text
from compress.report.memory_plan import MemoryPlan
from compress.report.schema import Candidate, LayerPlan, Plan, Quality, Report


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the headline: a property before and after, and what became of it."""

    label: str
    before: str
    after: str
    change: str
    better: bool | None = None
    """Whether the change is one that the user wants; None: neither."""


@dataclasses.dataclass(frozen=True)
class KeptFloat:
    """Layers that stayed float for the same reason, the slowest first."""

    why: str
    layers: tuple[LayerPlan, ...]


def headline(report: Report) -> list[Row]:
    """Latency, size and quality of the model as given and of what was shipped."""
    before, after = report.before, report.after
    rows = [
        Row(
            "latency",
            latency(before),
            latency(after),
            text.speedup(after.speedup) if after.speedup else "",
            None if after.speedup is None else _better(after.speedup.low, after.speedup.high),
        ),
        Row(
            "size",
            text.size(before.size_bytes),
            text.size(after.size_bytes),
            _size_change(before.size_bytes, after.size_bytes),
            _size_better(before.size_bytes, after.size_bytes),
        ),
    ]
    if after.quality is not None:
        quality = after.quality
        rows.append(
            Row(
                f"quality, {quality.metric}",
                text.figures(quality.reference, 4),
                text.figures(quality.value, 4),
                quality_change(quality),
                _quality_better(quality),
            )
        )
    return rows


def latency(candidate: Candidate) -> str:
    """Median and spread, and whether it was only predicted; "" if nothing is known."""
    if candidate.latency is not None and candidate.latency.kind == "measured":
        return text.latency(candidate.latency)
    if candidate.latency is not None:
        return f"{text.latency(candidate.latency)} predicted"
    if candidate.predicted_us is not None:
        return f"{text.milliseconds(candidate.predicted_us / 1000)} predicted"
    return ""


def quality_change(quality: Quality) -> str:
    """The drop, and what was allowed: "-0.21 % (allowed: 0.9346)"."""
    if quality.drop == 0:
        change = "unchanged"
    elif quality.relative_drop is not None:
        change = f"{-quality.relative_drop * 100:+.2f} %"
    else:
        change = f"{-quality.drop:+.4g}"
    if quality.allowed is None:
        return change
    return f"{change} (allowed: {text.figures(quality.allowed, 4)})"


def fidelity(candidate: Candidate) -> str:
    """How close the outputs are to those of the model as given; "" if that was not measured."""
    found = candidate.fidelity
    if found is None:
        return ""
    if found.distortion == 0 and found.decision_agreement in (None, 1.0):
        return "equal to those of the model as given"
    parts = [f"distortion {text.figures(found.distortion)}"]
    if found.sqnr_db is not None:
        parts.append(f"SQNR {text.figures(found.sqnr_db)} dB")
    if found.decision_agreement is not None:
        parts.append(f"{text.percent(found.decision_agreement)} equal decisions")
    return ", ".join(parts)


def forms(candidate: Candidate) -> str:
    """How many layers are in which form: "20 int8, 3 float"."""
    counted = sorted(candidate.forms.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {text.printable(form)}" for form, count in counted if count)


def kept_float(plan: Plan) -> list[KeptFloat]:
    """The layers with arithmetic that stayed float, by reason; the costliest reason first."""
    by_reason: dict[str, list[LayerPlan]] = {}
    for layer in plan.layers:
        if layer.macs > 0 and is_float(layer):
            by_reason.setdefault(layer.why, []).append(layer)
    groups = [
        KeptFloat(why, tuple(sorted(layers, key=_float_us, reverse=True)))
        for why, layers in by_reason.items()
    ]
    return sorted(groups, key=lambda group: -sum(map(_float_us, group.layers)))


def is_float(layer: LayerPlan) -> bool:
    """Whether the layer was left as it was given."""
    return layer.chosen.partition(":")[0] == "float"


def chosen_us(layer: LayerPlan) -> float | None:
    """The latency of the chosen option, boundaries excluded."""
    for option in layer.options:
        if f"{option.technique}:{option.form}" == layer.chosen:
            return option.latency_us
    return None


def _float_us(layer: LayerPlan) -> float:
    return next((o.latency_us for o in layer.options if o.technique == "float"), 0.0)


def _size_change(before: int, after: int) -> str:
    if before == after or not before or not after:
        return ""
    if after < before:
        return f"{before / after:.2f}x smaller"
    return f"{after / before:.2f}x larger"


def _size_better(before: int, after: int) -> bool | None:
    return None if before == after or not before or not after else after < before


def _quality_better(quality: Quality) -> bool | None:
    """A drop within the budget is what was asked for, neither better nor worse."""
    if quality.drop <= 0:
        return quality.drop < 0 or None
    within = quality.allowed is not None and quality.value >= quality.allowed
    return None if within else False


def _better(low: float, high: float) -> bool | None:
    """Of a ratio's spread: clearly above one, clearly below one, or neither."""
    return True if low > 1 else False if high < 1 else None


def scratchpad(plan: MemoryPlan) -> str:
    """What a memory plan moves, and how good that is, in one line."""
    kind = "layers in stripes" if plan.tiled else "whole tensors"
    return (
        f"{text.binary_size(plan.scratchpad_bytes)} of scratchpad, {kind}: "
        f"{text.size(plan.traffic.total_bytes)} on and off the chip, "
        f"{text.size(plan.traffic.extra_bytes)} of them extra ({_quality(plan)})"
    )


def _quality(plan: MemoryPlan) -> str:
    if plan.traffic.extra_bytes == 0:
        return "no plan needs less"
    if plan.status == "optimal":
        return "proven optimal for whole tensors"
    if plan.traffic.bound_bytes:
        return f"within {plan.traffic.gap:.1%} of the proven bound"
    return "no bound is known"
