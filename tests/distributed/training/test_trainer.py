"""The loop with a learner and a heartbeat that follow a script: what is saved and reported, where it ends."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distributed.data.blocks import inline_blocks
from distributed.data.check_rows import Validation
from distributed.data.feature_store import FeatureStore
from distributed.data.rows import Rows
from distributed.data.survey import survey_store
from distributed.runtime.signals import LoopAction
from distributed.training.config import CheckpointConfig, DataConfig, TrainConfig
from distributed.training.heartbeat import Heartbeat
from distributed.training.optim import StepResult
from distributed.training.run_spec import RunSpec
from distributed.training.trainer import Trainer
from drel_core.model.pooled_step import StepStats
from drel_core.scoring.tag_lists import TagLists
from tests.helpers.stores import write_planted

STEPS = 3  # of an epoch


class ScriptedLearner:
    """Adds 1 to its only weight in every step; the F1 of each epoch is given."""

    def __init__(self, f1: list[float]) -> None:
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.model.weight)
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.f1 = f1
        self.taken: list[tuple[int, int]] = []

    def run(
        self, features_BD: Tensor, tags: TagLists, *, epoch: int, step: int, **_: Any
    ) -> StepResult:
        self.taken.append((epoch, step))
        with torch.no_grad():
            self.model.weight += 1
        zero = torch.zeros(())
        return StepResult(StepStats(zero, zero, zero, zero, zero), zero, 1)

    def sharded_state(self) -> dict[str, Any]:
        return {}

    def evaluate(self, batches: Iterable[Rows], k: int, trained_T: Tensor) -> dict[str, Any]:
        f1 = self.f1[len(self.taken) // STEPS - 1]
        return {"F1": f1, "N+": 0, "mP": f1, "mR": f1, "oF1": f1, "P@1": f1, "images": 12}

    def write(self, folder: Path) -> dict[str, Any]:
        return {}


class ScriptedHeartbeat(Heartbeat):
    """Gives an order after the steps that the script names."""

    def __init__(self, script: dict[int, LoopAction]) -> None:
        super().__init__()
        self.script = script

    def after_step(self, done: int) -> LoopAction:
        return self.script.get(done, LoopAction.GO_ON)


class RecordingIO:
    """Notes what is reported, and keeps the last checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "last"
        self.saved: list[tuple[int, int, float]] = []  # epoch, step, score
        self.events: list[str] = []
        self.lines: list[str] = []

    def log(self, line: str) -> None:
        self.lines.append(line)

    def save(self, folder: Path, metrics: dict[str, Any]) -> None:
        assert metrics["done"] == metrics["epoch"] * STEPS + metrics["step"]
        self.saved.append((metrics["epoch"], metrics["step"], metrics["score"]))
        self.events.append("save")
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.move(folder, self.folder)

    def validated(self, epoch: int, metrics: dict[str, Any]) -> None:
        self.events.append(f"validated {epoch}")


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    """Of a run with validation, 6 epochs of ``STEPS`` steps."""
    path = write_planted(tmp_path / "train.parquet", 60)
    config = TrainConfig(
        data=DataConfig(train=str(path), validation=0.2),
        out=str(tmp_path / "out"),
        epochs=6,
        patience=2,
        checkpoint=CheckpointConfig(every=1000),
    )
    survey = survey_store(FeatureStore.open(str(path)), "fail", Validation(0.2, 0))
    config.batch_size = -(-survey.train_rows // STEPS)
    return RunSpec(config=config, survey=survey, features=None, fingerprint={"seed": 0})


def trainer_of(
    spec: RunSpec,
    io: RecordingIO,
    f1: list[float] | None = None,
    script: dict[int, LoopAction] | None = None,
) -> Trainer[RecordingIO]:
    blocks = inline_blocks(spec.config.data.columns, spec.survey.names)
    learner = ScriptedLearner(f1 or [0.1] * 6)
    return Trainer(spec, learner, blocks, io, ScriptedHeartbeat(script or {}))


def without_validation(spec: RunSpec) -> RunSpec:
    spec.survey.validation = []
    return spec


def test_each_better_epoch_is_saved_and_patience_ends_the_run(
    spec: RunSpec, tmp_path: Path
) -> None:
    io = RecordingIO(tmp_path)
    trainer = trainer_of(spec, io, [0.1, 0.5, 0.3, 0.6, 0.5, 0.6])
    assert trainer.fit()
    assert io.saved == [(1, 0, 0.1), (2, 0, 0.5), (4, 0, 0.6)]
    assert io.events == [
        *("save", "validated 1", "save", "validated 2", "validated 3"),
        *("save", "validated 4", "validated 5", "validated 6"),
    ]
    assert (trainer.cursor.best_epoch, trainer.cursor.best_f1) == (3, 0.6)
    # It was the last one in any case.
    assert not any("stopped early" in line for line in io.lines)


def test_patience_ends_a_run_before_its_last_epoch(spec: RunSpec, tmp_path: Path) -> None:
    io = RecordingIO(tmp_path)
    assert trainer_of(spec, io, [0.1, 0.5, 0.3, 0.4, 0.6, 0.6]).fit()
    assert io.saved == [(1, 0, 0.1), (2, 0, 0.5)]
    assert io.lines[-1] == "stopped early: no better F1 for 2 epochs"


def test_without_validation_the_end_is_saved_and_later_ones_count_more(
    spec: RunSpec, tmp_path: Path
) -> None:
    spec.config.checkpoint.every = 4
    io = RecordingIO(tmp_path)
    assert trainer_of(without_validation(spec), io).fit()
    assert io.saved == [(1, 1, 4.0), (2, 2, 8.0), (4, 0, 12.0), (5, 1, 16.0), (6, 0, 18.0)]


def test_a_checkpoint_between_validations_is_worth_less_than_any_validated_one(
    spec: RunSpec, tmp_path: Path
) -> None:
    spec.config.checkpoint.every = 3  # due at the end of each epoch, better or not
    io = RecordingIO(tmp_path)
    assert trainer_of(spec, io, [0.2, 0.0, 0.3, 0.1, 0.1]).fit()
    assert io.saved == [(1, 0, 0.2), (2, 0, -1.0), (3, 0, 0.3), (4, 0, -1.0), (5, 0, -1.0)]


@pytest.mark.parametrize(("at", "place"), [(5, (1, 2)), (6, (2, 0)), (18, (6, 0))])
def test_a_run_that_is_asked_to_stop_saves_and_goes_on_at_the_next_step(
    spec: RunSpec, tmp_path: Path, at: int, place: tuple[int, int]
) -> None:
    io = RecordingIO(tmp_path)
    first = trainer_of(without_validation(spec), io, script={at: LoopAction.STOP})
    assert not first.fit()
    assert io.saved[-1][:2] == place
    assert io.lines[-1] == f"stopped after step {at} of 18, with a checkpoint"
    second = trainer_of(spec, io)
    second.restore(io.folder)
    assert io.lines[-1] == f"resuming at epoch {place[0] + 1}, step {at} of 18"
    assert second.fit()
    both = [*first.learner.taken, *second.learner.taken]  # type: ignore[attr-defined]
    assert both == [(epoch, step) for epoch in range(6) for step in range(STEPS)]
    assert second.learner.model.weight.item() == 18  # type: ignore[operator,union-attr]


def test_a_notice_makes_a_checkpoint_and_the_run_goes_on(spec: RunSpec, tmp_path: Path) -> None:
    io = RecordingIO(tmp_path)
    script = {4: LoopAction.CHECKPOINT, 6: LoopAction.CHECKPOINT}
    assert trainer_of(spec, io, [0.5, 0.4, 0.6, 0.6, 0.6], script).fit()
    assert io.saved == [(1, 0, 0.5), (1, 1, -1.0), (2, 0, -1.0), (3, 0, 0.6)]
    assert [line for line in io.lines if "node" in line] == [
        "a node is about to go: checkpoint after step 4"
    ]


class FullDisk(RecordingIO):
    """Where no checkpoint can be kept."""

    def save(self, folder: Path, metrics: dict[str, Any]) -> None:
        self.given = folder
        assert any(folder.iterdir())
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_checkpoint_that_cannot_be_kept_leaves_no_folder(spec: RunSpec, tmp_path: Path) -> None:
    io = FullDisk(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        trainer_of(without_validation(spec), io).fit()
    assert not io.given.exists()
