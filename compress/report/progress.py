"""Progress on standard error: bars with the time left, or plain lines where nobody watches.

No thread runs beside a step of known length: such steps measure latencies, and a bar that redraws
itself meanwhile would be measured with them. They are redrawn when they advance.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import IO, Any

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from compress.progress import Advance
from compress.report.text import duration, printable

SHOWN_AFTER_S = 0.7
"""Steps shorter than this leave no trace."""
REPORTED_AFTER_S = 2.0
"""Steps longer than this are told with their time when they end."""
REDRAWN_EVERY_S = 0.1
TICKS_EVERY_S = 0.5
LINES_EVERY_S = 10.0


@contextlib.contextmanager
def on_stream(stream: IO[str] | None = None) -> Iterator[TerminalProgress | LineProgress]:
    """Progress for this stream (default: standard error), cleared away at the end."""
    console = Console(file=stream or sys.stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield LineProgress(console.file)
        return
    shown = TerminalProgress(console)
    with shown:
        yield shown


class LineProgress:
    """Plain lines: a step's name when it begins, news every ten seconds, its time at the end."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._depth = 0

    @contextlib.contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Advance]:
        started = told = time.monotonic()
        done = 0
        if self._depth == 0:
            self._write(title)

        def advance() -> None:
            nonlocal done, told
            done += 1
            now = time.monotonic()
            if total and now - told >= LINES_EVERY_S:
                told = now
                left = (now - started) / done * max(0, total - done)
                self._write(f"{title}: {done} of {total}, about {duration(left)} left")

        self._depth += 1
        try:
            yield advance
        finally:
            self._depth -= 1
        seconds = time.monotonic() - started
        if seconds >= REPORTED_AFTER_S:
            self._write(f"{title}: {duration(seconds)}")

    def note(self, text: str) -> None:
        self._write(text)

    def _write(self, text: str) -> None:
        self._file.write(printable(text) + "\n")
        self._file.flush()


class TerminalProgress:
    """Bars at the bottom of a terminal, while it is used as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = _LongSteps(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            _Bar(),
            _Counted(),
            _Times(),
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._open: list[int | None] = []
        self._drawn = 0.0

    def __enter__(self) -> TerminalProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    @contextlib.contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Advance]:
        title = printable(title)
        task = self._bars.add_task(title, total=total)
        self._open.append(total)
        started = time.monotonic()
        self._redraw()
        try:
            with self._ticking() if total is None else contextlib.nullcontext():
                yield lambda: self._advance(task)
        finally:
            self._open.pop()
            self._bars.remove_task(task)
            self._bars.refresh()
        seconds = time.monotonic() - started
        if seconds >= REPORTED_AFTER_S:
            self._console.print(Text(f"{title}: {duration(seconds)}", style="dim"))

    def note(self, text: str) -> None:
        self._console.print(Text(printable(text)))

    def _advance(self, task: Any) -> None:
        self._bars.advance(task)
        self._redraw()

    def _redraw(self) -> None:
        now = time.monotonic()
        if now - self._drawn >= REDRAWN_EVERY_S:
            self._drawn = now
            self._bars.refresh()

    @contextlib.contextmanager
    def _ticking(self) -> Iterator[None]:
        """Redraw now and then while a step of unknown length is the innermost one."""
        stop = threading.Event()

        def tick() -> None:
            while not stop.wait(TICKS_EVERY_S):
                if self._open and self._open[-1] is None:
                    self._bars.refresh()

        thread = threading.Thread(target=tick, name="compress-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


class _LongSteps(Progress):
    """Bars of the steps that have lasted long enough to be worth one."""

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        return super().make_tasks_table([t for t in tasks if (t.elapsed or 0) >= SHOWN_AFTER_S])


class _Bar(ProgressColumn):
    """A bar, or nothing where the number of parts is unknown."""

    _bar = BarColumn(bar_width=28)

    def render(self, task: Task) -> RenderableType:
        return Text() if task.total is None else self._bar.render(task)


class _Counted(ProgressColumn):
    """Parts done of all parts, or nothing where their number is unknown."""

    _both = MofNCompleteColumn()

    def render(self, task: Task) -> Text:
        return Text() if task.total is None else self._both.render(task)


class _Times(ProgressColumn):
    """The time left, or the time that passed where nobody knows how much there is to do."""

    max_refresh = None
    _left = TimeRemainingColumn()
    _passed = TimeElapsedColumn()

    def render(self, task: Task) -> Text:
        if task.total is None:
            return self._passed.render(task)
        return Text.assemble(self._left.render(task), " left")
