"""Lines and tables for people at a terminal, and the same as plain text for whatever else reads."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import IO, Literal

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from compress.report.text import printable

PIPE_WIDTH = 1000
"""Columns of output that is not a terminal: nothing is wrapped or cut off."""

Cell = str | tuple[str, str]
"""Text, or text and a style. The text is shown as it is: no markup, no escape sequences."""


class Screen:
    """Prints to one stream.

    Colour, lines around tables and wrapping are for terminals only; NO_COLOR and the terminal's
    width are respected.
    """

    def __init__(self, file: IO[str] | None = None) -> None:
        self._console = Console(file=file, highlight=False, markup=False, emoji=False)
        self.interactive = self._console.is_terminal and not self._console.is_dumb_terminal

    def line(self, *cells: Cell) -> None:
        """One line of text; without cells an empty one."""
        self._print(Text.assemble(*map(_text, cells)))

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[Cell]],
        *,
        title: str = "",
        numbers: Sequence[str] = (),
    ) -> None:
        """A table; the columns in `numbers` are aligned to the right."""
        if title:
            self.line((title, "bold"))
        made = Table(
            box=box.SIMPLE_HEAD if self.interactive else None,
            padding=(0, 1) if self.interactive else (0, 2, 0, 0),
            header_style="bold",
            show_edge=False,
            show_header=any(columns),
        )
        for column in columns:
            right = column in numbers
            side: Literal["right", "left"] = "right" if right else "left"
            made.add_column(column, justify=side, no_wrap=right, overflow="fold")
        for row in rows:
            made.add_row(*map(_text, row))
        self._print(made)

    def _print(self, what: RenderableType) -> None:
        if self.interactive:
            self._console.print(what)
            return
        plain = io.StringIO()
        Console(file=plain, width=PIPE_WIDTH, color_system=None, force_terminal=False).print(what)
        lines = plain.getvalue().splitlines()
        self._console.file.write("".join(line.rstrip() + "\n" for line in lines))


def _text(cell: Cell) -> Text:
    words, style = (cell, "") if isinstance(cell, str) else cell
    return Text(printable(words), style=style)
