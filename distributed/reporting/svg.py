"""Small charts as SVG whose colours are the page's: they follow its light and dark mode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 20, 14, 42


@dataclass(frozen=True)
class Axis:
    """
    Attributes:
        low, high: the ends; of a logarithmic axis both above 0.
        title: what it shows.
        ticks: value and text of each mark.
    """

    low: float
    high: float
    title: str
    ticks: tuple[tuple[float, str], ...]
    is_log: bool = False

    @staticmethod
    def share(title: str, high: float = 1.0) -> Axis:
        """From 0 to 100%, or to the round number above ``high``."""
        top = next(one for one in (0.1, 0.2, 0.4, 0.6, 0.8, 1.0) if one >= min(high, 1.0))
        step = top / 5 if top not in (0.4, 0.8) else top / 4
        marks = [place * step for place in range(round(top / step) + 1)]
        return Axis(0.0, top, title, tuple((mark, f"{mark:.0%}") for mark in marks))

    @staticmethod
    def counted(title: str, values: Sequence[float]) -> Axis:
        """From the least to the greatest of whole numbers, with round marks."""
        low, high = min(values), max(values)
        high = high if high > low else low + 1
        step = _round_step((high - low) / 4)
        marks = [m * step for m in range(math.ceil(low / step), math.floor(high / step) + 1)]
        return Axis(low, high, title, tuple((mark, f"{mark:,.0f}") for mark in marks))

    @staticmethod
    def positive(title: str, values: Sequence[float]) -> Axis:
        """From 0, or logarithmic where values differ by more than 20 times."""
        kept = [value for value in values if value > 0]
        low, high = (min(kept), max(kept)) if kept else (0.0, 1.0)
        if not kept or high / low <= 20:
            step = _round_step(high / 4)
            marks = [m * step for m in range(math.floor(high * 1.05 / step) + 1)]
            return Axis(0.0, high * 1.08, title, tuple((mark, f"{mark:g}") for mark in marks))
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        marks = [m * 10.0**power for power in powers for m in (1, 2, 5)]
        marks = [mark for mark in marks if low <= mark <= high * 1.1]
        if len(marks) > 7:
            marks = [10.0**power for power in powers if low <= 10.0**power <= high * 1.1]
        return Axis(
            low * 0.9, high * 1.15, title, tuple((mark, f"{mark:,g}") for mark in marks), True
        )

    def at(self, value: float) -> float:
        """Where on the axis, from 0 to 1."""
        if self.is_log:
            value = max(value, self.low)
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass
class Chart:
    """Draws in the order in which it is told; ``svg`` gives the text.

    Args:
        name: what it shows, for who cannot see it.
    """

    name: str
    x: Axis
    y: Axis
    height: int = HEIGHT
    parts: list[str] = field(default_factory=list)

    def place(self, x: float, y: float) -> tuple[float, float]:
        wide, high = WIDTH - _LEFT - _RIGHT, self.height - _TOP - _BOTTOM
        return _LEFT + wide * self.x.at(x), self.height - _BOTTOM - high * self.y.at(y)

    def line(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        places = " ".join("{:.1f},{:.1f}".format(*self.place(*point)) for point in points)
        self.parts.append(f'<polyline class="{kind}" points="{places}"/>')

    def dot(
        self, x: float, y: float, kind: str, said: str, shape: str = "circle", size: float = 4.5
    ) -> None:
        """A mark that says something when it is pointed at."""
        left, top = self.place(x, y)
        drawn = {
            "circle": f'<circle cx="{left:.1f}" cy="{top:.1f}" r="{size}"/>',
            "square": f'<path d="M{left - size:.1f} {top - size:.1f}h{2 * size}v{2 * size}h{-2 * size}z"/>',
            "triangle": f'<path d="M{left:.1f} {top - 1.3 * size:.1f}l{1.2 * size} {2.2 * size}'
            f'h{-2.4 * size}z"/>',
            "diamond": f'<path d="M{left:.1f} {top - 1.4 * size:.1f}l{1.4 * size} {1.4 * size}'
            f'l{-1.4 * size} {1.4 * size}l{-1.4 * size} {-1.4 * size}z"/>',
        }[shape]
        self.parts.append(f'<g class="{kind}"><title>{escape(said)}</title>{drawn}</g>')

    def bar(self, low: float, high: float, y: float, kind: str, said: str) -> None:
        """From the axis up to ``y``."""
        left, top = self.place(low, y)
        right, bottom = self.place(high, self.y.low)
        self.parts.append(
            f'<rect class="{kind}" x="{left + 1:.1f}" y="{top:.1f}" width="{max(1, right - left - 2):.1f}" '
            f'height="{max(0, bottom - top):.1f}"><title>{escape(said)}</title></rect>'
        )

    def text(
        self, x: float, y: float, said: str, dx: float = 7, dy: float = 4, end: str = "start"
    ) -> None:
        left, top = self.place(x, y)
        self.parts.append(
            f'<text x="{left + dx:.1f}" y="{top + dy:.1f}" text-anchor="{end}">{escape(said)}</text>'
        )

    def svg(self) -> str:
        left, bottom = _LEFT, self.height - _BOTTOM
        out = [
            f'<svg class="chart" viewBox="0 0 {WIDTH} {self.height}" role="img" '
            f'aria-label="{escape(self.name)}">'
        ]
        for value, text in self.y.ticks:
            _, top = self.place(self.x.low, value)
            out.append(
                f'<path class="grid" d="M{left} {top:.1f}H{WIDTH - _RIGHT}"/>'
                f'<text class="tick" x="{left - 6}" y="{top + 4:.1f}" text-anchor="end">{text}</text>'
            )
        for value, text in self.x.ticks:
            at, _ = self.place(value, self.y.low)
            out.append(
                f'<path class="axis" d="M{at:.1f} {bottom}v4"/><text class="tick" x="{at:.1f}" '
                f'y="{bottom + 17}" text-anchor="middle">{text}</text>'
            )
        middle = (left + WIDTH - _RIGHT) / 2
        half = (bottom + _TOP) / 2
        out.append(
            f'<path class="axis" d="M{left} {bottom}H{WIDTH - _RIGHT}"/>'
            f'<text class="title" x="{middle}" y="{self.height - 6}" text-anchor="middle">'
            f"{escape(self.x.title)}</text>"
            f'<text class="title" transform="translate(13 {half}) rotate(-90)" text-anchor="middle">'
            f"{escape(self.y.title)}</text>"
        )
        return "".join([*out, *self.parts, "</svg>"])


def _round_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, at least ``rough``."""
    base: float = 10.0 ** math.floor(math.log10(max(rough, 1e-12)))
    return next(base * m for m in (1, 2, 5, 10) if base * m >= rough * 0.999)
