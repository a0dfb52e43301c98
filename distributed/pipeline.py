"""From a store to batches: which rank reads which rows, and in which order.

The plan of an epoch is ours, not Ray's: Ray Data's equal split drops rows and its unequal split
lets ranks disagree on the number of batches. Here every rank knows from the survey how many rows
each rank has, so all take the same number of steps, and every row is seen once (an empty part of a
batch is allowed). Each rank reads its own rows through a Ray Data pipeline of its own.

Shapes: B rows of a batch, D feature size, N rows of this rank.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from distributed.feature_store import Columns, ReadUnit, encode_tags, read_unit
from drel_core.sampling import step_generator
from drel_core.tag_lists import TagLists

Residency = Literal["auto", "resident", "stream"]


@dataclass(frozen=True)
class Rows:
    """Features ``[B, D]`` in stored dtype and the rows' tag ids."""

    features_BD: Tensor
    tags: TagLists

    def __len__(self) -> int:
        return len(self.features_BD)

    def select(self, index: Tensor) -> Rows:
        return Rows(self.features_BD.index_select(0, index), self.tags.select(index))

    @staticmethod
    def cat(parts: Sequence[Rows]) -> Rows:
        if len(parts) == 1:
            return parts[0]
        return Rows(
            torch.cat([part.features_BD for part in parts]),
            TagLists.cat([part.tags for part in parts]),
        )


def shard(reads: Sequence[ReadUnit], world: int, rank: int) -> list[ReadUnit]:
    """The rows ``[rank * N // world, (rank + 1) * N // world)`` of N, as units."""
    total = sum(read.take for read in reads)
    begin, end = rank * total // world, (rank + 1) * total // world
    mine, at = [], 0
    for read in reads:
        low, high = max(begin, at), min(end, at + read.take)
        if low < high:
            mine.append(replace(read, skip=read.skip + low - at, take=high - low))
        at += read.take
    return mine


@dataclass(frozen=True)
class EpochPlan:
    """How many steps an epoch has and how many rows each rank gives to each step."""

    rows_per_rank: tuple[int, ...]
    steps: int

    @staticmethod
    def make(total: int, world: int, global_batch: int) -> EpochPlan:
        """The steps depend on the number of rows and the global batch alone, not on the ranks."""
        rows = tuple((r + 1) * total // world - r * total // world for r in range(world))
        return EpochPlan(rows, max(1, -(-total // global_batch)))

    def size(self, rank: int, step: int) -> int:
        """Rows of a rank in a step: sizes differ by one at most, so no last batch is tiny."""
        rows = self.rows_per_rank[rank]
        return (step + 1) * rows // self.steps - step * rows // self.steps

    def global_size(self, step: int) -> int:
        return sum(self.size(rank, step) for rank in range(len(self.rows_per_rank)))


def unit_block(read: ReadUnit, columns: Columns, names: pa.Array) -> pa.Table:
    """A unit as a block of Ray Data: features as they are stored, tags as list<int64> of ids."""
    batch = read_unit(read, columns)
    ids, offsets = encode_tags(batch.tag_values, batch.tag_offsets, names)
    dim = batch.features_BD.shape[1]
    flat = pa.array(batch.features_BD.reshape(-1))
    tags = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(ids))
    return pa.table({"features": pa.FixedSizeListArray.from_arrays(flat, dim), "tags": tags})


def block_rows(block: pa.Table) -> Rows:
    """Tensors over a block's memory (no copy of the features)."""
    features = block.column("features")
    features = features.chunk(0) if features.num_chunks == 1 else features.combine_chunks()
    tags = block.column("tags")
    tags = tags.chunk(0) if tags.num_chunks == 1 else tags.combine_chunks()
    dense = features.flatten().to_numpy(zero_copy_only=False).reshape(len(features), -1)
    offsets = tags.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    values = tags.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    return Rows(
        _as_tensor(dense),
        TagLists(torch.from_numpy(values), torch.from_numpy(offsets - offsets[0])),
    )


def read_rows(reads: Sequence[ReadUnit], columns: Columns, names: pa.Array) -> Rows:
    """All rows of some units in one piece, with the tags of ``names`` as ids."""
    return Rows.cat([block_rows(unit_block(read, columns, names)) for read in reads])


def _as_tensor(array: np.ndarray) -> Tensor:
    """A tensor over read-only Arrow memory. torch warns of writes to it; nobody writes to a batch."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


BlockSource = Callable[[Sequence[ReadUnit]], Iterable[pa.Table]]


class ShardReader:
    """The batches of one rank, epoch by epoch.

    Args:
        reads: this rank's units (see ``shard``).
        plan: of all ranks.
        rank: this rank.
        seed: with the epoch decides the order.
        blocks: reads units in the given order; Ray Data in production, inline in tests.
        resident: keep the rows after the first pass.
        shuffle_rows: rows of the window that a streaming epoch shuffles in.
    """

    def __init__(
        self,
        reads: Sequence[ReadUnit],
        plan: EpochPlan,
        rank: int,
        seed: int,
        blocks: BlockSource,
        resident: bool,
        shuffle_rows: int = 16384,
    ) -> None:
        self.reads, self.plan, self.rank, self.seed = list(reads), plan, rank, seed
        self.blocks, self.resident, self.shuffle_rows = blocks, resident, shuffle_rows
        self._rows: Rows | None = None

    def load(self) -> Rows:
        """All rows of this rank in one piece, read once and kept."""
        if self._rows is None:
            parts = [block_rows(block) for block in self.blocks(self.reads)]
            self._rows = Rows.cat(parts) if parts else _no_rows()
            expected = self.plan.rows_per_rank[self.rank]
            assert len(self._rows) == expected, f"read {len(self._rows)} rows, not {expected}"
        return self._rows

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Rows]:
        """The batches of an epoch from ``first_step`` on; the order depends on (seed, epoch, rank)."""
        if self.resident:
            rows = self.load()
            generator = step_generator(self.seed, 4, epoch, self.rank)
            order = torch.randperm(len(rows), generator=generator)
            at = sum(self.plan.size(self.rank, step) for step in range(first_step))
            for step in range(first_step, self.plan.steps):
                size = self.plan.size(self.rank, step)
                yield rows.select(order[at : at + size])
                at += size
            return
        stream = self._rebatch(self._windows(epoch))
        for step, batch in enumerate(stream):
            if step >= first_step:
                yield batch

    def _windows(self, epoch: int) -> Iterator[Rows]:
        """Units in a seeded order, their rows shuffled within windows of ``shuffle_rows``."""
        generator = step_generator(self.seed, 4, epoch, self.rank)
        order = torch.randperm(len(self.reads), generator=generator).tolist()
        held: list[Rows] = []
        count = 0
        for block in self.blocks([self.reads[i] for i in order]):
            held.append(block_rows(block))
            count += len(held[-1])
            if count >= self.shuffle_rows:
                window = Rows.cat(held)
                yield window.select(torch.randperm(count, generator=generator))
                held, count = [], 0
        if count:
            window = Rows.cat(held)
            yield window.select(torch.randperm(count, generator=generator))

    def _rebatch(self, windows: Iterator[Rows]) -> Iterator[Rows]:
        """Cut windows into the sizes of the plan."""
        window, at = next(windows, _no_rows()), 0
        for step in range(self.plan.steps):
            want = self.plan.size(self.rank, step)
            parts = []
            while want > len(window) - at:
                if at < len(window):
                    parts.append(_slice(window, at, len(window)))
                    want -= len(window) - at
                window, at = next(windows), 0
            if want or not parts:
                parts.append(_slice(window, at, at + want))
                at += want
            yield Rows.cat(parts)
        assert at == len(window) and next(windows, None) is None, (
            "rows left over at the epoch's end"
        )


def _slice(rows: Rows, start: int, stop: int) -> Rows:
    return Rows(rows.features_BD[start:stop], rows.tags[start:stop])


def _no_rows() -> Rows:
    return Rows(torch.empty(0, 0), TagLists.cat([]))


def inline_blocks(columns: Columns, names: pa.Array) -> BlockSource:
    """Reads units in this process: for small stores, where a task costs more than the read."""
    return lambda reads: (unit_block(read, columns, names) for read in reads)
