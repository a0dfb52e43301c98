"""Fewer rows than ranks: a rank without rows takes part in every step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distributed.data.blocks import inline_blocks
from distributed.data.epoch import Residency
from distributed.data.survey import StoreSurvey
from distributed.training.build import build_learner
from distributed.training.config import TrainConfig
from distributed.training.model_trainer import ModelTrainer
from distributed.training.run_spec import RunSpec
from drel_core.annotators.load import load_bundle
from drel_core.model.towers import ModelConfig
from tests.helpers.ranks import spawn_ranks
from tests.helpers.shared_folder_io import SharedFolderIO
from tests.helpers.training import surveyed


def work(config: TrainConfig, survey: StoreSurvey) -> dict[str, Tensor]:
    """A whole run, up to the bundle; the learner's parameters."""
    spec = RunSpec(config=config, survey=survey, features=None, fingerprint={"seed": 0})
    learner = build_learner(spec, torch.device("cpu"))
    blocks = inline_blocks(config.data.columns, survey.names)
    io = SharedFolderIO(Path(config.out) / "kept")
    assert ModelTrainer(spec, learner, blocks, io).run()
    return {name: value.clone() for name, value in learner.model.state_dict().items()}


@pytest.mark.parametrize("residency", ["resident", "stream"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_one_row_is_learned_by_two_ranks(
    tmp_path: Path, residency: Residency, dropout: float
) -> None:
    config, survey = surveyed(tmp_path, 1)
    data = replace(config.data, residency=residency)
    model = ModelConfig(image_hidden=16, tag_dim=8, tag_hidden=8, latent=8, dropout=dropout)
    config = replace(config, data=data, model=model, epochs=2)
    one, other = spawn_ranks(2, work, tmp_path, config, survey)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    trained = load_bundle(tmp_path / "out" / "model")
    assert len(trained.vocabulary) == 1 and trained.info.image_dim == 16
