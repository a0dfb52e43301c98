"""Losses as plain functions of scores; they know neither the model nor the data.

Shapes: n relevant (image, tag) pairs, K mined irrelevant tags for each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def triplet_hinge(
    positive_n: Tensor, negative_nK: Tensor, valid_nK: Tensor, margin: float = 1.0
) -> Tensor:
    """``max(0, m + s(i, k) - s(i, j))`` of each triplet, 0 where not valid (He et al., 2015, Eq 5-6).

    Args:
        positive_n: scores ``s(i, j)`` of relevant pairs.
        negative_nK: scores ``s(i, k)`` of the irrelevant tags mined for each pair.
        valid_nK: bool, False where a place holds no triplet.

    Returns:
        ``[n, K]`` losses.
    """
    hinge_nK = torch.relu(margin + negative_nK - positive_n[:, None])
    return torch.where(valid_nK, hinge_nK, 0.0)


def smooth_triplet_loss(
    score_BP: Tensor, row_n: Tensor, column_n: Tensor, log_left_out_B: Tensor
) -> Tensor:
    """``log(1 + sum_k exp(s(i, k) - s(i, j)))`` over all irrelevant tags k of each relevant pair (i, j).

    All triplets of the pair in one smooth maximum: the N-pair loss (Sohn, 2016) with all other tags as
    negatives.

    Args:
        score_BP: scores of all P pool tags, float32 or bfloat16; they are overwritten.
        row_n, column_n: image and pool column of each relevant pair.
        log_left_out_B: log of (irrelevant tags in the vocabulary / irrelevant tags in the pool), 0 when the
            pool is every tag. It scales the sum up to the whole vocabulary.

    Returns:
        ``[n]`` losses; 0 for an image to which every tag is relevant.
    """
    loss_n: Tensor = _SmoothTriplets.apply(score_BP, row_n, column_n, log_left_out_B)
    return loss_n


class _SmoothTriplets(torch.autograd.Function):
    """The scores of a batch are the largest thing of a step: they are read and written as little as can be.

    Forward turns them into exponentials, backward these into the gradient by one factor a row, both in
    place. What is computed in float32 on the way is a block of rows at a time, which stays in the cache.
    """

    @staticmethod
    def forward(
        ctx: Any, score_BP: Tensor, row_n: Tensor, column_n: Tensor, log_left_out_B: Tensor
    ) -> Tensor:
        positive_n = score_BP[row_n, column_n].float()
        # Not -inf: an image to which every tag is relevant would give inf - inf.
        score_BP[row_n, column_n] = -1e9
        most_B = score_BP.amax(1).float()
        sum_B = torch.empty_like(most_B)
        for rows in _row_blocks(score_BP):
            exp_bP = (score_BP[rows] - most_B[rows, None]).exp_()
            torch.sum(exp_bP, dim=1, out=sum_B[rows])
            score_BP[rows] = exp_bP
        irrelevant_B = sum_B.log() + most_B + log_left_out_B
        over_n = irrelevant_B[row_n] - positive_n
        ctx.save_for_backward(sum_B, over_n, row_n, column_n)
        ctx.exp_BP = score_BP
        return torch.nn.functional.softplus(over_n)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        sum_B, over_n, row_n, column_n = ctx.saved_tensors
        gradient_BP, ctx.exp_BP = ctx.exp_BP, None
        slope_n = over_n.sigmoid() * gradients[0]
        share_B = torch.zeros_like(sum_B).index_add_(0, row_n, slope_n).div_(sum_B)
        for rows in _row_blocks(gradient_BP):
            gradient_BP[rows] = gradient_BP[rows] * share_B[rows, None]
        gradient_BP.index_put_((row_n, column_n), -slope_n.to(gradient_BP.dtype), accumulate=True)
        return gradient_BP, None, None, None


def _row_blocks(value_BP: Tensor) -> list[slice]:
    """Blocks of rows: on a CPU such that float32 of one stays in the cache, elsewhere large ones."""
    numbers = 1 << (20 if value_BP.device.type == "cpu" else 26)
    rows, step = len(value_BP), max(1, numbers // max(value_BP.shape[1], 1))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def harmonic(rank_n: Tensor) -> Tensor:
    """``[n]``: harmonic numbers, the sum of 1/i for i = 1 .. rank; 0 for rank 0.

    Exact up to 16, above by the Euler-Maclaurin formula.
    """
    small = torch.cat([rank_n.new_zeros(1), (1.0 / torch.arange(1, 17)).to(rank_n).cumsum(0)])
    large = rank_n.clamp(min=16)
    tail = large.log() + 0.5772156649015329 + 0.5 / large - 1 / (12 * large * large)
    return torch.where(rank_n > 16, tail, small[rank_n.clamp(0, 16).long()])


def warp_weight(violations_n: Tensor, sampled_n: Tensor, irrelevant_n: Tensor) -> Tensor:
    """``[n]``: WARP's weight ``sum_{i<=rank} 1/i`` of each relevant pair (Weston et al., 2011, section 4).

    The rank is estimated from the pool: the share of its irrelevant tags that violate the margin, times all
    irrelevant tags. It is exact when the pool is every tag.

    Args:
        violations_n: irrelevant tags of the pool that violate the margin.
        sampled_n: irrelevant tags in the pool.
        irrelevant_n: irrelevant tags in the whole vocabulary.
    """
    share_n = violations_n.float() / sampled_n.clamp(min=1).float()
    return harmonic(torch.floor(share_n * irrelevant_n.float() + 0.5))


def tag_frequency_weight(count_T: Tensor, power: float) -> Tensor:
    """float32 ``[T]``: weights ``count^-power``, scaled so that the mean weight of all training pairs is 1.

    New tags, whose count is 0, weigh as much as those seen once.
    """
    weight_T = count_T.clamp(min=1).double().pow(-power)
    pairs = count_T.clamp(min=1).double()
    return (weight_T * (pairs.sum() / (weight_T * pairs).sum())).float()
