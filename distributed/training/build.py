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
from distributed.training.tag_text import RunText, start_by_names
from distributed.training.warm_start import grow
from drel_core.model.towers import DREL


def build_learner(spec: RunSpec, device: torch.device) -> Learner:
    """What a run starts with, alike at any world size; filled from the parent bundle where there is one."""
    config, survey = spec.config, spec.survey
    torch.manual_seed(config.seed)
    if config.method in PICTURE_METHODS:
        return CNNLearner(
            config.method,
            len(survey.count_T),
            config.cnn,
            config.loss.margin,
            config.optim,
            config.seed,
            device,
        )
    if spec.parent is None:
        return build_drel_learner(config, survey, device, spec.text)
    # The parent's rows have learned already.
    learner = build_drel_learner(config, survey, device)
    grow(learner, spec.parent)
    return learner


def build_drel_learner(
    config: TrainConfig, survey: StoreSurvey, device: torch.device, text: RunText | None = None
) -> DRELLearner:
    """Model, table and optimiser of DREL or WSABIE at their start, no parent looked at.

    Args:
        text: text vectors of the tags' names, by which rows begin.
    """
    model = DREL(
        survey.image_dim, config.model, torch.tensor(survey.mean_D), torch.tensor(survey.std_D)
    )
    table = ShardedTagEmbedding(
        len(survey.count_T), config.model, config.table, config.seed, device
    )
    if text is not None:
        start_by_names(table, config.model, text, config.seed)
    return DRELLearner(
        model,
        table,
        torch.tensor(survey.count_T),
        config.loss,
        config.pool,
        config.optim,
        config.seed,
        device,
    )


def make_reader(
    config: TrainConfig,
    survey: StoreSurvey,
    selections: list[RowSelection],
    blocks: BlockSource,
    resident: bool,
) -> ShardReader:
    """This rank's share of some rows.

    Args:
        resident: keep them in memory after the first pass.
    """
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
        image_dim=survey.image_dim,
    )


def is_resident(config: TrainConfig, survey: StoreSurvey) -> bool:
    """Whether a rank keeps its training rows in memory."""
    if config.data.residency != "auto":
        return config.data.residency == "resident"
    return survey.num_bytes / collectives.world_size() <= config.data.memory_gib * 2**30
