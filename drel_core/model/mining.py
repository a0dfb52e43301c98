"""Miners choose irrelevant tags for every relevant (image, tag) pair; losses consume their indices.

A miner knows which pool tags are relevant to each image, and never returns a relevant one as valid.

Shapes: B images, P pool columns, n relevant pairs, K triplets per pair. Arguments that all miners share:
score_BP scores, relevant_BP bool, row_n and column_n the image and the pool column of each relevant pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

MinerName = Literal["uniform", "semi-hard", "hard", "violating"]


@dataclass(frozen=True)
class Mined:
    """Mined irrelevant columns.

    Args:
        column_nK: int64 pool columns.
        valid_nK: bool; where it is False there is no triplet, and the column means nothing.
    """

    column_nK: Tensor
    valid_nK: Tensor


def _largest(key_nP: Tensor, k: int) -> Mined:
    top = key_nP.topk(min(k, key_nP.shape[1]), dim=1)
    return Mined(top.indices, top.values > -torch.inf)


@torch.no_grad()
def mine_uniform(
    relevant_BP: Tensor, row_n: Tensor, k: int, generator: torch.Generator | None = None
) -> Mined:
    """K different irrelevant columns for each pair, drawn uniformly; all of them with ``k = 0``."""
    pool = relevant_BP.shape[1]
    if k == 0 or k >= pool:
        column_nK = torch.arange(pool, device=row_n.device).expand(len(row_n), pool)
        return Mined(column_nK, ~relevant_BP[row_n])
    noise_nP = torch.rand(len(row_n), pool, generator=generator, device=row_n.device)
    return _largest(noise_nP.masked_fill_(relevant_BP[row_n], -torch.inf), k)


@torch.no_grad()
def mine_hard(score_BP: Tensor, relevant_BP: Tensor, row_n: Tensor, k: int) -> Mined:
    """The K irrelevant columns with the highest scores of the pair's image; found once per image."""
    per_image = _largest(score_BP.detach().masked_fill(relevant_BP, -torch.inf), k)
    return Mined(per_image.column_nK[row_n], per_image.valid_nK[row_n])


@torch.no_grad()
def mine_violating(
    score_BP: Tensor, relevant_BP: Tensor, row_n: Tensor, column_n: Tensor, margin: float = 1.0
) -> Mined:
    """Every irrelevant column whose score is above that of the relevant one minus the margin.

    WSABIE draws one of these at random (Weston et al., 2011, Algorithm 1); the mean over all of them is the
    expectation of that draw.
    """
    bar_n1 = score_BP[row_n, column_n][:, None] - margin
    column_nK = torch.arange(score_BP.shape[1], device=row_n.device).expand(len(row_n), -1)
    return Mined(column_nK, (score_BP[row_n] > bar_n1) & ~relevant_BP[row_n])


@torch.no_grad()
def mine_semi_hard(
    score_BP: Tensor,
    relevant_BP: Tensor,
    row_n: Tensor,
    column_n: Tensor,
    k: int,
    margin: float = 1.0,
) -> Mined:
    """The K highest-scored irrelevant columns below the relevant one but within the margin.

    These are FaceNet's semi-hard triplets (Schroff et al., 2015): ``s_j - m < s_k < s_j``. A pair without any
    takes the hardest irrelevant columns instead, so that every pair is used.
    """
    score_nP = score_BP.detach()[row_n]
    positive_n1 = score_nP.gather(1, column_n[:, None])
    irrelevant_nP = ~relevant_BP[row_n]
    band_nP = irrelevant_nP & (score_nP < positive_n1) & (score_nP > positive_n1 - margin)
    allowed_nP = torch.where(band_nP.any(1, keepdim=True), band_nP, irrelevant_nP)
    return _largest(score_nP.masked_fill(~allowed_nP, -torch.inf), k)


@torch.no_grad()
def hardness(score_NS: Tensor, most_N: Tensor) -> Tensor:
    """``[S]``: how high irrelevant tags score for some images, as the smooth loss weighs them.

    The sum over images of ``exp(s(i, k) - most_i)``: each image's share is the slope of
    ``log sum_k exp(s(i, k))``, up to a factor of the image.

    Args:
        score_NS: scores of N images and S tags that are irrelevant to all of them.
        most_N: each image's highest score, of these tags and those of other ranks.
    """
    return (score_NS - most_N[:, None]).exp_().sum(0)


def ramped_negatives(pool: int, hardest: int, progress: float, ramp: float) -> int:
    """How many of the hardest columns to take: falls geometrically from the whole pool to ``hardest``.

    Training on the hardest alone from the first step collapses, so easy tags leave over the first ``ramp``
    share of training.

    Args:
        pool: P.
        progress: share of all steps done, 0 to 1.
    """
    if hardest >= pool or pool == 0:
        return max(pool, 1)
    way = 1.0 if ramp <= 0 else min(1.0, progress / ramp)
    return max(1, round(pool ** (1 - way) * hardest**way))
