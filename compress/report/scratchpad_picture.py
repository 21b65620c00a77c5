"""memory_plan.svg: the scratchpad over time, address by step, coloured by tensor."""

from __future__ import annotations

import colorsys
import hashlib
import html
from collections.abc import Iterator

from compress.report import text
from compress.report.memory_plan import BufferRecord, MemoryPlan

WIDTH, HEIGHT = 1200, 560
LEFT, RIGHT, TOP, BOTTOM = 84, 20, 34, 64
"""Margins around the area of addresses and steps."""
TICKS = 4
"""Parts that the axes are divided into."""
LABEL_WIDTH, LABEL_HEIGHT = 7.0, 12.0
"""Of a letter: names stand only where they fit."""


def picture(plan: MemoryPlan) -> str:
    """The plan as an SVG document: buffers as boxes, loads and stores as marks below.

    Each box has its name, address, size and steps as a tooltip. Names come from foreign models and
    are escaped; the same plan gives the same bytes.
    """
    return "".join(f"{line}\n" for line in _Drawing(plan).lines())


class _Drawing:
    def __init__(self, plan: MemoryPlan) -> None:
        self.plan = plan
        self.steps = max(1, len(plan.steps))
        self.across = (WIDTH - LEFT - RIGHT) / self.steps
        self.upward = (HEIGHT - TOP - BOTTOM) / max(1, plan.scratchpad_bytes)

    def x(self, step: int) -> float:
        return round(LEFT + step * self.across, 2)

    def y(self, address: int) -> float:
        return round(HEIGHT - BOTTOM - address * self.upward, 2)

    def lines(self) -> Iterator[str]:
        title = f"{text.binary_size(self.plan.scratchpad_bytes)} of scratchpad"
        if self.plan.advisory:
            title += " (advisory: the memory is a cache)"
        title += (
            f", {text.binary_size(self.plan.bounds.peak_bytes)} used, "
            f"{text.size(self.plan.traffic.total_bytes)} on and off the chip, "
            f"{text.size(self.plan.traffic.extra_bytes)} of them extra"
        )
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="12" role="img">'
        )
        yield f"<title>{_escaped(title)}</title>"
        yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
        yield f'<text x="{LEFT}" y="20" fill="#222222">{_escaped(title)}</text>'
        yield from self._axes()
        for buffer in self.plan.buffers:
            yield from self._box(buffer)
        yield from self._moves()
        yield "</svg>"

    def _axes(self) -> Iterator[str]:
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        yield (
            f'<rect x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}" '
            'fill="#f6f6f6" stroke="#888888"/>'
        )
        for part in range(TICKS + 1):
            address = self.plan.scratchpad_bytes * part // TICKS
            yield (
                f'<text x="{LEFT - 6}" y="{self.y(address) + 4}" text-anchor="end" '
                f'fill="#444444">{text.binary_size(address)}</text>'
            )
            step = self.steps * part // TICKS
            yield (
                f'<text x="{self.x(step)}" y="{bottom + 44}" text-anchor="middle" '
                f'fill="#444444">{step}</text>'
            )
        yield f'<text x="{right}" y="{HEIGHT - 6}" text-anchor="end" fill="#444444">step</text>'

    def _box(self, buffer: BufferRecord) -> Iterator[str]:
        x, top = self.x(buffer.first_step), self.y(buffer.address + buffer.bytes)
        width = round(self.x(buffer.last_step + 1) - x, 2)
        height = round(self.y(buffer.address) - top, 2)
        rows = f", {buffer.rows} rows in turn" if buffer.layout == "rows" else ""
        label = (
            f"{buffer.name}: {text.binary_size(buffer.bytes)} at {buffer.address}{rows}, "
            f"steps {buffer.first_step} to {buffer.last_step}"
        )
        dashed = ' stroke-dasharray="3 2"' if buffer.layout == "rows" else ""
        yield (
            f'<rect x="{x}" y="{top}" width="{width}" height="{height}" '
            f'fill="{colour(buffer.tensor)}" fill-opacity="0.75" stroke="#333333" '
            f'stroke-width="0.5"{dashed}><title>{_escaped(label)}</title></rect>'
        )
        room = int((width - 4) / LABEL_WIDTH)
        if room >= 3 and height >= LABEL_HEIGHT:
            shown = _escaped(text.shortened(buffer.tensor or buffer.name, room))
            yield (
                f'<text x="{round(x + 3, 2)}" y="{round(top + height / 2 + 4, 2)}" '
                f'fill="#111111" pointer-events="none">{shown}</text>'
            )

    def _moves(self) -> Iterator[str]:
        """Triangles below the picture: up is a load, down a store; red ones are extra."""
        bottom = HEIGHT - BOTTOM
        half = round(min(5.0, max(1.0, self.across / 2)), 2)
        tensors = {buffer.name: buffer.tensor for buffer in self.plan.buffers}
        for number, step in enumerate(self.plan.steps):
            if not step.bytes:
                continue
            middle = round(LEFT + (number + 0.5) * self.across, 2)
            low, high = (
                (bottom + 14, bottom + 4)
                if step.kind != "store"
                else (
                    bottom + 18,
                    bottom + 28,
                )
            )
            names = step.outputs if step.kind == "load" else step.inputs
            what = "weights of " + step.operator if step.kind == "compute" else tensors[names[0]]
            verb = "store" if step.kind == "store" else "load"
            extra = "" if step.compulsory else ", extra"
            label = f"step {number}: {verb} {text.size(step.bytes)} of {what}{extra}"
            fill = "#2a6f4e" if step.compulsory else "#c0392b"
            points = f"{middle - half},{low} {middle + half},{low} {middle},{high}"
            yield (
                f'<polygon points="{points}" fill="{fill}">'
                f"<title>{_escaped(label)}</title></polygon>"
            )
        for word, y in (("load", bottom + 14), ("store", bottom + 28)):
            yield f'<text x="{LEFT - 6}" y="{y}" text-anchor="end" fill="#444444">{word}</text>'


def colour(name: str) -> str:
    """A colour that belongs to a name: light enough for dark letters on it."""
    if not name:
        return "#bbbbbb"
    hue = int.from_bytes(hashlib.sha256(name.encode("utf-8", "replace")).digest()[:4]) % 360
    parts = colorsys.hls_to_rgb(hue / 360, 0.68, 0.55)
    return "#" + "".join(f"{round(part * 255):02x}" for part in parts)


def _escaped(words: str) -> str:
    return html.escape(text.printable(words), quote=True)
