"""How a long run tells a person how far it is."""

from __future__ import annotations

from collections.abc import Callable

Log = Callable[[str], object]


def counted(number: int, noun: str) -> str:
    """``1 part``, ``2 parts``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """As a person reads it: minutes:seconds, from an hour on whole hours, from three days on days."""
    if seconds >= 3 * 86400:
        return f"{seconds / 86400:,.0f} days"
    if seconds >= 3600:
        return f"{seconds / 3600:.0f} hours"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def size_of(count: float) -> str:
    """Bytes as a person reads them."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:,.0f} kB"
