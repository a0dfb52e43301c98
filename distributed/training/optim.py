"""What all learners share: the optimiser and the course of its rates, data parallelism, sums over ranks."""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distributed.training import collectives
from drel_core.bf16 import fast_bf16
from drel_core.model.pooled_step import StepStats
from drel_core.scoring.metrics import MetricCounts

# torch 2.13 renamed the option; a machine with GPUs may come with an older torch.
_SYNC_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)


@dataclass(kw_only=True)
class OptimConfig:
    """How the towers and M learn."""

    optimiser: Literal["adamw", "sgd"] = "sgd"
    """how the towers' weights follow the gradient; sgd is the paper's"""
    lr: float = 0.1
    """highest learning rate"""
    share: float = 1.0
    """share of `lr` that is taken; jobs.update sets it"""
    momentum: float = 0.0
    """share of the last step that sgd takes again (Polyak, 1964); adamw has its own"""
    weight_decay: float = 0.0
    """decoupled weight decay of the towers and M (adamw), L2 penalty (sgd); -1: by the size of \
    the data"""
    schedule: Literal["constant", "cosine"] = "constant"
    """course of the learning rates after warm-up"""
    warmup: float = 0.0
    """share of all steps over which the learning rates rise from 0"""
    clip_norm: float = 0.0
    """largest norm of the towers' gradient; 0 does not clip"""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """bf16 runs the matmuls in bfloat16 (autocast), on CPU and CUDA; auto does so where the hardware of all \
    workers multiplies it faster"""
    tf32: bool = True
    """let CUDA run fp32 matmuls in TF32"""
    compile: bool = False
    """torch.compile the towers"""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"optim.lr is {self.lr}; it must be above 0")
        if not self.share > 0:
            raise ValueError(f"optim.share is {self.share}; it must be above 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"optim.momentum is {self.momentum}; it must be in [0, 1)")
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

    def with_precision(self, device: torch.device) -> OptimConfig:
        """The same, with the precision that ``auto`` means on the machines of all ranks. All must call it."""
        if self.precision != "auto":
            return self
        lacking = torch.tensor(int(not fast_bf16(device.type)), device=device)
        lacking = collectives.sum_over_ranks(lacking)
        return replace(self, precision="fp32" if int(lacking) else "bf16")

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """The precision of the forward pass."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, torch.bfloat16)

    def build(self, groups: list[dict[str, Any]], device: torch.device) -> torch.optim.Optimizer:
        """The optimiser of groups of parameters; a group's ``share`` is of ``lr`` (1 where not given)."""
        if device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = self.tf32
        for group in groups:
            group.setdefault("share", 1.0)
        if self.optimiser == "adamw":
            return torch.optim.AdamW(groups, lr=self.lr, weight_decay=self.weight_decay, fused=True)
        return torch.optim.SGD(
            groups, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, foreach=True
        )

    def clip(self, model: nn.Module) -> Tensor:
        """The norm of the gradient; scaling is a pass over all of it, so only when asked."""
        if self.clip_norm:
            return torch.nn.utils.clip_grad_norm_(model.parameters(), self.clip_norm)
        return torch.nn.utils.get_total_norm(
            [p.grad for p in model.parameters() if p.grad is not None]
        )

    def step(self, optimiser: torch.optim.Optimizer, progress: float) -> float:
        """Take a step at the learning rates of this place in training; gives their factor."""
        rate = self.rate(progress)
        for group in optimiser.param_groups:
            group["lr"] = self.lr * self.share * rate * group["share"]
        optimiser.step()
        return rate


@dataclass(frozen=True)
class StepResult:
    """Sums of one rank and the gradient norm of the towers (after averaging over ranks)."""

    stats: StepStats
    gradient_norm: Tensor
    pool: int


def data_parallel(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with its gradients averaged over ranks; itself on one rank."""
    if collectives.is_alone():
        return module
    ids = [device.index or 0] if device.type == "cuda" else None
    options: dict[str, Any] = {"device_ids": ids, _SYNC_BUFFERS: False}
    return DistributedDataParallel(module, gradient_as_bucket_view=True, **options)


def sum_counts(found: MetricCounts, device: torch.device) -> MetricCounts:
    """Counts of all ranks, on all ranks."""
    sums = torch.cat(
        [
            *(found.hit_T, found.predicted_T, found.relevant_T),
            torch.tensor([found.images, found.first_hits]),
        ]
    )
    sums = collectives.sum_over_ranks(sums.to(device)).cpu()
    found.hit_T, found.predicted_T, found.relevant_T = sums[:-2].chunk(3)
    found.images, found.first_hits = sums[-2:].tolist()
    return found
