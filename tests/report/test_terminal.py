"""The story of a run in a terminal, and in a pipe."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from compress.report.schema import Plan, Report
from compress.report.screen import Screen
from compress.report.terminal import show


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def shown(report: Report, plan: Plan, file: io.StringIO, verbose: bool = False) -> list[str]:
    show(report, plan, folder=Path("out"), verbose=verbose, file=file)
    return file.getvalue().splitlines()


def test_a_pipe_gets_plain_lines(report: Report, plan: Plan) -> None:
    lines = shown(report, plan, io.StringIO())
    text = "\n".join(lines)
    assert "\x1b" not in text
    assert text.isascii(), "no lines around tables"
    assert all(line == line.rstrip() for line in lines)
    shipped = next(line for line in lines if line.startswith("quantized 1 "))
    assert shipped.split()[2:8] == ["0.161", "ms", "1.67x", "201", "KB", "0.9405"]
    assert shipped.endswith(report.candidates[1].verdict)


def test_everything_that_matters_is_said(report: Report, plan: Plan) -> None:
    text = "\n".join(shown(report, plan, io.StringIO()))
    for words in (
        report.outcome,
        "1.67x as fast (1.60-1.72)",
        "after (measured)",
        "-0.37 % (allowed: 0.9346)",
        "4 int8, 3 float",
        "node_depthwiseconv_2, node_gemm_6: int8 is slower here",
        f"warning: {report.warnings[0]}",
        "report: out/report.html",
    ):
        assert words in text


def test_structures_that_were_tried_are_shown(
    restructured: tuple[Report, Plan], report: Report, plan: Plan
) -> None:
    lines = shown(*restructured, io.StringIO())
    assert "structures tried: 3, trained for 2 min 10 s" in lines
    assert "\n".join(lines).isascii()
    rows = [line for line in lines if line.startswith("structure 1") and "->" in line]
    assert [" ".join(row.split()) for row in rows] == [
        "structure 1-1 2 layers to 1 0.13 -> 0.034 0.9130 ~0.210 ms 20 s "
        "given up after a first look",
        "structure 1-2 3 layers to 1, 1 layer dropped, 1 group narrowed 0.62 -> 0.28 "
        "0.9310 ~0.180 ms 19 s trained in full",
        "structure 1 in full 3 layers to 1, 1 layer dropped, 1 group narrowed "
        "0.28 -> 0.019 0.9405 0.161 ms 90 s shipped",
    ]
    assert "structures" not in "\n".join(shown(report, plan, io.StringIO()))


def test_many_structures_are_few_lines(restructured: tuple[Report, Plan]) -> None:
    report, plan = restructured
    looks = [plan.recoveries[0].model_copy(update={"name": f"look {i}"}) for i in range(9)]
    full = plan.model_copy(update={"recoveries": [*looks, plan.recoveries[-1]]})
    lines = shown(report, full, io.StringIO())
    assert sum(line.startswith("look ") for line in lines) == 2
    assert any(line.startswith("structure 1 in full") for line in lines), "the shipped one is shown"
    assert "and 7 more in the report" in lines
    everything = "\n".join(shown(report, full, io.StringIO(), verbose=True))
    assert all(f"look {i}" in everything for i in range(9))


def test_it_fits_one_screen(report: Report, plan: Plan) -> None:
    many = [
        report.candidates[1].model_copy(update={"name": f"number {i}", "shipped": i == 19})
        for i in range(20)
    ]
    reasons = [
        plan.layers[6].model_copy(update={"name": f"layer {i}", "why": f"reason {i % 10}"})
        for i in range(300)
    ]
    full = report.model_copy(update={"candidates": many})
    lines = shown(full, plan.model_copy(update={"layers": reasons}), io.StringIO())
    assert len(lines) <= 30
    text = "\n".join(lines)
    assert "number 19" in text, "the shipped one is always among those shown"
    assert "and 14 more in the report" in text
    assert "and 27 more" in text
    assert "and 6 more reasons" in text
    everything = "\n".join(
        shown(full, plan.model_copy(update={"layers": reasons}), io.StringIO(), verbose=True)
    )
    assert all(f"number {i}" in everything for i in range(20))
    assert all(f"layer {i}" in everything for i in range(300))


def test_it_fits_one_screen_with_structures(restructured: tuple[Report, Plan]) -> None:
    report, plan = restructured
    many = [report.candidates[2].model_copy(update={"name": f"number {i}"}) for i in range(20)]
    reasons = [plan.layers[6].model_copy(update={"why": f"reason {i}"}) for i in range(10)]
    tried = [plan.recoveries[i % 2] for i in range(20)]
    full = plan.model_copy(update={"layers": reasons, "recoveries": tried})
    lines = shown(report.model_copy(update={"candidates": many}), full, io.StringIO())
    assert len(lines) <= 30


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_terminal_gets_colour_within_its_width(
    restructured: tuple[Report, Plan], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.text import Text

    report, plan = restructured

    monkeypatch.setenv("COLUMNS", str(columns))
    lines = shown(report, plan, Terminal())
    assert any("\x1b[1;32m" in line for line in lines)
    assert max(Text.from_ansi(line).cell_len for line in lines) <= columns


def test_no_color_is_respected(report: Report, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = "\n".join(shown(report, plan, Terminal()))
    assert "[32m" not in text
    assert ";32m" not in text


def test_names_cannot_act_on_the_terminal(report: Report, plan: Plan) -> None:
    hostile = "[red]x\x1b[2J\x07[/red]"
    model = report.model.model_copy(update={"source": hostile})
    layer = plan.layers[6].model_copy(update={"name": hostile})
    text = "\n".join(
        shown(
            report.model_copy(update={"model": model}),
            plan.model_copy(update={"layers": [layer]}),
            io.StringIO(),
            verbose=True,
        )
    )
    assert text.count("[red]x\\x1b[2J\\x07[/red]") == 3
    assert "\x1b" not in text


def test_an_empty_table_is_its_heading() -> None:
    file = io.StringIO()
    Screen(file).table(["layer", "macs"], [], numbers=["macs"])
    assert file.getvalue() == "layer  macs\n"
