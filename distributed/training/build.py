"""What a worker trains with: the learner, and the reader of its rows."""

from __future__ import annotations

import torch

from distributed.data.blocks import BlockSource
from distributed.data.epoch import EpochPlan, ShardReader, shard
from distributed.data.feature_store import RowSelection
from distributed.data.survey import StoreSurvey
from distributed.training import collectives
from distributed.training.cnn_learner import CNNLearner
from distributed.training.config import PICTURE_METHODS, TrainConfig
from distributed.training.drel_learner import DRELLearner
from distributed.training.learner import Learner
from distributed.training.run_spec import RunSpec
from distributed.training.sharded_table import ShardedTagEmbedding
from distributed.training.warm_start import grow
from drel_core.model.towers import DREL


def start_learner(spec: RunSpec, device: torch.device) -> Learner:
    """What a run begins with: a fresh learner, filled from the parent bundle where there is one."""
    learner = build_learner(spec.config, spec.survey, device)
    if spec.parent is not None:
        assert isinstance(learner, DRELLearner)
        grow(learner, spec.parent)
    return learner


def build_learner(config: TrainConfig, data: StoreSurvey, device: torch.device) -> Learner:
    """What the configured method learns with, at its start: alike at any world size."""
    torch.manual_seed(config.seed)
    if config.method in PICTURE_METHODS:
        return CNNLearner(
            config.method,
            len(data.count_T),
            config.cnn,
            config.loss.margin,
            config.optim,
            config.seed,
            device,
        )
    return build_drel_learner(config, data, device)


def build_drel_learner(config: TrainConfig, data: StoreSurvey, device: torch.device) -> DRELLearner:
    """Model, table and optimiser of DREL or WSABIE at their start."""
    model = DREL(data.image_dim, config.model, torch.tensor(data.mean_D), torch.tensor(data.std_D))
    table = ShardedTagEmbedding(len(data.count_T), config.model, config.table, config.seed, device)
    return DRELLearner(
        model,
        table,
        torch.tensor(data.count_T),
        config.loss,
        config.pool,
        config.optim,
        config.seed,
        device,
    )


def make_reader(
    config: TrainConfig,
    data: StoreSurvey,
    selections: list[RowSelection],
    blocks: BlockSource,
    resident: bool,
) -> ShardReader:
    world, rank = collectives.world_size(), collectives.rank()
    total = sum(selection.take for selection in selections)
    return ShardReader(
        shard(selections, world, rank),
        EpochPlan.make(total, world, config.batch_size),
        rank,
        config.seed,
        blocks,
        resident,
        config.data.shuffle_rows,
    )


def is_resident(config: TrainConfig, data: StoreSurvey) -> bool:
    if config.data.residency != "auto":
        return config.data.residency == "resident"
    rows = sum(selection.take for selection in data.train) / collectives.world_size()
    return rows * data.image_dim * data.item_bytes <= config.data.memory_gib * 2**30
