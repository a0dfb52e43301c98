"""Exact top-k over many tags by blocks, so that no B x T of scores is ever held.

Shapes: B images, L latent size, T tags.
"""

from __future__ import annotations

import torch
from torch import Tensor


def topk(score_BT: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best scores and their columns, best first; of equal scores the lowest column wins.

    ``torch.topk`` leaves the choice among equals open; rows where the k-th score is shared with a
    column left out are sorted again, stably.

    Raises:
        ValueError: a score is NaN.
    """
    if torch.isnan(score_BT).any():
        raise ValueError("scores hold NaN")
    k = min(k, score_BT.shape[1])
    if k == 0 or len(score_BT) == 0:
        empty = score_BT.new_empty(len(score_BT), k)
        return empty, empty.long()
    best_Bk, column_Bk = score_BT.topk(k, dim=1)
    # Among the chosen, equal scores come in any order: order columns first, then scores stably.
    column_Bk, _ = column_Bk.sort(dim=1)
    best_Bk, order = score_BT.gather(1, column_Bk).sort(dim=1, descending=True, stable=True)
    column_Bk = column_Bk.gather(1, order)
    unsure = (score_BT == best_Bk[:, -1:]).sum(1) > (best_Bk == best_Bk[:, -1:]).sum(1)
    if unsure.any():
        score, column = score_BT[unsure].sort(dim=1, descending=True, stable=True)
        best_Bk[unsure], column_Bk[unsure] = score[:, :k], column[:, :k]
    return best_Bk, column_Bk


def merge_topk(
    score_a: Tensor, id_a: Tensor, score_b: Tensor, id_b: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The k best of two lists a row, where every id of ``a`` is below every id of ``b``."""
    score, place = topk(torch.cat([score_a, score_b], dim=1), k)
    return score, torch.cat([id_a, id_b], dim=1).gather(1, place)


def topk_blockwise(
    image_BL: Tensor, tag_TL: Tensor, k: int, bias_T: Tensor | None = None, block: int = 65536
) -> tuple[Tensor, Tensor]:
    """Top k of ``image_BL @ tag_TL.T + bias_T``, ``block`` tags at a time.

    Returns:
        float32 scores and int64 tag ids, both ``[B, min(k, T)]``, best first, ties by lowest id.
    """
    best = image_BL.new_empty(len(image_BL), 0)
    ids = best.long()
    for start in range(0, len(tag_TL), block):
        part_nL = tag_TL[start : start + block]
        score_Bn = image_BL @ part_nL.T
        if bias_T is not None:
            score_Bn += bias_T[start : start + block]
        score, column = topk(score_Bn, k)
        best, ids = merge_topk(best, ids, score, column + start, k)
    return best, ids
