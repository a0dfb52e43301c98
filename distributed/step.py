"""One training step on all ranks: build the pool, run the pooled step, update towers and rows."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distributed import comm
from distributed.sharded_tag_embedding import ShardedTagEmbedding
from drel_core.losses import tag_frequency_weight
from drel_core.model import DREL, prior_bias
from drel_core.sampling import CandidateSampler, SamplerName, mix_seed, step_generator
from drel_core.tag_lists import TagLists
from drel_core.train_step import LossConfig, PooledBatch, PooledStep, StepStats


@dataclass(kw_only=True)
class PoolConfig:
    """The candidate tags of a step."""

    candidates: int = 1024
    """tags sampled for a step beside the relevant ones; when T is not above this, the pool is all tags"""
    sampler: SamplerName = "mixed"
    """uniform, frequency (count^0.75) or mixed (half of each)"""

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError(f"pool.candidates is {self.candidates}; it must be 1 or more")


@dataclass(kw_only=True)
class OptimConfig:
    """How the towers and M learn."""

    optimiser: Literal["adamw", "sgd"] = "sgd"
    """sgd is the paper's"""
    lr: float = 0.1
    """highest learning rate"""
    weight_decay: float = 0.0
    """decoupled weight decay of the towers and M (adamw), L2 penalty (sgd)"""
    schedule: Literal["constant", "cosine"] = "constant"
    """course of the learning rates after warm-up"""
    warmup: float = 0.0
    """share of all steps over which the learning rates rise from 0"""
    clip_norm: float = 0.0
    """largest norm of the towers' gradient; 0 does not clip"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the matmuls in bfloat16 (autocast), on CPU and CUDA"""
    tf32: bool = True
    """let CUDA run fp32 matmuls in TF32"""
    compile: bool = False
    """torch.compile the towers"""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"optim.lr is {self.lr}; it must be above 0")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"optim.warmup is {self.warmup}; it must be in [0, 1)")

    def rate(self, progress: float) -> float:
        """The factor on both learning rates when ``progress`` of all steps is done."""
        if progress < self.warmup:
            return max(progress / self.warmup, 1e-3)
        if self.schedule == "constant":
            return 1.0
        way = (progress - self.warmup) / (1 - self.warmup)
        return 0.5 * (1 + float(torch.tensor(torch.pi * way).cos()))


@dataclass(frozen=True)
class StepResult:
    """Sums of one rank and the gradient norm of the towers (after averaging over ranks)."""

    stats: StepStats
    gradient_norm: Tensor
    pool: int


class Stepper:
    """Holds everything that a step changes: the model, the table's rows, the optimiser.

    Args:
        model: towers and M, alike on all ranks.
        table: the sharded rows.
        count_T: training counts of the tags (int64).
        seed: with (epoch, step) decides candidates and dropout.
    """

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
        self.optim_config, self.pool_config, self.seed = optim, pool, seed
        self.num_tags = len(count_T)
        self.prior_T = prior_bias(count_T, model.config).to(self.device)
        self.sampler: CandidateSampler | None = None
        if self.num_tags > pool.candidates:
            self.sampler = CandidateSampler(count_T, pool.sampler)
        self._rows_per_rank: list[int] = []
        if self.device.type == "cuda" and optim.tf32:
            torch.backends.cuda.matmul.allow_tf32 = True
        if optim.compile:
            model.image_tower.compile()
            model.tag_tower.compile()
        step = PooledStep(
            model,
            loss,
            tag_frequency_weight(count_T, loss.tag_weight_power).to(self.device),
            gather=self._gather,
            sum_over_ranks=comm.sum_over_ranks,
            world=comm.world_size(),
        )
        self.step_module: nn.Module = step
        if comm.world_size() > 1:
            ids = [self.device.index or 0] if self.device.type == "cuda" else None
            self.step_module = DistributedDataParallel(
                step, device_ids=ids, forward_sync_buffers=False, gradient_as_bucket_view=True
            )
        parameters = list(model.parameters())
        fused = self.device.type == "cuda"
        self.optimiser: torch.optim.Optimizer
        if optim.optimiser == "adamw":
            self.optimiser = torch.optim.AdamW(
                parameters, lr=optim.lr, weight_decay=optim.weight_decay, fused=True
            )
        else:
            self.optimiser = torch.optim.SGD(
                parameters, lr=optim.lr, weight_decay=optim.weight_decay, foreach=not fused
            )

    def _gather(self, local_pL: Tensor) -> Tensor:
        return comm.gather_rows(local_pL, self._rows_per_rank)

    def draw_pool(self, tags: TagLists, epoch: int, step: int) -> Tensor:
        """Sorted, different tag ids, alike on all ranks: relevant ones of all, and candidates."""
        if self.sampler is None:
            return torch.arange(self.num_tags, device=tags.values.device)
        relevant = comm.gather_ids(tags.values.unique())
        generator = step_generator(self.seed, 1, epoch, step)
        candidates = self.sampler.draw(self.pool_config.candidates, generator).to(relevant.device)
        return torch.cat([relevant, candidates]).unique()

    def _clip_gradient(self) -> Tensor:
        """The norm of the towers' gradient; scaling is a pass over all of it, so only when asked."""
        if self.optim_config.clip_norm:
            return torch.nn.utils.clip_grad_norm_(
                self.model.parameters(), self.optim_config.clip_norm
            )
        return torch.nn.utils.get_total_norm(
            [p.grad for p in self.model.parameters() if p.grad is not None]
        )

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
        torch.manual_seed(mix_seed(self.seed, 2, epoch, step, comm.rank()))
        features_BD, tags = features_BD.to(self.device), tags.to(self.device)
        pool_P = self.draw_pool(tags, epoch, step)
        local_p, self._rows_per_rank = self.table.split_pool(pool_P)
        rows_pE = self.table.rows(local_p)
        batch = PooledBatch(
            features_BD, tags, pool_P, self.num_tags, metric_on_tags=len(pool_P) <= global_batch
        )
        bf16 = self.optim_config.precision == "bf16"
        context = (
            torch.autocast(self.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()
        )
        with context:
            loss, stats = self.step_module(
                batch, rows_pE, progress, mix_seed(self.seed, 3, epoch, step, comm.rank())
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = self._clip_gradient()
        rate = self.optim_config.rate(progress)
        for group in self.optimiser.param_groups:
            group["lr"] = self.optim_config.lr * rate
        self.optimiser.step()
        self.model.limit_norms()
        assert rows_pE.grad is not None
        self.table.apply_gradient(local_p, rows_pE.grad, self.table.local.config.lr * rate)
        return StepResult(stats, norm, len(pool_P))
