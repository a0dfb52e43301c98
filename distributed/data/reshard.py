"""How an epoch is read, and what is left of one when the number of ranks changes in its middle.

An epoch's rows are divided among the ranks at its start. When a run goes on with other ranks, the rows
that no step has taken yet are divided anew: every row is seen once, whatever happens. Which rows those
are follows from sizes and seeds; nothing is read for it and no list of rows is kept in a checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from distributed.data.blocks import BlockSource
from distributed.data.epoch import EpochPlan, ShardReader, order_generator, row_groups, shard
from distributed.data.feature_store import RowSelection
from distributed.data.shard_layout import ShardLayout


def rows_left(
    selections: Sequence[RowSelection],
    layout: ShardLayout,
    steps: int,
    done: int,
    epoch: int,
    seed: int,
    segment: int,
) -> list[RowSelection]:
    """The rows that ``done`` of ``steps`` steps of a layout have not taken, in the order of ``selections``.

    Units of which rows are gone name them in ``dropped``, 8 bytes a row.
    """
    plan = EpochPlan.of_steps(sum(selection.take for selection in selections), layout.world, steps)
    left: list[RowSelection] = []
    for rank in range(layout.world):
        mine = shard(selections, layout.world, rank)
        taken = plan.before(rank, done)
        generator = order_generator(seed, epoch, rank, segment)
        kept: dict[int, RowSelection] = {}
        for group in row_groups(mine, layout.resident, layout.shuffle_rows, generator):
            size = sum(mine[at].take for at in group)
            order_n = torch.randperm(size, generator=generator)
            keep_n = np.ones(size, dtype=bool)
            keep_n[order_n[:taken].numpy()] = False
            taken = max(0, taken - size)
            start = 0
            for at in group:
                keep = keep_n[start : start + mine[at].take]
                start += mine[at].take
                if keep.all():
                    kept[at] = mine[at]
                elif keep.any():
                    kept[at] = mine[at].only(keep)
        left += [kept[at] for at in sorted(kept)]
    return left


def epoch_reader(
    selections: Sequence[RowSelection],
    readings: Sequence[ShardLayout],
    steps: int,
    rank: int,
    seed: int,
    epoch: int,
    blocks: BlockSource,
    image_dim: int = 0,
) -> ShardReader:
    """This rank's batches of an epoch from the first step of its last layout on.

    Args:
        selections: all rows of the epoch.
        readings: how they were divided so far; the last is how to go on.
        steps: of the whole epoch.
    """
    left = list(selections)
    for segment, (before, after) in enumerate(pairwise(readings)):
        left = rows_left(
            left,
            before,
            steps - before.first_step,
            after.first_step - before.first_step,
            epoch,
            seed,
            segment,
        )
    last = readings[-1]
    plan = EpochPlan.of_steps(
        sum(selection.take for selection in left), last.world, steps - last.first_step
    )
    return ShardReader(
        shard(left, last.world, rank),
        plan,
        rank,
        seed,
        blocks,
        last.resident,
        last.shuffle_rows,
        segment=len(readings) - 1,
        image_dim=image_dim,
    )
