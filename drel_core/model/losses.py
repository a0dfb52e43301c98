"""Losses as plain functions of scores; they know neither the model nor the data.

Shapes: n relevant (image, tag) pairs, K mined irrelevant tags for each.
"""

from __future__ import annotations

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
    positive_n: Tensor, score_BP: Tensor, relevant_BP: Tensor, row_n: Tensor, log_left_out_B: Tensor
) -> Tensor:
    """``log(1 + sum_k exp(s(i, k) - s(i, j)))`` over all irrelevant tags k of each relevant pair (i, j).

    All triplets of the pair in one smooth maximum: the N-pair loss (Sohn, 2016) with all other tags as
    negatives.

    Args:
        positive_n: scores ``s(i, j)`` of relevant pairs.
        score_BP: scores of all P pool tags.
        relevant_BP: bool, the pool tag is relevant to the image.
        row_n: the image of each pair.
        log_left_out_B: log of (irrelevant tags in the vocabulary / irrelevant tags in the pool), 0 when the
            pool is every tag. It scales the sum up to the whole vocabulary.

    Returns:
        ``[n]`` losses; 0 for an image to which every tag is relevant.
    """
    # Not -inf: the gradient of a logsumexp over nothing but -inf is NaN.
    irrelevant_B = score_BP.masked_fill(relevant_BP, -1e9).logsumexp(1) + log_left_out_B
    return torch.nn.functional.softplus(irrelevant_B[row_n] - positive_n)


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
