"""Progress: bars for people, lines for logs, and no threads beside what is measured."""

from __future__ import annotations

import io
import threading
import time

import pytest

from compress.progress import Progress
from compress.report import progress
from compress.report.progress import LineProgress, on_stream


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return Terminal()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still unless its only element is changed."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_hears_of_long_steps_only_once_in_a_while(clock: list[float]) -> None:
    file = io.StringIO()
    shown: Progress = LineProgress(file)
    with shown.step("measuring", total=100) as advance:
        for _ in range(30):
            clock[0] += 1
            advance()
        with shown.step("inner", total=2) as inner:
            inner()
    assert file.getvalue().splitlines() == [
        "measuring",
        "measuring: 10 of 100, about 1 min 30 s left",
        "measuring: 20 of 100, about 1 min 20 s left",
        "measuring: 30 of 100, about 1 min 10 s left",
        "measuring: 30.0 s",
    ]


def test_a_log_hears_of_short_steps_once(clock: list[float]) -> None:
    file = io.StringIO()
    with LineProgress(file).step("loading"):
        clock[0] += 0.5
    assert file.getvalue() == "loading\n"


def test_streams_that_are_no_terminals_get_lines() -> None:
    file = io.StringIO()
    with on_stream(file) as shown:
        shown.note("first\x1b[2J")
        with shown.step("loading"):
            pass
    assert file.getvalue() == "first\\x1b[2J\nloading\n"


def test_a_long_step_gets_a_bar_with_the_time_left(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SHOWN_AFTER_S", 0.0)
    monkeypatch.setattr(progress, "REDRAWN_EVERY_S", 0.0)
    monkeypatch.setattr(progress, "REPORTED_AFTER_S", 0.02)
    with on_stream(terminal) as shown, shown.step("measuring [red]", total=4) as advance:
        for _ in range(3):
            time.sleep(0.01)
            advance()
    text = terminal.getvalue()
    assert "measuring [red]" in text
    assert "3/4" in text
    assert "left" in text
    assert "measuring [red]: 0.0" in text, "how long it took remains"
    assert "3/4" not in text[text.index("measuring [red]: 0.0") :], "the bar does not"


def test_a_short_step_leaves_no_trace(terminal: Terminal) -> None:
    with on_stream(terminal) as shown, shown.step("loading", total=2) as advance:
        advance()
        advance()
    assert "loading" not in terminal.getvalue()


def test_no_thread_runs_beside_a_step_of_known_length(terminal: Terminal) -> None:
    before = threading.active_count()
    with on_stream(terminal) as shown, shown.step("measuring", total=10) as advance:
        advance()
        assert threading.active_count() == before


def test_a_step_of_unknown_length_shows_that_it_is_alive(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SHOWN_AFTER_S", 0.0)
    monkeypatch.setattr(progress, "TICKS_EVERY_S", 0.01)
    before = threading.active_count()
    with on_stream(terminal) as shown, shown.step("solving"):
        drawn = len(terminal.getvalue())
        deadline = time.monotonic() + 5
        while len(terminal.getvalue()) == drawn and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(terminal.getvalue()) > drawn
    assert threading.active_count() == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_gives_the_terminal_back(terminal: Terminal, error: type[BaseException]) -> None:
    before = threading.active_count()
    with pytest.raises(error), on_stream(terminal) as shown, shown.step("solving"):
        raise error
    assert threading.active_count() == before
    assert "\x1b[?25h" in terminal.getvalue(), "the cursor is visible again"
