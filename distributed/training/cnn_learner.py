"""A network trained end to end from pictures, on all ranks: the same loop as DREL, without a sharded table.

Shapes: B pictures of this rank, S side of a picture, T tags.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from distributed.data.rows import Rows
from distributed.training import collectives
from distributed.training.optim import OptimConfig, StepResult, data_parallel, sum_counts
from drel_core.annotators.cnn import CNN, CNNConfig, CNNLoss, augment, cnn_loss
from drel_core.model.pooled_step import StepStats
from drel_core.model.sampling import mix_seed, seed_device, step_generator
from drel_core.scoring.metrics import MetricCounts
from drel_core.scoring.tag_lists import TagLists

_EVALUATED = 16


class CNNLearner:
    """Network, loss and optimiser.

    Args:
        method: cnn-softmax, cnn-hinge or cnn-warp.
        margin: of the two ranking losses.
        seed: with (epoch, step, rank) decides augmentation and dropout.
    """

    def __init__(
        self,
        method: str,
        num_tags: int,
        config: CNNConfig,
        margin: float,
        optim: OptimConfig,
        seed: int,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.kind = cast(CNNLoss, method.removeprefix("cnn-"))
        optim = optim.with_precision(self.device)
        self.config, self.margin, self.optim_config, self.seed = config, margin, optim, seed
        self.num_tags = num_tags
        self.model = CNN(config, num_tags).to(self.device)
        self.scorer: nn.Module = data_parallel(self.model, self.device)
        if optim.compile:
            self.model.backbone.compile()
        self.optimiser = optim.build(
            [
                {"params": list(self.model.backbone.parameters()), "share": config.backbone_rate},
                {"params": list(self.model.head.parameters())},
            ],
            self.device,
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
        """Learn from this rank's part of a global batch (it may be empty)."""
        place = (epoch, step, collectives.rank())
        seed_device(mix_seed(self.seed, 2, *place), self.device)
        tags = tags.to(self.device)
        pixels_B3SS = self.model.pixels(features_BD.to(self.device))
        generator = step_generator(self.seed, 5, *place)
        pixels_B3SS = augment(pixels_B3SS, self.config.augment, generator)
        with self.optim_config.autocast(self.device):
            score_BT = self.scorer(pixels_B3SS)
        sums = cnn_loss(self.kind, score_BT.float(), tags, self.margin)
        # Averaging over ranks divides by their number: undone here, as in the pooled step.
        weight = collectives.sum_over_ranks(sums.weight).clamp(min=1e-12)
        self.optimiser.zero_grad(set_to_none=True)
        (sums.loss * (collectives.world_size() / weight)).backward()
        norm = self.optim_config.clip(self.model)
        self.optim_config.step(self.optimiser, progress)
        loss = sums.loss.detach()
        stats = StepStats(loss, sums.weight, sums.triplets, sums.active, loss)
        return StepResult(stats, norm, self.num_tags)

    def sharded_state(self) -> dict[str, Any]:
        return {}

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Rows], k: int, trained_T: Tensor) -> dict[str, Any]:
        """Metrics over all ranks' rows; every rank scores its own."""
        self.model.eval()
        found = MetricCounts(self.num_tags, k, keep_scores_bytes=0)
        for rows in batches:
            for start in range(0, len(rows), _EVALUATED):
                part_BD = rows.features_BD[start : start + _EVALUATED].to(self.device)
                score_BT = self.model(self.model.pixels(part_BD)).float().cpu()
                found.update(score_BT, rows.tags[start : start + _EVALUATED])
        self.model.train()
        return sum_counts(found, self.device).result(trained_T)

    def write(self, folder: Path) -> dict[str, Any]:
        """Rank 0 writes the network."""
        if collectives.rank() == 0:
            self.model.save(folder)
        return {"cnn": asdict(self.config), "pictures": asdict(self.model.preprocessing)}
