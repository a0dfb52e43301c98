"""A small store with its survey, and a configuration that trains on it in seconds."""

from __future__ import annotations

from pathlib import Path

from distributed.data.check_rows import Validation
from distributed.data.feature_store import FeatureStore
from distributed.data.survey import StoreSurvey, survey_store
from distributed.training.config import DataConfig, TrainConfig
from distributed.training.optim import OptimConfig
from drel_core.decision.decider import DecisionConfig
from drel_core.model.pooled_step import LossConfig
from drel_core.model.tag_embedding import TableConfig
from drel_core.model.towers import ModelConfig
from tests.helpers.stores import write_planted


def surveyed(
    folder: Path, rows: int = 150, validation: float = 0.0
) -> tuple[TrainConfig, StoreSurvey]:
    path = write_planted(folder / "train.parquet", rows, row_group=32)
    config = small_config(path, folder / "out")
    Path(config.out).mkdir(exist_ok=True)
    store = FeatureStore.open(str(path), config.data.columns)
    share = Validation(validation, 1) if validation else None
    return config, survey_store(store, "fail", share)


def small_config(store: Path, out: Path, epochs: int = 6) -> TrainConfig:
    return TrainConfig(
        data=DataConfig(train=str(store)),
        out=str(out),
        epochs=epochs,
        batch_size=16,
        model=ModelConfig(
            image_hidden=16,
            tag_dim=8,
            tag_hidden=8,
            latent=8,
            activation="gelu",
            latent_activation=False,
            normalise=True,
            tag_bias=True,
        ),
        table=TableConfig(lr=0.05),
        loss=LossConfig(kind="smooth"),
        optim=OptimConfig(optimiser="adamw", lr=0.01),
        decision=DecisionConfig(held_out=0.2, rows=50),
    )
