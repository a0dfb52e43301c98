"""Kernel ridge regression over all ranks' rows: sums are added up, every rank solves.

Shapes: D feature size, d dimensions that the kernel sees, R landmarks, T tags.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from distributed.data.epoch import ShardReader
from distributed.data.rows import Rows
from distributed.runtime.progress import Log, Progress, saying
from distributed.training import collectives
from drel_core.decision.block_shares import ROWS, Scale, choose_shares
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

_BLOCK = 1024
_MOST_TAGS = 20_000  # with 5000 landmarks 0.4 GB of weights
_SHARE_TAGS = 1000  # that shares are chosen by


def fit_kernel(
    config: KernelConfig,
    model: DREL,
    reader: ShardReader,
    count_T: Tensor,
    seed: int,
    older: tuple[KernelHead, int] | None = None,
    dims: Sequence[int] = (),
    log: Log | None = None,
) -> FittedKernel:
    """The regression on the rows of all ranks' readers, alike on all ranks.

    With a parent, whose images are not all here, the weights stay near the parent's: what the rows here say
    is added, on landmarks that are fresh rows beside the parent's. Of those as many go as there is no room
    for, the ones with the smallest weights first. Shares, and the noise that follows from them, are of all
    images, the parent's included.

    Args:
        model: standardises the features.
        count_T: training images with each tag, the parent's images included.
        seed: decides which rows are landmarks, where not all are.
        older: a parent, an older regression of the first tags, and how many rows it has not seen; these come
            first.
        dims: D of each features column, where there are several. How much each counts is the parent's, or
            ``config.shares``, or chosen on rows left out.
        log: takes lines of progress, where it takes long.

    Communication: landmarks are gathered once and their basis sent to all; the sums ``[R, R]`` and
    ``[R, T]`` are all-reduced once. Where shares are chosen, tags of some landmarks are gathered.
    """
    device = model.mean_D.device
    per_rank = reader.plan.rows_per_rank
    known, room = sum(per_rank), config.landmarks
    chosen, parent = np.arange(known), None
    if older is not None:
        parent, fresh = older[0].to(device), older[1]
        chosen, known, room = chosen[:fresh], parent.rows + fresh, config.landmarks // 2
    if len(chosen) > room:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(chosen))[:room])
    landmark_RD = _landmarks(chosen, model, reader)
    shares: tuple[float, ...] = ()
    if parent is not None:
        basis_Dd = parent.basis_Dd
    elif len(dims) > 1:
        with saying(log, "kernel: choosing how much each features column counts"):
            shares = tuple(config.shares) or _shares(
                landmark_RD, chosen, reader, count_T, dims, config
            )
        basis_Dd = _alike(Scale.of(landmark_RD, dims, shares).basis(landmark_RD, config.dims))
    else:
        basis_Dd = _alike(principal_basis(landmark_RD, config.dims))
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
    progress = Progress(log, "kernel", per_rank[collectives.rank()], "rows of this worker")
    for rows in _pieces(reader):
        for start in range(0, len(rows), _BLOCK):
            part = rows.select(torch.arange(start, min(start + _BLOCK, len(rows))))
            relevant_BT = part.tags.mask(len(count_T)).to(device)
            sums.add(model.standardised(part.features_BD.to(device)), relevant_BT)
            progress.step(len(part))
    sums.gram_RR = collectives.sum_over_ranks(sums.gram_RR)
    sums.hits_RT = collectives.sum_over_ranks(sums.hits_RT)
    factor = config.factor if parent is None else float(parent.factor)
    with saying(log, f"kernel: solving for {len(landmark_Rd):,} landmarks"):
        solved = sums.solve(config.ridge, factor, known, start_RT)
    if parent is not None:
        solved = replace(solved, head=_as_parent(solved.head, parent, count_T))
    return replace(solved, shares=shares)


def _as_parent(head: KernelHead, parent: KernelHead, count_T: Tensor) -> KernelHead:
    """The same, saying nothing of tags of which the parent says nothing and that still have no image. Where
    the parent is of an older bundle, without a noise of each tag, its noise: its calibration counts on that.
    """
    if not parent.noise_is_of_tags:
        head = replace(head, noise=parent.noise)
    silent_T = torch.zeros(len(count_T), dtype=torch.bool, device=parent.share_T.device)
    silent_T[: len(parent.share_T)] = parent.silent_T
    silent_T &= count_T.to(silent_T.device) == 0
    return head.silenced(silent_T) if bool(silent_T.any()) else head


def _shares(
    landmark_RD: Tensor,
    chosen: np.ndarray,
    reader: ShardReader,
    count_T: Tensor,
    dims: Sequence[int],
    config: KernelConfig,
) -> tuple[float, ...]:
    """How much each features column counts, by landmarks evenly spread over all and the most frequent tags;
    alike on all ranks.

    Args:
        chosen: the landmarks' numbers among all ranks' rows.
    """
    some = np.unique(np.linspace(0, len(chosen) - 1, min(ROWS, len(chosen))).astype(np.int64))
    tag_n = count_T.topk(min(_SHARE_TAGS, len(count_T))).indices.sort().values

    def relevant(rows: Rows) -> Tensor:
        return rows.tags.mask(len(count_T))[:, tag_n].float()

    carried_rn = _gathered(chosen[some], reader, relevant, len(tag_n), landmark_RD.device)
    best = choose_shares(landmark_RD[torch.from_numpy(some)], carried_rn > 0, dims, config)
    # Ranks may round differently where two candidates are equally good: the first rank's counts.
    told = landmark_RD.new_tensor(best)
    told = collectives.sum_over_ranks(told if collectives.rank() == 0 else torch.zeros_like(told))
    return tuple(told.tolist())


def _alike(basis_Dd: Tensor | None) -> Tensor | None:
    """The first rank's, on all: sums over ranks that see features differently would mean nothing."""
    if basis_Dd is None:
        return None
    return collectives.sum_over_ranks(
        basis_Dd if collectives.rank() == 0 else torch.zeros_like(basis_Dd)
    )


def _landmarks(chosen: np.ndarray, model: DREL, reader: ShardReader) -> Tensor:
    """Standardised features ``[R, D]`` of rows by their number among all ranks' (sorted), on all ranks."""
    device = model.mean_D.device

    def standardised(rows: Rows) -> Tensor:
        return model.standardised(rows.features_BD.to(device))

    return _gathered(chosen, reader, standardised, model.image_dim, device)


def _gathered(
    chosen: np.ndarray,
    reader: ShardReader,
    of: Callable[[Rows], Tensor],
    width: int,
    device: torch.device,
) -> Tensor:
    """float32 ``[R, width]``, ``of`` some rows by their number among all ranks' (sorted), on all ranks."""
    per_rank, rank = reader.plan.rows_per_rank, collectives.rank()
    bounds = np.searchsorted(chosen, np.cumsum([0, *per_rank]))
    mine = chosen[bounds[rank] : bounds[rank + 1]] - sum(per_rank[:rank])
    local_rw, at = [torch.zeros(0, width, device=device)], 0
    for rows in _pieces(reader):
        here = mine[(mine >= at) & (mine < at + len(rows))] - at
        local_rw.append(of(rows.select(torch.from_numpy(here))).to(device))
        at += len(rows)
    return collectives.gather_rows(torch.cat(local_rw), np.diff(bounds).tolist())


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
