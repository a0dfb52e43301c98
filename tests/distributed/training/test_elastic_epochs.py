"""The training loop killed at random steps and taken up again, on the same number of ranks and on others."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distributed.data.blocks import inline_blocks
from distributed.data.feature_store import FeatureStore
from distributed.data.survey import survey_store
from distributed.training.build import build_learner
from distributed.training.config import CheckpointConfig, DataConfig, TrainConfig
from distributed.training.drel_learner import DRELLearner, PoolConfig
from distributed.training.model_trainer import ModelTrainer
from distributed.training.optim import OptimConfig, StepResult
from distributed.training.run_spec import RunSpec
from drel_core.model.towers import ModelConfig
from drel_core.scoring.tag_lists import TagLists
from tests.helpers.ranks import spawn_ranks
from tests.helpers.shared_folder_io import SharedFolderIO
from tests.helpers.stores import write_numbered

ROWS, EPOCHS, EVERY = 150, 3, 4
Seen = dict[tuple[int, int], list[int]]


class Killed(Exception):
    pass


def work(folder: str, out: str, residency: str, restore: str | None, kill_at: int | None) -> Any:
    """Train until ``kill_at`` steps were taken in this life; the rows of each step, and the parameters."""
    config = TrainConfig(
        data=DataConfig(
            train=f"{folder}/store.parquet",
            residency=residency,
            shuffle_rows=32,
            memory_gib=ROWS * 16 * 4 / 1.5 / 2**30,
        ),  # type: ignore[arg-type]
        out=out,
        epochs=EPOCHS,
        batch_size=16,
        checkpoint=CheckpointConfig(every=EVERY),
        model=ModelConfig(image_hidden=8, tag_dim=8, tag_hidden=8, latent=8),
        pool=PoolConfig(candidates=6),
        optim=OptimConfig(optimiser="adamw", lr=0.01),
    )
    store = FeatureStore.open(config.data.train)
    survey = survey_store(store, "fail")
    spec = RunSpec(config=config, survey=survey, features=None, fingerprint={"seed": 0})
    learner = build_learner(spec, torch.device("cpu"))
    assert isinstance(learner, DRELLearner)
    seen: Seen = {}
    run_step = learner.run

    def run(
        features_BD: Tensor, tags: TagLists, *, epoch: int, step: int, **rest: Any
    ) -> StepResult:
        if kill_at is not None and len(seen) == kill_at:
            raise Killed
        seen[epoch, step] = features_BD[:, 0].long().tolist() if len(features_BD) else []
        return run_step(features_BD, tags, epoch=epoch, step=step, **rest)

    learner.run = run  # type: ignore[method-assign]
    blocks = inline_blocks(config.data.columns, survey.names)
    trainer = ModelTrainer(spec, learner, blocks, SharedFolderIO(Path(out) / "kept"))
    if restore is not None:
        trainer.restore(Path(restore))
    try:
        trainer.run()
    except Killed:
        return seen, None
    state = {name: value.clone() for name, value in learner.model.state_dict().items()}
    return seen, {**state, "table": learner.table.local.weight_nE.clone()}


def lives(folder: Path, out: str, residency: str, worlds: list[int], kills: list[int]) -> Any:
    """Life after life, each from the last checkpoint: the rows of each step that counted, and the end."""
    counted: Seen = {}
    end = None
    for world, kill_at in zip(worlds, [*kills, None], strict=True):
        kept = sorted((folder / out / "kept").glob("*"))
        restore = str(kept[-1]) if kept else None
        answers = spawn_ranks(
            world, work, folder, str(folder), str(folder / out), residency, restore, kill_at
        )
        for place in answers[0][0]:
            counted[place] = [row for seen, _ in answers for row in seen[place]]
        end = [state for _, state in answers]
    return counted, end


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("elastic")
    write_numbered(place / "store.parquet", ROWS)
    return place


def test_every_image_of_every_epoch_is_learned_from_once_when_ranks_come_and_go(
    folder: Path,
) -> None:
    """Alone, a rank's rows are more than it may keep: it streams, where two hold them in memory."""
    draw = random.Random(3)
    kills = [draw.randrange(5, 10) for _ in range(3)]
    counted, _ = lives(folder, "changed", "auto", [2, 1, 3, 2], kills)
    steps = -(-ROWS // 16)
    assert sorted(counted) == [(epoch, step) for epoch in range(EPOCHS) for step in range(steps)]
    for epoch in range(EPOCHS):
        rows = Counter(row for step in range(steps) for row in counted[epoch, step])
        assert rows == Counter(range(ROWS)), (epoch, kills)


def work_whole_and_broken(folder: str, kills: list[int]) -> Any:
    """The parameters of an undisturbed run and of one with several lives, all on these ranks."""
    _, whole = work(folder, f"{folder}/whole", "stream", None, None)
    restore = None
    for kill_at in [*kills, None]:
        _, state = work(folder, f"{folder}/broken", "stream", restore, kill_at)
        restore = str(max(Path(folder, "broken", "kept").iterdir()))
    return whole, state


def test_killed_at_three_random_steps_the_same_ranks_end_with_the_same_bits(folder: Path) -> None:
    draw = random.Random(9)
    kills = [draw.randrange(5, 10) for _ in range(3)]
    for whole, broken in spawn_ranks(2, work_whole_and_broken, folder, str(folder), kills):
        assert whole.keys() == broken.keys()
        for name in whole:
            assert torch.equal(whole[name], broken[name]), (name, kills)
