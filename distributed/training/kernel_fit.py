"""Kernel ridge regression over all ranks' rows: sums are added up, every rank solves.

Shapes: D feature size, d dimensions that the kernel sees, R landmarks, T tags.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from distributed.data.epoch import ShardReader
from distributed.data.rows import Rows
from distributed.training import collectives
from drel_core.decision.kernel import (
    FittedKernel,
    KernelConfig,
    KernelHead,
    RidgeSums,
    median_square_distance,
    principal_basis,
    project,
)
from drel_core.model.towers import DREL

_MOST_TAGS = 20_000  # with 5000 landmarks 0.4 GB of weights


def fit_kernel(
    config: KernelConfig,
    model: DREL,
    reader: ShardReader,
    count_T: Tensor,
    seed: int,
    parent: KernelHead | None = None,
    fresh: int = 0,
) -> FittedKernel:
    """The regression on the rows of all ranks' readers, alike on all ranks.

    With a parent, whose images are not all here, the weights stay near the parent's: what the rows here say
    is added, on landmarks that are fresh rows beside the parent's. Of those as many go as there is no room
    for, the ones with the smallest weights first.

    Args:
        model: standardises the features.
        count_T: training images with each tag, the parent's images included.
        seed: decides which rows are landmarks, where not all are.
        parent: an older regression, of the first tags.
        fresh: with a parent, how many rows it has not seen; they come first.

    Communication: landmarks are gathered once and their basis sent to all; the sums ``[R, R]`` and
    ``[R, T]`` are all-reduced once.
    """
    device = model.mean_D.device
    per_rank = reader.plan.rows_per_rank
    known, room = sum(per_rank), config.landmarks
    chosen = np.arange(known)
    if parent is not None:
        parent = parent.to(device)
        chosen, known, room = chosen[:fresh], parent.rows + fresh, config.landmarks // 2
    if len(chosen) > room:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(chosen))[:room])
    landmark_RD = _landmarks(chosen, model, reader)
    basis_Dd = _basis(landmark_RD, config.dims) if parent is None else parent.basis_Dd
    landmark_Rd = project(landmark_RD, basis_Dd)
    if parent is None:
        sharpness, start_RT = config.width / median_square_distance(landmark_Rd), None
    else:
        parent = parent.largest(config.landmarks - len(landmark_Rd))
        landmark_Rd = torch.cat([parent.landmark_Rd, landmark_Rd])
        sharpness = float(parent.sharpness)
        start_RT = landmark_Rd.new_zeros(len(landmark_Rd), len(count_T))
        start_RT[: len(parent.weight_RT), : parent.weight_RT.shape[1]] = parent.weight_RT
    share_T = (count_T.double() / known).float().to(device)
    sums = RidgeSums(landmark_Rd, sharpness, share_T, basis_Dd)
    for rows in _pieces(reader):
        relevant_BT = rows.tags.mask(len(count_T)).to(device)
        sums.add(model.standardised(rows.features_BD.to(device)), relevant_BT)
    sums.gram_RR = collectives.sum_over_ranks(sums.gram_RR)
    sums.hits_RT = collectives.sum_over_ranks(sums.hits_RT)
    factor = config.factor if parent is None else float(parent.factor)
    return sums.solve(config.ridge, factor, known, start_RT)


def _basis(landmark_RD: Tensor, dims: int) -> Tensor | None:
    """The first rank's, on all: sums over ranks that see features differently would mean nothing."""
    basis_Dd = principal_basis(landmark_RD, dims)
    if basis_Dd is None:
        return None
    return collectives.sum_over_ranks(
        basis_Dd if collectives.rank() == 0 else torch.zeros_like(basis_Dd)
    )


def _landmarks(chosen: np.ndarray, model: DREL, reader: ShardReader) -> Tensor:
    """Standardised features ``[R, D]`` of rows by their number among all ranks' (sorted), on all ranks."""
    per_rank, rank, device = reader.plan.rows_per_rank, collectives.rank(), model.mean_D.device
    bounds = np.searchsorted(chosen, np.cumsum([0, *per_rank]))
    mine = chosen[bounds[rank] : bounds[rank + 1]] - sum(per_rank[:rank])
    local_rD, at = [torch.zeros(0, model.image_dim, device=device)], 0
    for rows in _pieces(reader):
        here = mine[(mine >= at) & (mine < at + len(rows))] - at
        local_rD.append(model.standardised(rows.features_BD[torch.from_numpy(here)].to(device)))
        at += len(rows)
    return collectives.gather_rows(torch.cat(local_rD), np.diff(bounds).tolist())


def _pieces(reader: ShardReader) -> Iterator[Rows]:
    """This rank's rows in order, in one piece where they are resident."""
    if reader.resident:
        rows = reader.load()
        if len(rows):
            yield rows
        return
    yield from reader.blocks(reader.selections)


def has_room(num_tags: int) -> bool:
    """The vocabulary is small enough for a kernel, whose weights every rank holds for all tags."""
    return num_tags <= _MOST_TAGS
