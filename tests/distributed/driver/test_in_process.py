"""A run in the calling process: the bundle is that of the epoch with the best validation."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distributed.data.blocks import inline_blocks
from distributed.data.check_rows import Validation
from distributed.data.feature_store import FeatureStore
from distributed.data.rows import Rows
from distributed.data.survey import survey_store
from distributed.driver.in_process import InProcessIO
from distributed.training.build import build_learner
from distributed.training.config import DataConfig, TrainConfig
from distributed.training.drel_learner import DRELLearner
from distributed.training.model_trainer import ModelTrainer
from distributed.training.run_spec import RunSpec
from drel_core.annotators.drel import DRELAnnotator
from drel_core.annotators.load import load_bundle
from drel_core.model.towers import ModelConfig
from tests.helpers.stores import write_planted


@pytest.mark.parametrize("best", [0, 2, 3])
def test_the_bundle_is_that_of_the_best_epoch(tmp_path: Path, best: int) -> None:
    path = write_planted(tmp_path / "train.parquet", 100)
    config = TrainConfig(
        data=DataConfig(train=str(path), validation=0.2),
        out=str(tmp_path / "out"),
        epochs=4,
        batch_size=16,
        model=ModelConfig(image_hidden=8, tag_dim=8, tag_hidden=8, latent=8),
    )
    survey = survey_store(FeatureStore.open(str(path)), "fail", Validation(0.2, 0))
    spec = RunSpec(config=config, survey=survey, features=None, fingerprint={"seed": 0})
    learner = build_learner(spec, torch.device("cpu"))
    assert isinstance(learner, DRELLearner)
    states: list[dict[str, Tensor]] = []
    evaluate = learner.evaluate

    def scripted(batches: Iterable[Rows], k: int, trained_T: Tensor) -> dict[str, Any]:
        """The metrics, with an F1 that is highest after the epoch ``best``."""
        state = {name: value.clone() for name, value in learner.model.state_dict().items()}
        states.append(state)
        return evaluate(batches, k, trained_T) | {"F1": 0.9 if len(states) == best + 1 else 0.1}

    learner.evaluate = scripted  # type: ignore[method-assign]
    lines: list[str] = []
    blocks = inline_blocks(config.data.columns, survey.names)
    assert ModelTrainer(spec, learner, blocks, InProcessIO(lines.append, tmp_path)).run()
    trained = load_bundle(Path(config.out) / "model")
    assert isinstance(trained, DRELAnnotator)
    assert trained.info.train["validation"] == {"F1": 0.9, "epoch": best + 1}
    assert len(states) == 4 and any("step" in line for line in lines)
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, states[best][name]), name
    assert not torch.equal(states[0]["metric_LL"], states[3]["metric_LL"])
