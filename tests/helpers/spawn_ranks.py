"""Runs a function on real gloo ranks; a failing rank's traceback reaches the test."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _rank(
    rank: int, world: int, port: int, work: Callable[..., Any], folder: str, args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
    )
    torch.save(work(*args), Path(folder) / f"{rank}.pt")
    dist.barrier()
    # Not through the interpreter's own end: while it runs, a thread of gloo that outlives
    # destroy_process_group may take the GIL and abort the process (seen in 1 of 5 runs, torch 2.13;
    # https://github.com/pytorch/pytorch/pull/179291).
    os._exit(0)


def spawn_ranks(world: int, work: Callable[..., Any], folder: Path, *args: Any) -> list[Any]:
    """``work(*args)`` on ``world`` ranks; what each returned, in rank order."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = folder / f"ranks-{world}-{port}"
    place.mkdir()
    mp.spawn(_rank, (world, port, work, str(place), args), nprocs=world, join=True)
    return [torch.load(place / f"{rank}.pt", weights_only=False) for rank in range(world)]
