"""One training step on all ranks: build the pool, run the pooled step, update towers and rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distributed.data.rows import Rows
from distributed.training import collectives
from distributed.training.hard_tags import find_hard_tags, ramped_count
from distributed.training.optim import OptimConfig, StepResult, data_parallel, sum_counts
from distributed.training.score_moments import ScoreMoments
from distributed.training.sharded_table import ShardedTagEmbedding
from drel_core.annotators.drel import write_table_part, write_towers
from drel_core.decision.decider import Decider
from drel_core.decision.held_out import CANDIDATES, HeldOut, is_relevant
from drel_core.decision.kernel import FittedKernel, KernelHead, left_out
from drel_core.decision.score_adjustment import AdjustScores, ScoreAdjustment
from drel_core.model.losses import tag_frequency_weight
from drel_core.model.pooled_step import LossConfig, PooledBatch, PooledStep
from drel_core.model.sampling import (
    CandidateSampler,
    SamplerName,
    mix_seed,
    seed_device,
    step_generator,
    tags_outside,
)
from drel_core.model.towers import DREL, prior_bias
from drel_core.scoring.metrics import MetricCounts
from drel_core.scoring.tag_lists import TagLists
from drel_core.scoring.topk import topk

_EVALUATED = 1024  # images encoded at a time


@dataclass(kw_only=True)
class PoolConfig:
    """The candidate tags of a step."""

    candidates: int = 1024
    """tags sampled for a step beside the relevant ones; when T is not above this, the pool is all tags"""
    sampler: SamplerName = "mixed"
    """how candidates are drawn: uniform, by frequency (training count^0.75), or mixed (half of each)"""
    hard: int = 0
    """tags that join the pool because they score high for the batch, the best of `hard_from`; 0: none"""
    hard_from: int = 8192
    """tags, drawn uniformly, that are scored without gradient to find the `hard` ones"""
    hard_ramp: float = 0.3
    """share of training over which their number rises from 0 to `hard`"""

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError(f"pool.candidates is {self.candidates}; it must be 1 or more")
        if self.hard < 0:
            raise ValueError(f"pool.hard is {self.hard}; it must be 0 or more")
        if self.hard_from < max(self.hard, 1):
            raise ValueError(
                f"pool.hard_from is {self.hard_from}; it must be 1 or more and at least pool.hard "
                f"({self.hard})"
            )
        if not 0 <= self.hard_ramp <= 1:
            raise ValueError(f"pool.hard_ramp is {self.hard_ramp}; it must be in [0, 1]")


class DRELLearner:
    """Holds everything that a step changes: the model, the table's rows, the optimiser.

    Args:
        model: towers and M, alike on all ranks.
        table: the sharded rows.
        count_T: training counts of the tags (int64).
        seed: with (epoch, step) decides candidates and dropout.

    Attributes:
        kernel: regression whose evidence is added to scores when evaluating, alike on all ranks.
        decider: calibration and decisions that go into the bundle, alike on all ranks.
        rests_T: bool, tags whose rows no step moves, alike on all ranks; None where there are none.
    """

    kernel: KernelHead | None = None
    decider: Decider | None = None
    rests_T: Tensor | None = None

    def __init__(
        self,
        model: DREL,
        table: ShardedTagEmbedding,
        count_T: Tensor,
        loss: LossConfig,
        pool: PoolConfig,
        optim: OptimConfig,
        seed: int,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.model, self.table = model.to(self.device), table
        optim = optim.with_precision(self.device)
        self.optim_config, self.pool_config, self.seed = optim, pool, seed
        self.num_tags = len(count_T)
        self.prior_T = prior_bias(count_T, model.config).to(self.device)
        self.sampler: CandidateSampler | None = None
        if self.num_tags > pool.candidates:
            self.sampler = CandidateSampler(count_T, pool.sampler)
        self._rows_per_rank: list[int] = []
        if optim.compile:
            model.image_tower.compile()
            model.tag_tower.compile()
        step = PooledStep(
            model,
            loss,
            tag_frequency_weight(count_T, loss.tag_weight_power).to(self.device),
            gather=self._gather,
            sum_over_ranks=collectives.sum_over_ranks,
            world=collectives.world_size(),
        )
        self.step_module = data_parallel(step, self.device)
        self.optimiser = optim.build(model.parameter_groups(), self.device)

    def _gather(self, local_pL: Tensor) -> Tensor:
        # In the type that scores are multiplied in: half the bytes, and the same scores.
        kind = self.device.type
        if torch.is_autocast_enabled(kind):
            local_pL = local_pL.to(torch.get_autocast_dtype(kind))
        return collectives.gather_rows(local_pL, self._rows_per_rank)

    def draw_pool(self, tags: TagLists, epoch: int, step: int) -> Tensor:
        """Sorted, different tag ids, alike on all ranks: relevant ones of all, and candidates."""
        if self.sampler is None:
            return torch.arange(self.num_tags, device=tags.values.device)
        relevant = collectives.gather_ids(tags.values.unique())
        generator = step_generator(self.seed, 1, epoch, step)
        candidates = self.sampler.draw(self.pool_config.candidates, generator).to(relevant.device)
        return torch.cat([relevant, candidates]).unique()

    def hard_tags(
        self, features_BD: Tensor, pool_P: Tensor, epoch: int, step: int, progress: float
    ) -> Tensor:
        """Sorted tag ids outside the pool that score high for the global batch, alike on all ranks."""
        config = self.pool_config
        count = ramped_count(config.hard, progress, config.hard_ramp)
        if count == 0 or len(pool_P) == self.num_tags:
            return pool_P[:0]
        generator = step_generator(self.seed, 6, epoch, step)
        sought_S = tags_outside(self.num_tags, config.hard_from, pool_P, generator)
        return find_hard_tags(self.model, self.table, features_BD, sought_S, count, generator)

    def run(
        self,
        features_BD: Tensor,
        tags: TagLists,
        *,
        epoch: int,
        step: int,
        progress: float,
        global_batch: int,
    ) -> StepResult:
        """Train on this rank's part of a global batch (it may be empty).

        Args:
            features_BD, tags: this rank's images.
            epoch, step: the place in training; all randomness derives from it.
            progress: share of all steps done, 0 to 1.
            global_batch: images over all ranks; decides which side M is applied to.
        """
        seed_device(mix_seed(self.seed, 2, epoch, step, collectives.rank()), self.device)
        features_BD, tags = features_BD.to(self.device), tags.to(self.device)
        pool_P, hard_H = self.draw_pool(tags, epoch, step), None
        with self.optim_config.autocast(self.device):
            hard = self.hard_tags(features_BD, pool_P, epoch, step, progress)
        if len(hard):
            pool_P = torch.cat([pool_P, hard]).sort().values
            hard_H = torch.searchsorted(pool_P, hard)
        local_p, self._rows_per_rank = self.table.split_pool(pool_P)
        rows_pE = self.table.rows(local_p)
        batch = PooledBatch(
            features_BD,
            tags,
            pool_P,
            self.num_tags,
            metric_on_tags=len(pool_P) <= global_batch,
            hard_H=hard_H,
        )
        with self.optim_config.autocast(self.device):
            loss, stats = self.step_module(
                batch, rows_pE, progress, mix_seed(self.seed, 3, epoch, step, collectives.rank())
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = self.optim_config.clip(self.model)
        rate = self.optim_config.step(self.optimiser, progress)
        self.model.limit_norms()
        assert rows_pE.grad is not None
        self._move_rows(local_p, rows_pE.grad, rate)
        return StepResult(stats, norm, len(pool_P))

    def _move_rows(self, local_p: Tensor, gradient_pE: Tensor, rate: float) -> None:
        """A step of the table's optimiser for this rank's part of the pool, without tags that rest."""
        if self.rests_T is not None:
            moves_p = ~self.rests_T[local_p]
            local_p, gradient_pE = local_p[moves_p], gradient_pE[moves_p]
        config = self.table.local.config
        self.table.apply_gradient(local_p, gradient_pE, config.lr * config.share * rate)

    def sharded_state(self) -> dict[str, Any]:
        return {"table": self.table.state_dict()}

    @torch.no_grad()
    def evaluate(
        self, batches: Iterable[Rows], k: int, trained_T: Tensor, block: int = 16384
    ) -> dict[str, Any]:
        """Metrics over all ranks' rows with the table left in its shards.

        Each tag is encoded once, by its owner, ``block`` rows a rank at a time; every rank keeps the
        best k of its own images. All ranks get the same answer.
        """
        rows = Rows.cat(list(batches))
        best = torch.empty(len(rows), 0, device=self.device)
        ids = best.long()
        adjust = self._adjust(rows)
        for tag_p, score_np in self._score_blocks(rows, block):
            best, place = topk(torch.cat([best, adjust(score_np, tag_p)], dim=1), k)
            ids = torch.cat([ids, tag_p.expand(len(rows), -1)], dim=1).gather(1, place)
        found = MetricCounts(self.table.num_tags, k)
        found.update_topk(ids, rows.tags)
        self.model.train()
        return sum_counts(found, self.device).result(trained_T)

    @torch.no_grad()
    def held_out(
        self, rows: Rows, kernel: FittedKernel | None, block: int = 16384
    ) -> tuple[HeldOut, int]:
        """The best tags of all ranks' rows, on the CPU and alike on all ranks, and the place of this rank's
        first row; every rank must call.

        Args:
            rows: this rank's, which the towers were not fitted to.
            kernel: the learner's own as it was fitted, where the rows took part in that.
        """
        kernel_nR = leverage_n1 = relevant_nT = None
        if self.kernel is not None:
            kernel_nR = self.kernel.kernel(self.model.standardised(self._features(rows)))
            if kernel is not None:
                leverage_n1 = kernel.leverage(kernel_nR)
                relevant_nT = rows.tags.mask(self.num_tags).to(self.device)
        best = torch.empty(len(rows), 0, device=self.device)
        score, evidence, ids = best, best, best.long()
        for tag_p, score_np in self._score_blocks(rows, block):
            order_np = score_np
            if self.kernel is not None and kernel_nR is not None:
                estimate_np = self.kernel.estimates(kernel_nR, tag_p)
                if leverage_n1 is not None and relevant_nT is not None:
                    estimate_np = left_out(estimate_np, leverage_n1, relevant_nT[:, tag_p])
                evidence_np = self.kernel.log_estimates(estimate_np, tag_p)
                order_np = score_np + self.kernel.factor * evidence_np
                evidence = torch.cat([evidence, evidence_np], dim=1)
            best, place = topk(torch.cat([best, order_np], dim=1), CANDIDATES)
            score = torch.cat([score, score_np], dim=1).gather(1, place)
            ids = torch.cat([ids, tag_p.expand(len(rows), -1)], dim=1).gather(1, place)
            if self.kernel is not None:
                evidence = evidence.gather(1, place)
        self.model.train()
        tags = rows.tags.to(self.device)
        hit = is_relevant(ids, tags.keys(self.num_tags), self.num_tags)
        counts = collectives.gather_ids(torch.tensor([len(rows)], device=self.device)).tolist()
        pairs = collectives.sum_over_ranks(torch.tensor(len(tags.values), device=self.device))

        def gathered(part_nM: Tensor) -> Tensor:
            return collectives.gather_rows(part_nM, counts).cpu()

        held = HeldOut(
            gathered(ids),
            gathered(score),
            gathered(hit.to(torch.uint8)).bool(),
            int(pairs),
            gathered(evidence) if self.kernel is not None else None,
        )
        return held, sum(counts[: collectives.rank()])

    @torch.no_grad()
    def moments(self, rows: Rows, tags: int | None = None, block: int = 16384) -> ScoreMoments:
        """Mean and deviation of the towers' scores, over all ranks' rows; every rank must call.

        Args:
            tags: over so many of the tags, from the first on; None: over all.
        """
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        for tag_p, score_np in self._score_blocks(rows, block):
            value_np = score_np.double()
            if tags is not None:
                value_np = value_np[:, tag_p < tags]
            sums += torch.stack(
                [value_np.new_tensor(value_np.numel()), value_np.sum(), value_np.square().sum()]
            )
        self.model.train()
        count, total, squares = collectives.sum_over_ranks(sums).tolist()
        mean = total / count
        return ScoreMoments(mean, math.sqrt(max(squares / count - mean**2, 0.0)))

    @property
    def adjustment(self) -> ScoreAdjustment:
        """What comes on top of the towers' scores."""
        return ScoreAdjustment(self.prior_T, self.kernel, self.decider)

    def _adjust(self, rows: Rows) -> AdjustScores:
        """Adjusts scores of these rows."""
        return self.adjustment.to(self.device).for_images(self.model, self._features(rows))

    def _features(self, rows: Rows) -> Tensor:
        return rows.features_BD.to(self.device).reshape(-1, self.model.image_dim)

    def _score_blocks(self, rows: Rows, block: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Tag ids and the towers' scores of this rank's rows for them, with the prior, ``block`` tags a rank
        at a time."""
        model, table = self.model, self.table
        model.eval()
        image_nL = torch.cat(
            [
                model.encode_images(part.to(self.device), with_metric=False)
                for part in rows.features_BD.split(_EVALUATED)
                if len(part)
            ]
            or [torch.zeros(0, model.config.latent, device=self.device)]
        )
        prior = ScoreAdjustment(self.prior_T)
        every = torch.arange(table.num_tags, device=self.device)
        owned, per_rank = table.split_pool(every)
        starts = np.cumsum([0, *per_rank[:-1]]).tolist()
        for low in range(0, max(per_rank), block):
            mine = owned[low : low + block]
            counts = [max(0, min(block, rows_of - low)) for rows_of in per_rank]
            tag_pL1 = model.encode_tags(table.rows(mine), with_metric=True)
            all_pL1 = collectives.gather_rows(tag_pL1, counts)
            tag_p = torch.cat(
                [
                    every[start + low : start + low + n]
                    for start, n in zip(starts, counts, strict=True)
                ]
            )
            prior.add_prior(all_pL1, tag_p)
            yield tag_p, model.score(image_nL, all_pL1)

    def write(self, folder: Path) -> dict[str, Any]:
        """This rank's rows of the table; rank 0 the towers as well."""
        table, world = self.table.local, collectives.world_size()
        write_table_part(
            folder, collectives.rank(), world, table.start, table.weight_nE, table.state_n
        )
        if collectives.rank() == 0:
            write_towers(folder, self.model)
            self.adjustment.save(folder)
        return {"model": self.model.to_dict(), "table_parts": world}
