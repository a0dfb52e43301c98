"""Kernel ridge regression over all ranks' rows: sums are added up, every rank solves.

Shapes: D feature size, R landmarks, T tags.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from distributed import comm
from distributed.pipeline import Rows, ShardReader, block_rows
from drel_core.kernel import KernelConfig, KernelHead, RidgeSums, median_square_distance
from drel_core.model import DREL


def fit_kernel(
    config: KernelConfig, model: DREL, reader: ShardReader, count_T: Tensor, seed: int
) -> KernelHead:
    """The regression on the rows of all ranks' readers, alike on all ranks.

    Args:
        model: standardises the features.
        count_T: training images with each tag.
        seed: decides which rows are landmarks, where not all are.

    Communication: landmarks are gathered once; the sums ``[R, R]`` and ``[R, T]`` are all-reduced once.
    """
    device = model.mean_D.device
    per_rank = reader.plan.rows_per_rank
    total, rank = sum(per_rank), comm.rank()
    chosen = np.arange(total)
    if total > config.landmarks:
        chosen = np.sort(np.random.default_rng(seed).permutation(total)[: config.landmarks])
    bounds = np.searchsorted(chosen, np.cumsum([0, *per_rank]))
    mine = chosen[bounds[rank] : bounds[rank + 1]] - sum(per_rank[:rank])

    local_rD, at = [torch.zeros(0, model.image_dim, device=device)], 0
    for rows in _pieces(reader):
        here = mine[(mine >= at) & (mine < at + len(rows))] - at
        local_rD.append(model.standardised(rows.features_BD[torch.from_numpy(here)].to(device)))
        at += len(rows)
    landmark_RD = comm.gather_rows(torch.cat(local_rD), np.diff(bounds).tolist())
    sharpness = config.width / median_square_distance(landmark_RD)
    sums = RidgeSums(landmark_RD, sharpness, (count_T.double() / total).float().to(device))
    for rows in _pieces(reader):
        relevant_BT = rows.tags.mask(len(count_T)).to(device)
        sums.add(model.standardised(rows.features_BD.to(device)), relevant_BT)
    sums.gram_RR = comm.sum_over_ranks(sums.gram_RR)
    sums.hits_RT = comm.sum_over_ranks(sums.hits_RT)
    return sums.solve(config.ridge, config.factor, total)


def _pieces(reader: ShardReader) -> Iterator[Rows]:
    """This rank's rows in order, in one piece where they are resident."""
    if reader.resident:
        rows = reader.load()
        if len(rows):
            yield rows
        return
    for block in reader.blocks(reader.reads):
        yield block_rows(block)
