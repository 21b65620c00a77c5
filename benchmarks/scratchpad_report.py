"""The page of `benchmarks.scratchpad_baselines`: what is saved, and how averages are taken."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.environment import describe

KIB = 1024

BASELINES = ("default, Belady", "default, greedy", "least peak, Belady", "least peak, greedy")

EQUAL = "M_R = M_P"
"""The size of graphs whose largest operator decides about the least peak."""


@dataclass(frozen=True)
class Ours:
    """One run of the scheduler; bytes and seconds. `cpu_seconds` are those of all its threads and
    processes. `problems` is what the replay finds wrong."""

    extra_bytes: int
    bound: int
    status: str
    method: str
    peak: int
    packed: bool
    seconds: float
    cpu_seconds: float
    problems: tuple[str, ...]

    @property
    def gap(self) -> float:
        return 0.0 if self.extra_bytes <= self.bound else 1 - self.bound / self.extra_bytes


@dataclass(frozen=True)
class Row:
    """One graph on one scratchpad.

    Attributes:
        size: which one: "M_R", "M_H", "M_P", or "M_R = M_P".
        baselines: extra bytes, by name, as if everything could be placed.
        placed: the same with addresses, each tensor in the smallest hole that holds it.
        plain: ours on the graph without shares.
        shared: ours with shares; None where the graph has none.
    """

    name: str
    group: str
    operators: int
    compulsory_bytes: int
    size: str
    capacity: int
    baselines: Mapping[str, int]
    placed: Mapping[str, int]
    plain: Ours
    shared: Ours | None

    @property
    def best(self) -> Ours:
        """With shares where there are any."""
        return self.plain if self.shared is None else self.shared


@dataclass(frozen=True)
class Saved:
    """How many bytes less we move, as shares.

    Attributes:
        pairs: of graph and size where some baseline moves more than the compulsory bytes.
        proven: those of them in which no plan moves fewer bytes than ours.
        comparisons: such baselines of all pairs.
        mean: first over the baselines of a pair, then over the pairs; NaN if there are none.
        pooled: one less the ratio of the sums of bytes over all comparisons.
        over_best: mean over the pairs against the best baseline alone, where it moves any.
        lost: comparisons in which a baseline moves fewer bytes than we do.
    """

    pairs: int
    proven: int
    comparisons: int
    mean: float
    pooled: float
    over_best: float
    lost: int


def saved(
    rows: Iterable[Row],
    ours: Callable[[Row], Ours],
    names: Sequence[str] = BASELINES,
    *,
    placed: bool = False,
) -> Saved:
    """Against the named baselines, with or without addresses. One that needs nothing where we need
    nothing is no comparison; where we do need something it counts as lost, and is in the pooled
    figure alone."""
    means, best = [], []
    comparisons = lost = proven = bytes_ours = bytes_theirs = 0
    for row in rows:
        mine = ours(row).extra_bytes
        found = row.placed if placed else row.baselines
        theirs = [found[name] for name in names]
        lost += sum(mine > other for other in theirs)
        counted = [other for other in theirs if other or mine]
        bytes_ours += mine * len(counted)
        bytes_theirs += sum(counted)
        some = [other for other in theirs if other]
        comparisons += len(some)
        if some:
            means.append(statistics.fmean(1 - mine / other for other in some))
            proven += ours(row).status == "optimal"
        if min(theirs):
            best.append(1 - mine / min(theirs))
    return Saved(
        len(means),
        proven,
        comparisons,
        statistics.fmean(means) if means else float("nan"),
        1 - bytes_ours / bytes_theirs if bytes_theirs else float("nan"),
        statistics.fmean(best) if best else float("nan"),
        lost,
    )


def page(rows: Sequence[Row], seconds: float, threads: int) -> str:
    """All tables, as Markdown."""
    environment = describe()
    lines = [
        "# Whole-tensor scheduling against COSMA's baselines",
        "",
        f"{environment.date}, {environment.cpu}. Made by "
        "`python -m benchmarks.scratchpad_baselines`, where sizes and",
        f"baselines are described; {seconds:g} s and {threads} threads per plan. Bytes are those "
        "beyond the compulsory ones.",
        "",
        "## Bytes saved",
        "",
        *EXPLANATION,
        "",
        *_saved_table(rows),
        "",
        "By baseline, over all graphs and sizes:",
        "",
        *_baseline_table(rows),
        "",
        "## Bytes by graph and size (KiB)",
        "",
        *_traffic_table(rows),
        "",
        "The same baselines with addresses:",
        "",
        *_placed_table(rows),
        "",
        "## Our plans",
        "",
        "Bytes in KiB; CPU seconds are those of all threads and processes.",
        "",
        *_plan_table(rows),
    ]
    return "\n".join(lines) + "\n"


EXPLANATION = (
    "- mean: one less the ratio of our bytes to a baseline's, averaged over the four baselines of a"
    " graph and size, then",
    "  over graphs and sizes. A baseline that needs nothing where we need nothing is no comparison;"
    " one that needs nothing",
    '  where we need something would count under "lost".',
    "- proven: in how many of the pairs of graph and size no plan moves fewer bytes than ours.",
    "- sums: one less the ratio of the sums of bytes over all comparisons.",
    "- best: the mean against the best of the four alone, where that one needs anything.",
    '- placing: "ideal" baselines are counted as if everything could be placed, which no allocator'
    ' promises; "best fit" ones',
    "  have addresses: each tensor takes the smallest hole, and more leave until there is one. Ours"
    " always have addresses.",
    "- shares: whether ours may use that inputs lie inside outputs (sums in place, aliased"
    " concatenations); baselines do not.",
    "",
    "At M_P ours needs nothing by definition, so that every comparison there saves 100 %. Where M_R"
    " = M_P, one operator",
    "decides about the peak, and ideal baselines mostly need nothing either.",
)


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    line = "| " + " | ".join(titles) + " |"
    return [line, "|---" * len(titles) + "|", *("| " + " | ".join(row) + " |" for row in rows)]


WAYS: Mapping[str, Callable[[Row], Ours]] = {
    "without": lambda row: row.plain,
    "with": lambda row: row.best,
}
PLACING = {"ideal": False, "best fit": True}


def _saved_table(rows: Sequence[Row]) -> list[str]:
    groups = {"all": list(rows), "all but M_P": [row for row in rows if row.size != "M_P"]}
    for size in ("M_R", "M_H", "M_P", EQUAL):
        groups[f"at {size}"] = [row for row in rows if row.size == size]
    for group in dict.fromkeys(row.group for row in rows):
        groups[group] = [row for row in rows if row.group == group]
    titles = ("graphs and sizes", "placing", "shares", "pairs", "proven", "comparisons", "mean",
              "sums", "best", "lost")  # fmt: skip
    return _table(
        titles,
        (
            (name, placing, way, *_cells(saved(chosen, ours, placed=placed)))
            for name, chosen in groups.items()
            for placing, placed in PLACING.items()
            for way, ours in WAYS.items()
        ),
    )


def _baseline_table(rows: Sequence[Row]) -> list[str]:
    titles = ("baseline", "placing", "shares", "pairs", "mean", "sums", "lost")
    lines = []
    for baseline in BASELINES:
        for placing, placed in PLACING.items():
            for way, ours in WAYS.items():
                pairs, _, _, mean, sums, _, lost = _cells(
                    saved(rows, ours, (baseline,), placed=placed)
                )
                lines.append((baseline, placing, way, pairs, mean, sums, lost))
    return _table(titles, lines)


def _cells(found: Saved) -> tuple[str, ...]:
    return (
        str(found.pairs),
        str(found.proven),
        str(found.comparisons),
        _percent(found.mean),
        _percent(found.pooled),
        _percent(found.over_best),
        str(found.lost),
    )


def _traffic_table(rows: Sequence[Row]) -> list[str]:
    titles = ("graph", "operators", "compulsory", "size", "scratchpad", *BASELINES,
              "ours, no shares", "ours, shares", "saved, no shares", "saved, shares")  # fmt: skip
    return _table(
        titles,
        (
            (
                row.name,
                str(row.operators),
                _kib(row.compulsory_bytes),
                row.size,
                _kib(row.capacity),
                *(_kib(row.baselines[name]) for name in BASELINES),
                *_our_cells(row, placed=False),
            )
            for row in rows
        ),
    )


def _placed_table(rows: Sequence[Row]) -> list[str]:
    titles = ("graph", "size", *BASELINES,
              "ours, no shares", "ours, shares", "saved, no shares", "saved, shares")  # fmt: skip
    return _table(
        titles,
        (
            (
                row.name,
                row.size,
                *(_kib(row.placed[name]) for name in BASELINES),
                *_our_cells(row, placed=True),
            )
            for row in rows
        ),
    )


def _our_cells(row: Row, *, placed: bool) -> tuple[str, ...]:
    without = saved([row], lambda r: r.plain, placed=placed).mean
    shared = saved([row], lambda r: r.best, placed=placed).mean
    return (
        _kib(row.plain.extra_bytes),
        "" if row.shared is None else _kib(row.shared.extra_bytes),
        _percent(without),
        "" if row.shared is None else _percent(shared),
    )


def _plan_table(rows: Sequence[Row]) -> list[str]:
    titles = ("graph", "size", "shares", "value", "bound", "gap", "status", "method", "peak",
              "addresses", "seconds", "CPU seconds", "replay")  # fmt: skip
    lines = []
    for row in rows:
        for way, run in (("without", row.plain), ("with", row.shared)):
            if run is None:
                continue
            lines.append(
                [
                    row.name,
                    row.size,
                    way,
                    _kib(run.extra_bytes),
                    _kib(run.bound),
                    f"{run.gap:.1%}",
                    run.status,
                    run.method,
                    _kib(run.peak),
                    "yes" if run.packed else "no",
                    f"{run.seconds:.1f}",
                    f"{run.cpu_seconds:.1f}",
                    "; ".join(run.problems) or "ok",
                ]
            )
    return _table(titles, lines)


def _kib(count: int) -> str:
    return f"{count / KIB:.2f}".rstrip("0").rstrip(".")


def _percent(share: float) -> str:
    return "" if share != share else f"{share:.1%}"
