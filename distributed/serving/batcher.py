"""Questions that wait at the same time are answered together.

``serve.batch`` does this too, but counts requests and not their rows.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Request = TypeVar("Request")
Result = TypeVar("Result")


class Batcher(Generic[Request, Result]):
    """Gathers what is asked while a batch is worked on, and hands it over as the next one.

    Args:
        work: answers to a batch, in its order. What it raises goes to every one of the batch.
        rows: size of a question.
        max_rows: a batch ends before it would exceed this; a larger question is a batch of its own.

    For one event loop.
    """

    def __init__(
        self,
        work: Callable[[list[Request]], Awaitable[list[Result]]],
        rows: Callable[[Request], int],
        max_rows: int,
    ) -> None:
        self._work, self._rows, self._max_rows = work, rows, max_rows
        self._waiting: deque[tuple[Request, asyncio.Future[Result]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def ask(self, asked: Request) -> Result:
        loop = asyncio.get_running_loop()
        told: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((asked, told))
        if self._worker is None:
            self._worker = loop.create_task(self._run())
        return await told

    def _take(self) -> list[tuple[Request, asyncio.Future[Result]]]:
        taken: list[tuple[Request, asyncio.Future[Result]]] = []
        rows = 0
        while self._waiting:
            asked, told = self._waiting[0]
            if told.cancelled():  # whoever asked has gone
                self._waiting.popleft()
                continue
            rows += self._rows(asked)
            if taken and rows > self._max_rows:
                break
            taken.append(self._waiting.popleft())
        return taken

    async def _run(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(0)  # requests that came in the same turn of the loop join
                taken = self._take()
                if not taken:
                    continue
                try:
                    answers = await self._work([asked for asked, _ in taken])
                except Exception as error:
                    for _, told in taken:
                        if not told.done():
                            told.set_exception(error)
                    continue
                for (_, told), answer in zip(taken, answers, strict=True):
                    if not told.done():
                        told.set_result(answer)
        finally:
            self._worker = None
