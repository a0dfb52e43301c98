"""Requests that wait at the same time are scored together.

``serve.batch`` of Ray 2.60 counts rows too (``batch_size_fn``), but does not gather requests while a batch is
worked on: it closes a batch when its wait is over. Without a wait, requests queue up in tiny batches; with a
wait, each is delayed. A request that does not fit goes behind all others. Figures: docs/log.md.

A batch costs much by itself: it reads all weights of the model. Clients that ask again as soon as they are
answered come back a moment after a batch is done. Whoever waited meanwhile would go as a small batch alone,
and from then on clients would come in two groups. So a batch waits a moment for as many as there were before.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

# Of the time that the last batch took, and in all: how long a batch waits for further requests at most.
_PATIENCE = 0.5
_LONGEST_SECONDS = 0.002

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
        answer_now: the result of a request that is alone; None where that takes long: it is handled as a
            batch then.
    """

    def __init__(
        self,
        handle_batch: Callable[[list[Request]], Awaitable[list[Result]]],
        rows: Callable[[Request], int],
        max_rows: int,
        answer_now: Callable[[Request], Result | None] | None = None,
    ) -> None:
        self._handle_batch, self._rows, self._max_rows = handle_batch, rows, max_rows
        self._answer_now, self._answered_now = answer_now, False
        self._waiting: deque[tuple[Request, asyncio.Future[Result]]] = deque()
        self._rows_waiting = 0
        self._worker: asyncio.Task[None] | None = None
        self._expected, self._patience = 1, 0.0
        self._enough: asyncio.Future[None] | None = None

    async def submit(self, request: Request) -> Result:
        """The result of a request, once its batch is done."""
        loop = asyncio.get_running_loop()
        if self._answer_now is not None and self._is_alone:
            result = self._answer_now(request)
            if result is not None:
                self._answered_now = True
                loop.call_soon(self._next_turn)
                return result
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((request, future))
        self._rows_waiting += self._rows(request)
        if self._is_enough:
            self._stop_waiting()
        if self._worker is None:
            self._worker = loop.create_task(self._run())
        return await future

    @property
    def _is_alone(self) -> bool:
        """Whether a request is the only one, as the last was. What else came in its turn of the loop is not
        known yet; the second of a turn then waits for the others."""
        return self._worker is None and self._expected == 1 and not self._answered_now

    def _next_turn(self) -> None:
        self._answered_now = False

    def _next_batch(self) -> list[tuple[Request, asyncio.Future[Result]]]:
        batch: list[tuple[Request, asyncio.Future[Result]]] = []
        rows = 0
        while self._waiting:
            request, future = self._waiting[0]
            size = self._rows(request)
            if batch and not future.cancelled() and rows + size > self._max_rows:
                break
            self._waiting.popleft()
            self._rows_waiting -= size
            if not future.cancelled():  # else its caller has gone
                batch.append((request, future))
                rows += size
        return batch

    @property
    def _is_enough(self) -> bool:
        return len(self._waiting) >= self._expected or self._rows_waiting >= self._max_rows

    async def _gather(self) -> None:
        """Let further requests join: as many as were there when the last batch ended."""
        await asyncio.sleep(0)  # those that came in the same turn of the loop
        if self._is_enough:
            return
        loop = asyncio.get_running_loop()
        self._enough = loop.create_future()
        timer = loop.call_later(self._patience, self._stop_waiting)
        try:
            await self._enough
        finally:
            timer.cancel()
            self._enough = None

    def _stop_waiting(self) -> None:
        if self._enough is not None and not self._enough.done():
            self._enough.set_result(None)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                await self._gather()
                batch = self._next_batch()
                if not batch:
                    continue
                started = loop.time()
                try:
                    results = await self._handle_batch([request for request, _ in batch])
                except Exception as error:
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                    continue
                finally:
                    self._patience = min(_PATIENCE * (loop.time() - started), _LONGEST_SECONDS)
                    self._expected = len(batch) + len(self._waiting)
                for (_, future), result in zip(batch, results, strict=True):
                    if not future.done():
                        future.set_result(result)
        finally:
            self._worker = None
