"""How a long run tells a person how far it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


class TimeLeft:
    """How long the rest of a work takes, by the pace since its first piece was done: until then processes
    start and files are opened.

    Args:
        total: how much there is to do.
    """

    def __init__(self, total: float) -> None:
        self.total = total
        self._first: tuple[float, float] | None = None

    def note(self, done: float) -> None:
        """So much is done; to be called after each piece."""
        if self._first is None and done:
            self._first = time.monotonic(), done

    def text(self, done: float) -> str:
        """``  left 0:35``, to be put behind a line; empty as long as there is no pace."""
        self.note(done)
        rest = max(0, self.total - done)
        if not rest:
            return f"  left {duration(0)}"
        began, before = self._first or (0.0, done)
        seconds = time.monotonic() - began
        if done <= before or seconds < _PACE_SECONDS:
            return ""
        return f"  left {duration(seconds * rest / (done - before))}"


_PACE_SECONDS = 1.0
"""From the first piece on, until a pace is worth telling: pieces of several workers come together."""
QUIET = 6.0
"""Seconds of a part before it says anything: short runs say nothing of their parts."""
EVERY = 5.0
"""Seconds between lines."""


class Progress:
    """Lines of a part whose length is known: ``survey  120,000/1,000,000 rows  left 0:35``.

    Args:
        log: takes a line; None says nothing, as on ranks other than the first.
        what: the part.
        total: how much there is to do.
        unit: what is counted.
    """

    def __init__(self, log: Log | None, what: str, total: int, unit: str) -> None:
        self.log, self.what, self.total, self.unit = log, what, total, unit
        self.done = 0
        self.left = TimeLeft(total)
        self.due = time.monotonic() + QUIET

    def step(self, count: int = 1) -> None:
        """So much more is done."""
        self.done += count
        self.left.note(self.done)
        now = time.monotonic()
        if self.log is None or now < self.due or not self.done:
            return
        left = self.left.text(self.done)
        self.log(f"{self.what}  {self.done:,}/{self.total:,} {self.unit}{left}")
        self.due = now + EVERY


@contextmanager
def saying(log: Log | None, what: str) -> Iterator[None]:
    """Lines of a part that does not say how far it is: ``solving for 5,000 landmarks, 0:10 so far``.

    They come from a thread beside it, after ``QUIET`` seconds and then every so often.
    """
    if log is None:
        yield
        return
    started, ended = time.monotonic(), threading.Event()

    def run() -> None:
        wait = QUIET
        while not ended.wait(wait):
            log(f"{what}, {duration(time.monotonic() - started)} so far")
            wait = 2 * EVERY

    beside = threading.Thread(target=run, daemon=True)
    beside.start()
    try:
        yield
    finally:
        ended.set()
        beside.join()
