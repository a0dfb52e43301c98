"""The pooled step: every pool tag is encoded once, and one matmul scores all triplets of a batch (Eq 5-6).

One device runs this as it is. With many, each encodes its part of the pool, and the caller passes two
functions that communicate.

Shapes: B images of this rank, P pool tags, p pool tags encoded on this rank, E embedding size, L latent size,
n relevant pairs, K mined tags for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from drel_core.model.losses import smooth_triplet_loss, triplet_hinge, warp_weight
from drel_core.model.mining import (
    Mined,
    MinerName,
    mine_hard,
    mine_semi_hard,
    mine_uniform,
    mine_violating,
    ramped_negatives,
)
from drel_core.model.towers import DREL
from drel_core.scoring.tag_lists import TagLists


@dataclass(kw_only=True)
class LossConfig:
    """The pairwise hinge and its miner."""

    kind: Literal["hinge", "smooth"] = "hinge"
    """hinge: Eq 5-6 over mined triplets. smooth: all triplets of a relevant pair in one soft maximum, \
    without margin, miner or weighting"""
    margin: float = 1.0
    """m of Eq 5: how far the score of a relevant tag is to be above that of an irrelevant one"""
    miner: MinerName = "uniform"
    """which irrelevant tags of the pool a relevant one is compared with. uniform: random ones; hard: those \
    with the highest scores; semi-hard: the highest that are below the relevant one, but not by the \
    margin; violating: all that are not below it by the margin"""
    negatives: int = 0
    """irrelevant tags for each relevant pair; 0 takes every tag of the pool (miner uniform). The miner \
    violating takes all that violate the margin"""
    ramp: float = 0.3
    """share of training over which the miners `hard` and `semi-hard` narrow down to `negatives`"""
    weighting: Literal["none", "warp"] = "none"
    """none: relevant pairs count alike; warp: by the harmonic number of their rank (Weston et al., 2011)"""
    tag_weight_power: float = 0.0
    """weigh each relevant tag by frequency^-power; -1: by the size of the data"""

    def __post_init__(self) -> None:
        if self.negatives < 0:
            raise ValueError(f"loss.negatives is {self.negatives}; it must be 0 or more")
        if self.negatives == 0 and self.miner in ("hard", "semi-hard"):
            raise ValueError(f"loss.miner {self.miner} needs loss.negatives of 1 or more")


@dataclass(frozen=True)
class PooledBatch:
    """The input of one rank's step.

    Args:
        features_BD: raw features.
        tags: the images' relevant tags, as tag ids.
        pool_P: sorted, different tag ids; includes every relevant tag of every rank's batch.
        vocabulary_size: T.
        metric_on_tags: apply M to the tags, where they are fewer, instead of the images.
        hard_H: pool columns of tags that were sought because they score high; irrelevant to all images of
            all ranks. None: there are none.
    """

    features_BD: Tensor
    tags: TagLists
    pool_P: Tensor
    vocabulary_size: int
    metric_on_tags: bool
    hard_H: Tensor | None = None

    @property
    def hard(self) -> int:
        return 0 if self.hard_H is None else len(self.hard_H)


@dataclass(frozen=True)
class StepStats:
    """Sums over this rank's batch, each a 0-d tensor: add them up over ranks, then divide.

    Attributes:
        loss: weighted losses of relevant pairs.
        weight: the weights of these pairs; ``loss / weight`` is the mean loss.
        triplets: triplets compared.
        active: those with a loss above 0.
        violation: their hinges, unweighted.
    """

    loss: Tensor
    weight: Tensor
    triplets: Tensor
    active: Tensor
    violation: Tensor


def _identity(value: Tensor) -> Tensor:
    return value


class PooledStep(nn.Module):
    """Scores a batch against a pool; gives the loss, scaled for gradients that are averaged over ranks.

    Args:
        model: the towers and M.
        config: loss and miner.
        tag_weight_T: float32 weight of each tag as a relevant one.
        gather: turns this rank's encoded tags ``[p, L + 1]`` into all ranks' ``[P, L + 1]``, with
            gradient; the identity on one rank.
        sum_over_ranks: sums a detached scalar over ranks; the identity on one rank.
        world: number of ranks. Data-parallel training averages gradients over ranks. The loss is multiplied
            by this number, so that the average is the gradient of the mean over the global batch.
    """

    def __init__(
        self,
        model: DREL,
        config: LossConfig,
        tag_weight_T: Tensor,
        gather: Callable[[Tensor], Tensor] = _identity,
        sum_over_ranks: Callable[[Tensor], Tensor] = _identity,
        world: int = 1,
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.tag_weight_T = tag_weight_T
        self.gather = gather
        self.sum_over_ranks = sum_over_ranks
        self.world = world

    def forward(
        self, batch: PooledBatch, embedding_pE: Tensor, progress: float, mining_seed: int = 0
    ) -> tuple[Tensor, StepStats]:
        """The loss of this rank (its share of the global mean, times ``world``) and its sums.

        Args:
            batch: images and pool.
            embedding_pE: rows of the tag table that this rank encodes.
            progress: share of all steps done, 0 to 1; narrows the miners.
            mining_seed: of the uniform miner with a limited number of negatives.
        """
        image_BL = self.model.encode_images(batch.features_BD, with_metric=not batch.metric_on_tags)
        tag_PL1 = self.gather(
            self.model.encode_tags(embedding_pE, with_metric=batch.metric_on_tags)
        )
        if self.config.kind == "smooth" and batch.hard_H is not None:
            # Other columns stand for the tags that were left out, these for themselves. As part of their
            # bias the difference costs no pass over the scores.
            rest = (batch.vocabulary_size - batch.hard) / max(len(batch.pool_P) - batch.hard, 1)
            bias_P = torch.zeros_like(tag_PL1[:, -1])
            bias_P[batch.hard_H] = -math.log(rest)
            tag_PL1 = torch.cat([tag_PL1[:, :-1], (tag_PL1[:, -1] + bias_P)[:, None]], dim=1)
        score_BP = self.model.score(image_BL, tag_PL1)
        row_n, column_n = batch.tags.row_ids(), torch.searchsorted(batch.pool_P, batch.tags.values)
        if self.config.kind == "smooth":
            return self._smooth(batch, score_BP, row_n, column_n)
        score_BP = score_BP.float()
        relevant_BP = torch.zeros_like(score_BP, dtype=torch.bool)
        relevant_BP[row_n, column_n] = True
        mined = self._mine(score_BP, relevant_BP, row_n, column_n, progress, mining_seed)
        positive_n = score_BP[row_n, column_n]
        if mined.column_nK.shape[1] == score_BP.shape[1] and mined.column_nK.stride(0) == 0:
            negative_nK = score_BP[row_n]  # the whole pool in order: rows instead of single places
        else:
            negative_nK = score_BP[row_n[:, None], mined.column_nK]
        hinge_nK = triplet_hinge(positive_n, negative_nK, mined.valid_nK, self.config.margin)

        triplets_n = mined.valid_nK.sum(1)
        weight_n = self.tag_weight_T[batch.tags.values]
        if self.config.miner == "uniform":
            weight_n = weight_n * triplets_n  # a mean over triplets, as printed
        with torch.no_grad():
            active_nK = hinge_nK > 0
            per_pair_n = weight_n / triplets_n.clamp(min=1)
            if self.config.weighting == "warp":
                per_pair_n = per_pair_n * self._warp(
                    batch, score_BP, relevant_BP, row_n, positive_n
                )
            weight = weight_n.sum()
            global_weight = self.sum_over_ranks(weight).clamp(min=1e-12)
        local_loss = (hinge_nK.sum(1) * per_pair_n).sum()
        stats = StepStats(
            loss=local_loss.detach(),
            weight=weight,
            triplets=triplets_n.sum(),
            active=active_nK.sum(),
            violation=hinge_nK.detach().sum(),
        )
        return local_loss * (self.world / global_weight), stats

    def _smooth(
        self, batch: PooledBatch, score_BP: Tensor, row_n: Tensor, column_n: Tensor
    ) -> tuple[Tensor, StepStats]:
        count_B = batch.tags.counts
        in_pool_B = (score_BP.shape[1] - count_B).clamp(min=1)
        random_B = (in_pool_B - batch.hard).clamp(min=1)
        left_out_B = ((batch.vocabulary_size - count_B - batch.hard).clamp(min=1) / random_B).log()
        loss_n = smooth_triplet_loss(score_BP, row_n, column_n, left_out_B)
        weight_n = self.tag_weight_T[batch.tags.values]
        local_loss = (loss_n * weight_n).sum()
        with torch.no_grad():
            weight = weight_n.sum()
            global_weight = self.sum_over_ranks(weight).clamp(min=1e-12)
            triplets_n = in_pool_B[row_n]
            stats = StepStats(
                loss=local_loss.detach(),
                weight=weight,
                triplets=triplets_n.sum(),
                # All triplets of a pair count as active where together they outscore its relevant tag.
                active=(triplets_n * (loss_n > math.log(2.0))).sum(),
                violation=(loss_n * triplets_n).sum(),
            )
        return local_loss * (self.world / global_weight), stats

    def _mine(
        self,
        score_BP: Tensor,
        relevant_BP: Tensor,
        row_n: Tensor,
        column_n: Tensor,
        progress: float,
        mining_seed: int,
    ) -> Mined:
        config = self.config
        if config.miner == "uniform":
            generator = None
            if config.negatives:
                generator = torch.Generator(score_BP.device).manual_seed(mining_seed)
            return mine_uniform(relevant_BP, row_n, config.negatives, generator)
        if config.miner == "violating":
            return mine_violating(score_BP, relevant_BP, row_n, column_n, config.margin)
        count = ramped_negatives(score_BP.shape[1], config.negatives, progress, config.ramp)
        if config.miner == "hard":
            return mine_hard(score_BP, relevant_BP, row_n, count)
        return mine_semi_hard(score_BP, relevant_BP, row_n, column_n, count, config.margin)

    def _warp(
        self,
        batch: PooledBatch,
        score_BP: Tensor,
        relevant_BP: Tensor,
        row_n: Tensor,
        positive_n: Tensor,
    ) -> Tensor:
        above_nP = score_BP[row_n] > (positive_n - self.config.margin)[:, None]
        violations_n = (above_nP & ~relevant_BP[row_n]).sum(1)
        sampled_B = relevant_BP.shape[1] - relevant_BP.sum(1)
        irrelevant_B = batch.vocabulary_size - batch.tags.counts
        return warp_weight(violations_n, sampled_B[row_n], irrelevant_B[row_n])


def literal_triplet_loss(
    model: DREL, features_BD: Tensor, negative_nE: Tensor, positive_nE: Tensor, margin: float
) -> Tensor:
    """The loss as the paper prints it: every triplet runs its image and both tags through the towers.

    Row i is the triplet (irrelevant tag, image, relevant tag). The pooled step is tested and timed against
    this plain form.
    """
    image_BL = model.encode_images(features_BD, with_metric=True)
    negative_nL1 = model.encode_tags(negative_nE, with_metric=False)
    positive_nL1 = model.encode_tags(positive_nE, with_metric=False)
    score_negative = (negative_nL1[:, :-1] * image_BL).sum(1) + negative_nL1[:, -1]
    score_positive = (positive_nL1[:, :-1] * image_BL).sum(1) + positive_nL1[:, -1]
    return torch.relu(margin + score_negative - score_positive).mean()
