"""Ranks of one machine exchange through memory: the same numbers as over TCP, and nothing that hangs."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from distributed.training import collectives, shared_memory
from distributed.training.shared_memory import SharedMemory, none_shared
from tests.helpers.ranks import spawn_ranks


def work_collectives(share: bool) -> list[Tensor]:
    """What every collective gives this rank."""
    rank, rows = dist.get_rank(), [3, 0, 5][: dist.get_world_size()]
    with nullcontext() if share else none_shared():
        assert (shared_memory.shared_memory() is not None) is share
        generator = torch.Generator().manual_seed(rank)
        found = [
            collectives.sum_over_ranks(torch.tensor(rank + 0.5)),
            collectives.sum_over_ranks(torch.arange(4).reshape(2, 2) * (rank + 1)),
            collectives.sum_over_ranks(torch.full((3,), rank + 1.0, dtype=torch.float64)),
            collectives.sum_over_ranks(torch.ones(1 << 15) * rank),
            collectives.gather_ids(torch.arange(10 * rank, 10 * rank + 2 * rank)),
        ]
        for kind in (torch.float32, torch.bfloat16):
            local = torch.randn(rows[rank], 7, generator=generator).to(kind).requires_grad_()
            gathered = collectives.gather_rows(local, rows)
            weight = torch.arange(gathered.numel()).view_as(gathered) * (rank + 1)
            (gathered * weight.to(kind)).sum().backward()
            assert local.grad is not None
            found += [gathered.detach(), local.grad]
        # As a gradient of channels_last has it: not contiguous.
        averaged = [
            torch.randn(5, 6, generator=generator),
            torch.randn(4, 3, generator=generator).T,
        ]
        collectives.average(averaged)
    return found + averaged


@pytest.mark.parametrize("world", [2, 3])
def test_collectives_give_what_they_give_over_tcp(tmp_path: Path, world: int) -> None:
    shared = spawn_ranks(world, work_collectives, tmp_path, True)
    sent = spawn_ranks(world, work_collectives, tmp_path, False)
    for of_rank, expected in zip(shared, sent, strict=True):
        for value, other in zip(of_rank, expected, strict=True):
            assert value.dtype == other.dtype and value.shape == other.shape
            if world == 2:
                assert torch.equal(value, other)
            else:
                torch.testing.assert_close(value, other)


def work_growth() -> list[tuple[float, float]]:
    """Sums of what both ranks gave, read after one more exchange of another size."""
    shared, rank = SharedMemory(), dist.get_rank()
    found: list[tuple[float, float]] = []
    before: list[Tensor] = []
    for numbers in (3, 5000, 10, 80_000, 1):
        parts = shared.exchange(torch.full((numbers,), float(rank + numbers)))
        assert parts is not None and all(len(part) == numbers for part in parts)
        if before:
            found.append((float(before[0].mean()), float(before[1].mean())))
        before = parts
    return found


def test_memory_grows_and_views_stay_until_the_next_exchange_but_one(tmp_path: Path) -> None:
    for found in spawn_ranks(2, work_growth, tmp_path):
        assert found == [(n, n + 1.0) for n in (3, 5000, 10, 80_000)]


def work_without(what: str) -> tuple[bool, float, int]:
    """One rank cannot have its part: all send."""
    if dist.get_rank() == 1:
        setattr(shared_memory, what, lambda *_: None if what == "_mapped" else -1)
    before = len(os.listdir("/proc/self/fd"))
    try:
        total = float(collectives.sum_over_ranks(torch.tensor(2.0)))
    finally:
        opened = len(os.listdir("/proc/self/fd")) - before
        for name, was in _WHOLE.items():
            setattr(shared_memory, name, was)
    shared = shared_memory.shared_memory()
    assert shared is not None
    return shared.usable, total, opened


_WHOLE = {name: getattr(shared_memory, name) for name in ("_mapped", "_opened_pipe")}


@pytest.mark.parametrize("what", ["_mapped", "_opened_pipe"])
def test_ranks_that_do_not_see_each_other_send(tmp_path: Path, what: str) -> None:
    for usable, total, opened in spawn_ranks(2, work_without, tmp_path, what):
        assert (usable, total) == (False, 4.0)
        assert opened <= 2  # pipes that are closed with the process group


def work_large() -> bool:
    shared = SharedMemory()
    none = shared.exchange(torch.zeros((shared_memory._MOST_BYTES >> 2) + 1))
    return none is None and shared.usable and shared.size == 0


def test_what_is_too_large_is_sent(tmp_path: Path) -> None:
    assert all(spawn_ranks(2, work_large, tmp_path))


def work_gone() -> None:
    shared = SharedMemory()
    shared.exchange(torch.zeros(1))
    if dist.get_rank() == 1:
        os._exit(3)
    shared.exchange(torch.zeros(1))


def test_a_rank_that_is_gone_ends_the_wait(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="another rank of this machine is gone"):
        spawn_ranks(2, work_gone, tmp_path)


def work_pipes() -> int:
    before = len(os.listdir("/proc/self/fd"))
    shared = SharedMemory()
    shared.exchange(torch.zeros(10))
    del shared
    return len(os.listdir("/proc/self/fd")) - before


def test_nothing_stays_open(tmp_path: Path) -> None:
    assert spawn_ranks(3, work_pipes, tmp_path) == [0, 0, 0]
