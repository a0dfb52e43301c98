"""Work beside the answers: it waits for them, and its queue is bounded."""

from __future__ import annotations

import asyncio
import threading

from distributed.serving.beside import Beside, Work


def test_it_works_only_while_nothing_is_answered_and_in_order() -> None:
    done: list[tuple[int, bool]] = []
    busy = True

    async def run() -> None:
        nonlocal busy
        beside = Beside(lambda: not busy, 100)
        for number in range(3):
            beside.offer(Work(lambda number=number: done.append((number, busy)), 10, lambda: None))
        await asyncio.sleep(0.05)
        assert not done and beside.waiting == 3
        busy = False
        while len(done) < 3:
            await asyncio.sleep(0.001)

    asyncio.run(run())
    assert done == [(0, False), (1, False), (2, False)]


def test_what_has_no_room_is_dropped_and_said_so() -> None:
    done: list[int] = []
    dropped: list[int] = []
    hold = threading.Event()

    async def run() -> None:
        beside = Beside(lambda: True, 100)

        def offer(number: int, size: int, wait: bool = False) -> None:
            def do() -> None:
                if wait:
                    assert hold.wait(10)
                done.append(number)

            beside.offer(Work(do, size, lambda: dropped.append(number)))

        offer(0, 40, wait=True)
        await asyncio.sleep(0.02)  # it runs: what it keeps still counts
        offer(1, 50)
        offer(2, 50)  # 140 bytes
        offer(3, 10)
        assert dropped == [2] and beside.waiting == 2
        hold.set()
        while len(done) < 3:
            await asyncio.sleep(0.001)
        offer(4, 1000)  # too large for the queue, but nothing else waits
        while len(done) < 4:
            await asyncio.sleep(0.001)
        offer(5, 1, wait=True)
        hold.clear()
        offer(6, 1)
        beside.clear()
        assert dropped == [2, 5, 6] and beside.waiting == 0
        hold.set()

    asyncio.run(run())
    assert done == [0, 1, 3, 4]


def test_a_fault_does_not_end_it() -> None:
    done: list[int] = []

    def fail() -> None:
        raise OSError("a disk is gone")

    async def run() -> None:
        beside = Beside(lambda: True, 100)
        beside.offer(Work(fail, 1, lambda: None))
        beside.offer(Work(lambda: done.append(1), 1, lambda: None))
        while not done:
            await asyncio.sleep(0.001)

    asyncio.run(run())
