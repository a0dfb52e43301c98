"""What it takes to move the rows of a step's pool between two ranks, and back: the ways there are.

    python -m benchmarks.collectives [--rows 2642] [--columns 257] [--gradients 590000] [--repeats 50]

Two gloo ranks of one thread on this machine. A line each: milliseconds in float32 and in bfloat16.
"""

from __future__ import annotations

import argparse
import os
import socket
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

_RANKS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=2642, help="encoded tags of the pool")
    parser.add_argument("--columns", type=int, default=257, help="L + 1")
    parser.add_argument("--gradients", type=int, default=590_000, help="parameters of the towers")
    parser.add_argument("--repeats", type=int, default=50)
    given = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]))
    multiprocessing.spawn(_rank, args=(given,), nprocs=_RANKS)


def _rank(rank: int, given: argparse.Namespace) -> None:
    dist.init_process_group("gloo", rank=rank, world_size=_RANKS)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)  # names that every torch of our range knows
    both = [_measured(kind, given) for kind in (torch.float32, torch.bfloat16)]
    if rank == 0:
        print("| what | float32, ms | bfloat16, ms |\n|---|---|---|")
        for name in both[0]:
            print(f"| {name} | {both[0][name]:.2f} | {both[1][name]:.2f} |")
    dist.destroy_process_group()


def _measured(kind: torch.dtype, given: argparse.Namespace) -> dict[str, float]:
    pool_PL = torch.randn(given.rows // _RANKS * _RANKS, given.columns).to(kind)
    own_PL = pool_PL[: len(pool_PL) // _RANKS].clone()
    received_PL, gradient = torch.empty_like(pool_PL), torch.randn(given.gradients).to(kind)

    def exchange() -> None:
        dist.all_to_all_single(received_PL, pool_PL)
        received_PL.view(_RANKS, *own_PL.shape).sum(0)

    ways: dict[str, Callable[[], Any]] = {
        "all-gather of the rows": lambda: dist.all_gather_into_tensor(pool_PL, own_PL),
        "their gradient: reduce-scatter": lambda: dist.reduce_scatter_tensor(own_PL, received_PL),
        "their gradient: all-to-all and a sum (taken)": exchange,
        "all-reduce of the towers' gradients": lambda: dist.all_reduce(gradient),
        "a copy of the rows in memory": lambda: received_PL.copy_(pool_PL),
    }
    return {name: _milliseconds(way, given.repeats) for name, way in ways.items()}


def _milliseconds(way: Callable[[], Any], repeats: int) -> float:
    for _ in range(5):
        way()
    dist.barrier()
    started = time.perf_counter()
    for _ in range(repeats):
        way()
    return (time.perf_counter() - started) / repeats * 1000


if __name__ == "__main__":
    main()
