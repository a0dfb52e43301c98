"""Rows of a table that lies in several files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from distributed.bundles import table_parts
from distributed.bundles.table_parts import TableParts
from drel_core.annotators.drel import write_table_part

SIZES = (5, 0, 7, 3)
ROWS, STATE = torch.randn(sum(SIZES), 3), torch.rand(sum(SIZES))


def written(folder: Path, without_state: int = -1) -> TableParts:
    """As four ranks leave it, one of them without rows."""
    folder.mkdir()
    start = 0
    for part, size in enumerate(SIZES):
        here = slice(start, start + size)
        state = None if part == without_state else STATE[here]
        write_table_part(folder, part, len(SIZES), start, ROWS[here], state)
        start += size
    return TableParts(folder, len(SIZES))


def same(found: tuple[Tensor, Tensor | None], tag_n: Tensor) -> bool:
    assert found[1] is not None
    return torch.equal(found[0], ROWS[tag_n]) and torch.equal(found[1], STATE[tag_n])


def test_a_range_and_any_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_parts, "_BLOCK", 2)
    table = written(tmp_path / "m")
    assert same(table.between(3, 13), torch.arange(3, 13))
    assert same(table.between(12, 99), torch.arange(12, 15))
    assert len(table.between(15, 99)[0]) == 0 == len(table.between(4, 4)[0])
    some_n = torch.tensor([14, 0, 6, 6, 4, 11, 0])
    assert same(table.rows(some_n), some_n)


def test_more_rows_at_its_end(tmp_path: Path) -> None:
    table = written(tmp_path / "m")
    (tmp_path / "grown").mkdir()
    before = {name: (table.folder / name).read_bytes() for name in table.names}
    parts = table.write_grown(tmp_path / "grown", ROWS[:2] + 1, STATE[:2])
    grown = TableParts(tmp_path / "grown", parts)
    weight_nE, state_n = grown.between(0, 99)
    assert parts == 5 and state_n is not None
    assert torch.equal(weight_nE, torch.cat([ROWS, ROWS[:2] + 1]))
    assert torch.equal(state_n, torch.cat([STATE, STATE[:2]]))
    assert {name: (table.folder / name).read_bytes() for name in table.names} == before


def test_state_that_a_file_does_not_keep(tmp_path: Path) -> None:
    table = written(tmp_path / "m", without_state=2)
    assert not table.keep_state and written(tmp_path / "n").keep_state
    assert table.between(0, 15)[1] is None and table.rows(torch.tensor([0, 6]))[1] is None
    assert same(table.rows(torch.tensor([13, 1])), torch.tensor([13, 1]))
