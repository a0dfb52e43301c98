"""From a store to batches: which rank reads which rows, and in which order.

The plan of an epoch is ours, not Ray's: Ray Data's equal split drops rows and its unequal split
lets ranks disagree on the number of batches. Here every rank knows from the survey how many rows
each rank has, so all take the same number of steps, and every row is seen once (an empty part of a
batch is allowed). Each rank reads its own rows through a Ray Data pipeline of its own.

Shapes: B rows of a batch, D feature size, N rows of this rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from distributed.data.blocks import BlockSource
from distributed.data.feature_store import RowSelection
from distributed.data.rows import Rows
from drel_core.model.sampling import step_generator
from drel_core.scoring.tag_lists import TagLists

Residency = Literal["auto", "resident", "stream"]


def shard(selections: Sequence[RowSelection], world: int, rank: int) -> list[RowSelection]:
    """The rows ``[rank * N // world, (rank + 1) * N // world)`` of N, as units."""
    ends = np.cumsum([selection.take for selection in selections], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    begin, end = rank * total // world, (rank + 1) * total // world
    mine: list[RowSelection] = []
    if begin == end:
        return mine
    first = int(np.searchsorted(ends, begin, side="right"))
    for selection, stop in zip(selections[first:], ends[first:].tolist(), strict=True):
        at = stop - selection.take
        if at >= end:
            break
        low, high = max(begin, at), min(end, stop)
        if low < high:
            mine.append(replace(selection, skip=selection.skip + low - at, take=high - low))
    return mine


@dataclass(frozen=True)
class EpochPlan:
    """How many steps an epoch has and how many rows each rank gives to each step."""

    rows_per_rank: tuple[int, ...]
    steps: int

    @staticmethod
    def make(total: int, world: int, global_batch: int) -> EpochPlan:
        """The steps depend on the number of rows and the global batch alone, not on the ranks."""
        return EpochPlan.of_steps(total, world, max(1, -(-total // global_batch)))

    @staticmethod
    def of_steps(total: int, world: int, steps: int) -> EpochPlan:
        """So many rows in so many steps."""
        rows = tuple((r + 1) * total // world - r * total // world for r in range(world))
        return EpochPlan(rows, steps)

    def before(self, rank: int, step: int) -> int:
        """Rows that a rank gives to the steps before ``step``."""
        return step * self.rows_per_rank[rank] // self.steps

    def size(self, rank: int, step: int) -> int:
        """Rows of a rank in a step: sizes differ by one at most, so no last batch is tiny."""
        return self.before(rank, step + 1) - self.before(rank, step)

    def global_size(self, step: int) -> int:
        return sum(self.size(rank, step) for rank in range(len(self.rows_per_rank)))


def row_groups(
    selections: Sequence[RowSelection],
    resident: bool,
    shuffle_rows: int,
    generator: torch.Generator,
) -> list[list[int]]:
    """The units of one rank in groups that are shuffled together, known without reading them.

    Resident rows are one group, all of them; a stream takes its units in a seeded order, as many to a
    group as have ``shuffle_rows`` rows together. The rows of the groups, one after the other, go by
    ``torch.randperm`` of the same generator.

    Returns:
        places in ``selections``.
    """
    if resident:
        return [list(range(len(selections)))]
    groups: list[list[int]] = []
    count = shuffle_rows
    for at in torch.randperm(len(selections), generator=generator).tolist():
        if count >= shuffle_rows:
            groups.append([])
            count = 0
        groups[-1].append(at)
        count += selections[at].take
    return groups


def order_generator(seed: int, epoch: int, rank: int, segment: int) -> torch.Generator:
    """What orders a rank's rows; ``segment`` counts the divisions of an epoch (see ``reshard``)."""
    return step_generator(seed, 4, epoch, rank, *([segment] if segment else []))


class ShardReader:
    """The batches of one rank, epoch by epoch.

    Args:
        selections: this rank's units (see ``shard``).
        plan: of all ranks.
        rank: this rank.
        seed: with the epoch decides the order.
        blocks: reads units in the given order; Ray Data in production, inline in tests.
        resident: keep the rows after the first pass.
        shuffle_rows: rows of the window that a streaming epoch shuffles in.
        segment: how often the epoch's rows were divided among ranks before (see ``reshard``).
        image_dim: D, which the batches of a rank without rows have as well.
    """

    def __init__(
        self,
        selections: Sequence[RowSelection],
        plan: EpochPlan,
        rank: int,
        seed: int,
        blocks: BlockSource,
        resident: bool,
        shuffle_rows: int = 16384,
        segment: int = 0,
        image_dim: int = 0,
    ) -> None:
        self.selections, self.plan, self.rank, self.seed = list(selections), plan, rank, seed
        self.blocks, self.resident, self.shuffle_rows = blocks, resident, shuffle_rows
        self.segment = segment
        self._none = Rows(torch.empty(0, image_dim), TagLists.cat([]))
        self._rows: Rows | None = None

    def load(self) -> Rows:
        """All rows of this rank in one piece, read once and kept."""
        if self._rows is None:
            parts = list(self.blocks(self.selections))
            self._rows = Rows.cat(parts) if parts else self._none
            expected = self.plan.rows_per_rank[self.rank]
            assert len(self._rows) == expected, f"read {len(self._rows)} rows, not {expected}"
        return self._rows

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Rows]:
        """The batches of an epoch from ``first_step`` on; the order depends on (seed, epoch, rank)."""
        generator = order_generator(self.seed, epoch, self.rank, self.segment)
        skip = self.plan.before(self.rank, first_step)
        if not self.resident:
            yield from self._rebatch(self._stream(generator, skip), first_step)
            return
        rows = self.load()
        order_N = torch.randperm(len(rows), generator=generator)
        for step in range(first_step, self.plan.steps):
            at = self.plan.before(self.rank, step)
            yield rows.select(order_N[at : at + self.plan.size(self.rank, step)])

    def _stream(self, generator: torch.Generator, skip: int) -> Iterator[Rows]:
        """The rows in their order less the first ``skip``, a group at a time. Groups that lie wholly
        in those are not read."""
        groups = row_groups(self.selections, False, self.shuffle_rows, generator)
        sizes = [sum(self.selections[at].take for at in group) for group in groups]
        first = 0
        while first < len(groups) and skip >= sizes[first]:
            torch.randperm(sizes[first], generator=generator)
            skip -= sizes[first]
            first += 1
        blocks = iter(
            self.blocks([self.selections[at] for group in groups[first:] for at in group])
        )
        held: list[Rows] = []
        count = 0
        for size in sizes[first:]:
            while count < size:  # a block may hold less or more than a unit
                held.append(next(blocks))
                count += len(held[-1])
            window = Rows.cat(held)
            yield window.select(torch.randperm(size, generator=generator)[skip:])
            held, count, skip = (
                [_slice(window, size, count)] if count > size else [],
                count - size,
                0,
            )
        assert count == 0 and next(blocks, None) is None, "rows left over at the epoch's end"

    def _rebatch(self, windows: Iterator[Rows], first_step: int) -> Iterator[Rows]:
        """Cut windows into the sizes of the plan."""
        window, at = next(windows, self._none), 0
        for step in range(first_step, self.plan.steps):
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
