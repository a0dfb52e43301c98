"""Batches form while one is worked on, stay within their rows, and fail alone."""

from __future__ import annotations

import asyncio

import pytest

from distributed.serving.batcher import Batcher


class Doubler:
    """Answers n with 2n; remembers its batches; 13 fails."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    async def __call__(self, asked: list[int]) -> list[int]:
        self.batches.append(asked)
        await asyncio.sleep(0.01)
        if 13 in asked:
            raise ValueError("13")
        return [2 * one for one in asked]


def test_what_waits_together_is_answered_together_and_in_order() -> None:
    async def ask() -> None:
        work = Doubler()
        batcher = Batcher(work, lambda _: 1, max_rows=100)
        assert await asyncio.gather(*(batcher.submit(n) for n in range(5))) == [0, 2, 4, 6, 8]
        assert work.batches == [[0, 1, 2, 3, 4]]
        first = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0.005)  # while 1 is worked on
        assert await asyncio.gather(first, batcher.submit(2), batcher.submit(3)) == [2, 4, 6]
        assert work.batches[1:] == [[1], [2, 3]]

    asyncio.run(ask())


def test_a_batch_stays_within_its_rows_and_a_large_question_goes_alone() -> None:
    async def ask() -> None:
        work = Doubler()
        batcher = Batcher(work, lambda rows: rows, max_rows=10)
        await asyncio.gather(*(batcher.submit(rows) for rows in (4, 6, 1, 50, 3)))
        assert work.batches == [[4, 6], [1], [50], [3]]

    asyncio.run(ask())


def test_an_error_reaches_its_own_batch_and_the_next_goes_on() -> None:
    async def ask() -> None:
        batcher = Batcher(Doubler(), lambda rows: rows, max_rows=14)
        told = await asyncio.gather(*map(batcher.submit, (13, 1, 7)), return_exceptions=True)
        assert [type(one) for one in told] == [ValueError, ValueError, int]
        assert await batcher.submit(5) == 10

    asyncio.run(ask())


def test_what_nobody_waits_for_any_more_is_left_out() -> None:
    async def ask() -> None:
        work = Doubler()
        batcher = Batcher(work, lambda _: 1, max_rows=1)
        tasks = [asyncio.create_task(batcher.submit(n)) for n in range(3)]
        await asyncio.sleep(0.005)
        tasks[0].cancel()  # worked on already
        tasks[1].cancel()  # still waits
        assert await tasks[2] == 4
        assert work.batches == [[0], [2]]
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]

    asyncio.run(ask())


def test_clients_that_ask_again_at_once_come_together() -> None:
    """One that began earlier than the others does not go alone for ever."""

    async def ask() -> None:
        work = Doubler()
        batcher = Batcher(work, lambda _: 1, max_rows=100)

        async def client(turns: int) -> None:
            for _ in range(turns):
                await batcher.submit(1)
                for _ in range(5):  # the answer goes out, the next question comes in
                    await asyncio.sleep(0)

        first = asyncio.create_task(client(21))
        await asyncio.sleep(0.005)
        await asyncio.gather(first, *(client(20) for _ in range(3)))
        sizes = [len(batch) for batch in work.batches]
        assert sizes[0] == 1
        assert sizes.count(4) >= 10  # all but those at which the machine was busy elsewhere

    asyncio.run(ask())


def test_a_client_alone_is_not_made_to_wait() -> None:
    async def ask() -> None:
        work = Doubler()
        batcher = Batcher(work, lambda _: 1, max_rows=100)
        for n in range(1, 4):
            task = asyncio.create_task(batcher.submit(n))
            for _ in range(4):  # turns of the loop
                await asyncio.sleep(0)
            assert len(work.batches) == n
            await task

    asyncio.run(ask())


def test_a_full_batch_waits_for_nobody() -> None:
    async def ask() -> None:
        work = Doubler()
        batcher = Batcher(work, lambda rows: rows, max_rows=10)
        await asyncio.gather(*(batcher.submit(1) for _ in range(8)))
        task = asyncio.create_task(batcher.submit(10))
        for _ in range(4):
            await asyncio.sleep(0)
        assert work.batches[1:] == [[10]]  # though eight were there before
        await task

    asyncio.run(ask())


def test_a_request_alone_is_answered_at_once_and_others_of_its_turn_together() -> None:
    async def ask() -> None:
        work = Doubler()
        alone: list[int] = []

        def now(asked: int) -> int | None:
            if asked > 100:
                return None
            alone.append(asked)
            return 2 * asked

        batcher = Batcher(work, lambda _: 1, 100, now)
        assert await batcher.submit(101) == 202  # it takes long
        assert await batcher.submit(1) == 2
        assert (work.batches, alone) == ([[101]], [1])
        await asyncio.sleep(0)
        await asyncio.gather(*(batcher.submit(n) for n in range(2, 6)))
        assert (work.batches[1:], alone) == ([[3, 4, 5]], [1, 2])
        await asyncio.gather(*(batcher.submit(n) for n in range(6, 9)))  # three came before
        assert (work.batches[2:], alone) == ([[6, 7, 8]], [1, 2])

    asyncio.run(ask())
