"""Runs a function on real gloo ranks: processes that live as long as the session of tests."""

from __future__ import annotations

import io
import itertools
import multiprocessing
import os
import pickle
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

_ranks: list[tuple[Any, Connection]] = []  # process and pipe; started when first asked for
_calls = itertools.count()


def spawn_ranks(world: int, work: Callable[..., Any], folder: Path, *args: Any) -> list[Any]:
    """``work(*args)`` on ``world`` ranks with this process's environment; what each returned, in rank order.

    The processes serve later calls as well, each with a process group of its own: a call leaves no state
    behind but what imported modules keep.

    Args:
        folder: the ranks meet at a file in it.

    Raises:
        AssertionError: ranks failed or ended; their tracebacks are the message.
    """
    while len(_ranks) < world:
        _ranks.append(_start(len(_ranks)))
    place = folder / f"ranks-{os.getpid()}-{next(_calls)}"
    call = pickle.dumps((world, str(place), dict(os.environ), work, args))
    waiting = {connection: rank for rank, (_, connection) in enumerate(_ranks[:world])}
    results: list[Any] = [None] * world
    failures: dict[int, str] = {}
    try:
        for connection in waiting:
            connection.send_bytes(call)
        # The first to fail may be one whose partner is gone: a second shows the cause as well.
        while waiting and (ready := wait(list(waiting), 1 if failures else None)):
            for connection in ready:
                assert isinstance(connection, Connection)
                rank = waiting.pop(connection)
                try:
                    good, content = connection.recv()
                except (EOFError, ConnectionError):
                    good, content = False, "the process ended"
                if good:
                    results[rank] = torch.load(io.BytesIO(content), weights_only=False)
                else:
                    failures[rank] = f"rank {rank} of {world} failed:\n{content}"
        assert not failures, "\n".join(failures[rank] for rank in sorted(failures))
    except BaseException:  # the other ranks may wait for one that failed, for ever
        stop_ranks()
        raise
    return results


def stop_ranks() -> None:
    """End all processes; the next call starts new ones."""
    for process, connection in _ranks:
        process.kill()
        process.join()
        connection.close()
    _ranks.clear()


def _start(rank: int) -> tuple[Any, Connection]:
    # Not forked: threads and locks of Ray and torch in this process would come along.
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(rank, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, mine


def _serve(rank: int, connection: Connection) -> None:
    torch.set_num_threads(1)
    while True:
        try:
            call = connection.recv_bytes()
        except EOFError:
            # Not through the interpreter's own end: while it runs, a thread of gloo that outlives
            # destroy_process_group may take the GIL and abort the process (seen in 1 of 5 runs, torch
            # 2.13; https://github.com/pytorch/pytorch/pull/179291).
            os._exit(0)
        try:
            answer: tuple[bool, Any] = True, _call(rank, *pickle.loads(call))
        except BaseException:
            answer = False, traceback.format_exc()
        connection.send(answer)


def _call(
    rank: int,
    world: int,
    place: str,
    environment: dict[str, str],
    work: Callable[..., Any],
    args: tuple[Any, ...],
) -> bytes:
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    torch.seed()  # a new process has none that is known
    torch.set_default_dtype(torch.float32)
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=world)
    content = io.BytesIO()
    torch.save(work(*args), content)
    dist.barrier()
    dist.destroy_process_group()
    return content.getvalue()
