"""Exact top k over many tags in blocks, so that no matrix of B x T scores is ever held.

Shapes: B images, L latent size, T tags.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


class NoBestScore(ValueError):
    """The best score of a row is NaN or infinite: its scores have no order.

    Attributes:
        bad_B: bool, the rows.
    """

    def __init__(self, bad_B: Tensor) -> None:
        super().__init__("scores hold NaN or Inf")
        self.bad_B = bad_B


def check_best(score_Bk: Tensor) -> None:
    """Make sure that scores of images, best first, are numbers.

    Raises:
        NoBestScore: the first score of a row is NaN or infinite.
    """
    # Looked at one by one only where there is need: a sum is finite where all parts are, or too large.
    if score_Bk.numel():
        first = score_Bk[0, 0] if len(score_Bk) == 1 else score_Bk[:, 0].sum()
        if math.isfinite(float(first)):
            return
    bad_B = ~torch.isfinite(score_Bk[:, :1]).all(1)
    if bad_B.any():
        raise NoBestScore(bad_B)


def topk(score_BT: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best scores and their columns ``[B, min(k, T)]``, best first; of equals the lowest column wins.

    ``torch.topk`` does not say which of equal scores it takes. Taking k + 1 columns shows whether there are
    equal scores. Only then are they put in order, and rows whose k-th score is shared with a column left
    out are sorted whole, stably.

    Raises:
        NoBestScore: a score is NaN.
    """
    k = min(k, score_BT.shape[1])
    if k == 0 or len(score_BT) == 0:
        empty = score_BT.new_empty(len(score_BT), k)
        return empty, empty.long()
    more_Bk, column_Bk = score_BT.topk(min(k + 1, score_BT.shape[1]), dim=1)
    # One row is a server's most frequent case: each operation of torch takes longer than this.
    if len(score_BT) == 1:
        (more,) = more_Bk.tolist()
        if math.isnan(more[0]):
            raise NoBestScore(torch.ones(1, dtype=torch.bool, device=score_BT.device))
        if len(set(more)) == len(more):
            return more_Bk[:, :k], column_Bk[:, :k]
    bad_B = torch.isnan(more_Bk[:, 0])  # torch.topk takes NaN for the greatest
    if bad_B.any():
        raise NoBestScore(bad_B)
    if not (more_Bk[:, 1:] == more_Bk[:, :-1]).any():
        return more_Bk[:, :k], column_Bk[:, :k]
    unsure_B = (more_Bk[:, k:] == more_Bk[:, k - 1 : k]).any(1)
    # Among the chosen, equal scores come in any order: order columns first, then scores stably.
    column_Bk, _ = column_Bk[:, :k].sort(dim=1)
    best_Bk, order = score_BT.gather(1, column_Bk).sort(dim=1, descending=True, stable=True)
    column_Bk = column_Bk.gather(1, order)
    if unsure_B.any():
        score, column = score_BT[unsure_B].sort(dim=1, descending=True, stable=True)
        best_Bk[unsure_B], column_Bk[unsure_B] = score[:, :k], column[:, :k]
    return best_Bk, column_Bk


def merge_topk(
    score_a: Tensor, id_a: Tensor, score_b: Tensor, id_b: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The k best of two lists per row ``[B, *]``, where every id of ``a`` is below every id of ``b``."""
    score, place = topk(torch.cat([score_a, score_b], dim=1), k)
    return score, torch.cat([id_a, id_b], dim=1).gather(1, place)


def topk_blockwise(
    image_BL: Tensor,
    tag_TL: Tensor,
    k: int,
    bias_T: Tensor | None = None,
    block: int = 65536,
    adjust: Callable[[Tensor, slice], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Top k of ``image_BL @ tag_TL.T + bias_T``, ``block`` tags at a time.

    Args:
        adjust: turns the scores of a block of tags into those that rank (``ScoreAdjustment.for_images``).

    Returns:
        float32 scores and int64 tag ids, both ``[B, min(k, T)]``, best first, ties by lowest id.
    """

    is_one = len(tag_TL) <= block  # a slice takes as long as some of the multiplications

    def best_of(part: slice) -> tuple[Tensor, Tensor]:
        tag_Ln = (tag_TL if is_one else tag_TL[part]).T
        bias_n = bias_T if is_one or bias_T is None else bias_T[part]
        score_Bn = image_BL @ tag_Ln if bias_n is None else torch.addmm(bias_n, image_BL, tag_Ln)
        return topk(score_Bn if adjust is None else adjust(score_Bn, part), k)

    best, ids = best_of(slice(0, block))
    for start in range(block, len(tag_TL), block):
        score, column = best_of(slice(start, start + block))
        best, ids = merge_topk(best, ids, score, column + start, k)
    return best, ids
