"""Work that is done beside answering, and never in its way."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

_LOG = logging.getLogger("ray.serve.drel")
_LOOK_SECONDS = 0.005  # how often a busy replica is asked whether it is idle


@dataclass(frozen=True)
class Work:
    """Something to do.

    Attributes:
        do: called in the thread. It should take a few ms: an answer may have to share the CPU with it.
        size: bytes that it keeps in memory.
        dropped: called in the event loop where there was no room for it.
    """

    do: Callable[[], None]
    size: int
    dropped: Callable[[], None]


class Beside:
    """One thread that works while nothing waits to be answered.

    For one event loop. What is offered waits in a queue that is bounded in bytes; where there is no room it
    is dropped. No answer waits for any of it.

    Args:
        is_idle: whether nothing is being answered.
        most_bytes: of the work that waits; a larger one is taken where nothing else waits.
    """

    def __init__(self, is_idle: Callable[[], bool], most_bytes: int) -> None:
        self._is_idle, self._most_bytes = is_idle, most_bytes
        self._waiting: deque[Work] = deque()
        self._bytes = 0
        self._worker: asyncio.Task[None] | None = None
        # Not one of the threads that answers use.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="beside")

    def has_room(self, size: int) -> bool:
        """Whether work that keeps so many bytes would be taken."""
        return not self._waiting or self._bytes + size <= self._most_bytes

    def offer(self, work: Work) -> None:
        """Take the work, or drop it."""
        if not self.has_room(work.size):
            work.dropped()
            return
        self._waiting.append(work)
        self._bytes += work.size
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._run())

    def clear(self) -> None:
        """Drop what waits."""
        waiting, self._waiting = list(self._waiting), deque()
        for work in waiting:
            self._bytes -= work.size
            work.dropped()

    @property
    def waiting(self) -> int:
        """Pieces of work."""
        return len(self._waiting)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                if not self._is_idle():
                    await asyncio.sleep(_LOOK_SECONDS)
                    continue
                work = self._waiting.popleft()
                try:
                    await loop.run_in_executor(self._thread, work.do)
                except Exception:  # what is only looked at must not end the worker
                    _LOG.exception("work beside the answers failed")
                finally:
                    self._bytes -= work.size
        finally:
            self._worker = None
