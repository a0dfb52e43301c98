"""Requests that wait at the same time are scored together.

``serve.batch`` of Ray 2.60 counts rows too (``batch_size_fn``), but does not gather requests while a batch is
worked on: it closes a batch when its wait is over. Without a wait, requests queue up in tiny batches; with a
wait, each is delayed. A request that does not fit goes behind all others. Figures: docs/log.md.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Request = TypeVar("Request")
Result = TypeVar("Result")


class Batcher(Generic[Request, Result]):
    """Gathers the requests that arrive while a batch is worked on; they are the next batch.

    For one event loop.

    Args:
        handle_batch: returns the results of a batch, in its order. What it raises goes to every caller of the
            batch.
        rows: number of rows of a request.
        max_rows: a batch ends before it would exceed this; a larger request is a batch of its own.
    """

    def __init__(
        self,
        handle_batch: Callable[[list[Request]], Awaitable[list[Result]]],
        rows: Callable[[Request], int],
        max_rows: int,
    ) -> None:
        self._handle_batch, self._rows, self._max_rows = handle_batch, rows, max_rows
        self._waiting: deque[tuple[Request, asyncio.Future[Result]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, request: Request) -> Result:
        """The result of a request, once its batch is done."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((request, future))
        if self._worker is None:
            self._worker = loop.create_task(self._run())
        return await future

    def _next_batch(self) -> list[tuple[Request, asyncio.Future[Result]]]:
        batch: list[tuple[Request, asyncio.Future[Result]]] = []
        rows = 0
        while self._waiting:
            request, future = self._waiting[0]
            if future.cancelled():  # its caller has gone
                self._waiting.popleft()
                continue
            rows += self._rows(request)
            if batch and rows > self._max_rows:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _run(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(0)  # requests that came in the same turn of the loop join
                batch = self._next_batch()
                if not batch:
                    continue
                try:
                    results = await self._handle_batch([request for request, _ in batch])
                except Exception as error:
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                    continue
                for (_, future), result in zip(batch, results, strict=True):
                    if not future.done():
                        future.set_result(result)
        finally:
            self._worker = None
