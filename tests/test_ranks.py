"""The ranks that other tests run on: a failure is told, and no call leaves anything to the next."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.helpers.ranks import spawn_ranks


def work_sum(value: float) -> tuple[float, str | None]:
    total = torch.tensor(value * (dist.get_rank() + 1))
    dist.all_reduce(total)
    return float(total), os.environ.get("DREL_TEST_RANKS")


def work_fail(how: str) -> None:
    if dist.get_rank() == 1:
        if how == "raises":
            raise ZeroDivisionError("on purpose")
        os._exit(3)
    dist.barrier()  # would wait for ever


def work_draw() -> tuple[float, torch.dtype]:
    drawn = float(torch.rand(())), torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    return drawn


@pytest.mark.parametrize(("how", "words"), [("raises", "on purpose"), ("ends", "process ended")])
def test_one_that_fails_ends_the_call_and_the_next_call_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, words: str
) -> None:
    with pytest.raises(AssertionError, match=rf"(?s)rank 1 of 2 failed.*{words}"):
        spawn_ranks(2, work_fail, tmp_path, how)
    assert spawn_ranks(2, work_sum, tmp_path, 2.0) == [(6.0, None)] * 2
    monkeypatch.setenv("DREL_TEST_RANKS", "seen")
    assert spawn_ranks(2, work_sum, tmp_path, 1.0) == [(3.0, "seen")] * 2
    assert spawn_ranks(1, work_sum, tmp_path, 1.0) == [(1.0, "seen")]


def test_a_call_begins_as_a_new_process_does(tmp_path: Path) -> None:
    """Ranks that draw alike without a seed would hide that a seed is missing."""
    drawn = [answer for _ in range(3) for answer in spawn_ranks(2, work_draw, tmp_path)]
    assert len({value for value, _ in drawn}) == 6
    assert {dtype for _, dtype in drawn} == {torch.float32}
