"""A training step of a given size, made of the project's own learner, on any device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from distributed.data.rows import Rows
from distributed.training.drel_learner import DRELLearner, PoolConfig
from distributed.training.optim import OptimConfig, StepResult
from distributed.training.sharded_table import ShardedTagEmbedding
from drel_core.model.pooled_step import LossConfig
from drel_core.model.tag_embedding import TableConfig
from drel_core.model.towers import DREL, ModelConfig
from drel_core.scoring.tag_lists import TagLists

BEST: dict[str, Any] = {
    "image_hidden": 0,
    "tag_tower": "none",
    "tag_dim": 256,
    "latent": 256,
    "activation": "gelu",
    "latent_activation": False,
    "layer_norm": False,
    "linear_path": True,
    "start": "shallow",
    "normalise": True,
    "scale": 23.03,
    "tag_bias": True,
    "tag_prior": 0.0,
    "metric": "none",
    "power": 1.0,
    "input_dropout": 0.0,
    "input_noise": 0.0,
    "dropout": 0.0,
    "embedding_std": 0.1,
}
"""The model of the preset ``best`` (its file needs a reader of YAML), as it is for a million images and
100,000 tags."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What learns, from what.

    Attributes:
        dim, batch, tags: D, B, T.
    """

    dim: int
    batch: int
    tags: int
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    table: TableConfig = field(default_factory=TableConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(tf32=False))

    def learner(
        self, device: torch.device, table: ShardedTagEmbedding | None = None, **optim: Any
    ) -> DRELLearner:
        """At its start, which is the same on every device.

        Args:
            table: instead of the one that a run begins with.
            optim: options of ``OptimConfig`` that differ.
        """
        torch.manual_seed(0)
        return DRELLearner(
            DREL(self.dim, self.model),
            table or ShardedTagEmbedding(self.tags, self.model, self.table, 0, device),
            (1_000_000 // torch.arange(1, self.tags + 1)).clamp(min=1),
            self.loss,
            self.pool,
            OptimConfig(**{**vars(self.optim), **optim}),
            seed=0,
            device=device,
        )

    def rows(self, step: int) -> Rows:
        """The batch of a step, in the host's memory."""
        generator = torch.Generator().manual_seed(step + 1)
        features_BD = torch.rand(self.batch, self.dim, generator=generator)
        return Rows(features_BD, random_tags(self.batch, 4, self.tags, generator))

    def take(self, learner: DRELLearner, rows: Rows, step: int) -> StepResult:
        """One step; its number decides the pool and what is dropped, as in a run."""
        return learner.run(
            rows.features_BD, rows.tags, epoch=0, step=step, progress=0.5, global_batch=self.batch
        )


def random_tags(images: int, most: int, tags: int, generator: torch.Generator) -> TagLists:
    """Up to ``most`` different tags an image; tag t about in proportion to 1 / t, as words are."""
    draw_Bm = torch.rand(images, most, generator=generator, dtype=torch.float64)
    tag_Bm = (float(tags) ** draw_Bm).long().clamp(max=tags) - 1
    key = (torch.arange(images)[:, None] * tags + tag_Bm).unique()
    counts = torch.bincount(key // tags, minlength=images)
    return TagLists(key % tags, torch.cat([counts.new_zeros(1), counts.cumsum(0)]))


def random_table(
    tags: int, model: ModelConfig, config: TableConfig, device: torch.device
) -> ShardedTagEmbedding:
    """A table whose rows are drawn on the device: those of ten million tags take minutes on the CPU that a
    run starts them on, and no time depends on their values."""
    table = ShardedTagEmbedding(0, model, config, 0, device)
    table.num_tags = table.local.stop = tags
    rows_TE = torch.randn(tags, model.tag_dim, device=device)
    table.local.weight_nE = rows_TE.mul_(model.embedding_std)
    table.local.state_n = torch.zeros(tags, device=device)
    return table


@contextmanager
def precision(name: str) -> Iterator[dict[str, Any]]:
    """Options of ``OptimConfig`` for fp32, tf32 or bf16; the setting that torch keeps is put back."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    try:
        yield {"precision": "bf16" if name == "bf16" else "fp32", "tf32": name == "tf32"}
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
