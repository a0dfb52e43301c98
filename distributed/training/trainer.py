"""The training loop. Each worker runs it on its part of the rows; the process group is set up by then.

``Trainer`` is the loop itself: epochs, steps, validation, checkpoints. ``ModelTrainer`` (model_trainer.py)
also learns the decision rule before it and writes the bundle after it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from distributed.data.blocks import BlockSource
from distributed.data.epoch import ShardReader
from distributed.data.feature_store import RowSelection
from distributed.data.reshard import epoch_reader
from distributed.data.rows import Rows
from distributed.data.shard_layout import ShardLayout
from distributed.runtime.signals import LoopAction
from distributed.storage.folder import Folder
from distributed.storage.local_cache import RunFolder
from distributed.storage.scratch import scratch_folder
from distributed.training import checkpoint, collectives
from distributed.training.build import is_resident, make_reader
from distributed.training.checkpoint import Cursor
from distributed.training.divergence import check_finite
from distributed.training.heartbeat import Heartbeat
from distributed.training.learner import Learner
from distributed.training.metrics_log import MetricsLogger
from distributed.training.optim import StepResult
from distributed.training.run_spec import RunSpec
from distributed.training.watch import (
    HELD_OUT_ROWS,
    TRAINING_ROWS,
    VALIDATION_ROWS,
    LookPace,
    WatchedRows,
    device_of,
)


class RunIO(Protocol):
    """Where a run reports to, and who keeps its checkpoints."""

    def log(self, line: str) -> object:
        """Show a line of progress; called on rank 0 alone."""

    def save(self, folder: Path, metrics: dict[str, Any]) -> None:
        """Keep this rank's part of a checkpoint. All ranks call it together; the folder is given away.

        Args:
            metrics: ``epoch`` and ``step`` of the next step, ``done`` steps of the whole run, and ``score``:
                the checkpoints with the highest are worth keeping.
        """

    def validated(self, epoch: int, metrics: dict[str, Any]) -> None:
        """Take the validation metrics after ``epoch`` epochs; a checkpoint that is due there comes before."""


IO = TypeVar("IO", bound=RunIO)


class Trainer(Generic[IO]):
    """One rank's part of a run.

    Args:
        learner: at its start.
        blocks: reads the store.
        heartbeat: how the run is stopped from outside; by default it is not.
    """

    metrics: MetricsLogger  # there once ``fit`` has begun, and so is
    pace: LookPace

    def __init__(
        self,
        spec: RunSpec,
        learner: Learner,
        blocks: BlockSource,
        io: IO,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        config, survey = spec.config, spec.survey
        self.spec, self.learner, self.blocks, self.io = spec, learner, blocks, io
        self.heartbeat = heartbeat or Heartbeat()
        self.world, self.rank = collectives.world_size(), collectives.rank()
        resident = is_resident(config, survey)
        self.reader = make_reader(config, survey, survey.train, blocks, resident)
        self.validation = self._watched(survey.validation, VALIDATION_ROWS)
        kind = HELD_OUT_ROWS if survey.watch_held_out else TRAINING_ROWS
        self.watch = None if survey.validation else self._watched(survey.watch, kind)
        self.found: dict[str, Any] | None = None  # of the last look, or the best validation
        self.steps = self.reader.plan.steps  # of an epoch
        self.layout = ShardLayout(
            0, self.world, resident, 0 if resident else config.data.shuffle_rows
        )
        self.cursor = Cursor(readings=[self.layout])
        self.run_folder = RunFolder(Folder.of(config.out))
        self.looked_after = -1  # steps of the run
        self.stopping = False  # asked to stop
        self.checkpoint_due = False  # since the last one was saved

    def _watched(self, selections: list[RowSelection], kind: str) -> WatchedRows | None:
        """Rows to score while training; None where there are none."""
        if not selections:
            return None
        config, survey = self.spec.config, self.spec.survey
        reader = make_reader(config, survey, selections, self.blocks, True)
        return WatchedRows(self.spec, self.learner, reader, kind)

    @property
    def steps_done(self) -> int:
        """Of the whole run."""
        return self.cursor.epoch * self.steps + self.cursor.step

    @property
    def total_steps(self) -> int:
        return self.steps * self.spec.config.epochs

    @property
    def out_of_patience(self) -> bool:
        return self.cursor.stale_epochs >= self.spec.config.patience

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint, which may be of another number of ranks.

        Raises:
            InputError: the checkpoint belongs to another run, or is damaged.
        """
        self.cursor = checkpoint.load(folder, self.learner, self.spec.fingerprint)
        self._log(
            f"resuming at epoch {self.cursor.epoch + 1}, step {self.steps_done} of {self.total_steps}"
        )
        if not self.cursor.step:
            self.cursor.readings = [self.layout]
        elif not self.cursor.readings[-1].same_way(self.layout):
            # The rows that are left of an epoch that other ranks began are divided anew from here on.
            self.cursor.readings.append(replace(self.layout, first_step=self.cursor.step))

    def fit(self) -> bool:
        """Run epochs until all are done, F1 stays without improvement, or the run is asked to stop.

        Returns:
            False if it was asked to stop; a checkpoint is saved then.
        """
        config = self.spec.config
        self.metrics = MetricsLogger(
            str(self.run_folder.folder / "tensorboard"),
            config.epochs,
            self.total_steps,
            self.steps_done,
            self.io.log,
            first_loss=self.cursor.first_loss,
        )
        self.pace = LookPace(self.steps_done, self.total_steps, device_of(self.learner))
        self.learner.model.train()
        self.heartbeat.begin(self.steps_done)
        while not (self.stopping or self.out_of_patience or self.cursor.epoch >= config.epochs):
            self._epoch()
            if self.cursor.step == self.steps:
                self._end_epoch()
        if self.stopping:
            self._log(
                f"stopped after step {self.steps_done} of {self.total_steps}, with a checkpoint"
            )
            return False
        self._look()
        self.metrics.line(self.cursor.epoch - 1, self.steps_done, 0.0, self.world)
        if self.out_of_patience and self.cursor.epoch < config.epochs:
            self._log(f"stopped early: no better F1 for {config.patience} epochs")
        return True

    def _look(self) -> None:
        """Score the watched rows, unless they were after this very step."""
        if self.watch is None or self.looked_after == self.steps_done:
            return
        started = time.perf_counter()
        self.found = self.watch.look()
        self.metrics.looked("watch", self.found, self.steps_done)
        self.pace.looked(time.perf_counter() - started)
        self.looked_after = self.steps_done

    def close(self) -> None:
        """Write out what TensorBoard has not got yet."""
        self.metrics.close()

    def _epoch(self) -> None:
        """Take the epoch's steps from the cursor on, up to its end or until asked to stop."""
        for batch, global_batch in self._batches():
            result = self._step(batch, global_batch)
            action = self.heartbeat.after_step(self.steps_done)
            every = self.spec.config.checkpoint.every
            self.stopping = action is LoopAction.STOP
            self.checkpoint_due = action is not LoopAction.GO_ON or self.steps_done % every == 0
            look = self.watch is not None and self.pace.due(self.steps_done)
            ends = self.cursor.step == self.steps
            if look or ends or self.checkpoint_due or self.heartbeat.is_beat:
                check_finite(self.spec, self.learner.model, result.gradient_norm, self.steps_done)
            if look:
                self._look()
            if self.cursor.step == self.steps:
                continue  # the epoch ends here, and validation comes before the checkpoint
            if self.checkpoint_due:
                self._save()
            if action is LoopAction.CHECKPOINT:
                self._log(f"a node is about to go: checkpoint after step {self.steps_done}")
            if self.stopping:
                return

    def _batches(self) -> Iterator[tuple[Rows, int]]:
        """This rank's batches of the epoch from the cursor on, each with the images of all ranks' batches."""
        first = self.cursor.readings[-1].first_step
        reader = self._epoch_reader()
        batches = reader.epoch(self.cursor.epoch, self.cursor.step - first)
        for step, batch in enumerate(batches, self.cursor.step - first):
            yield batch, reader.plan.global_size(step)

    def _epoch_reader(self) -> ShardReader:
        cursor = self.cursor
        if len(cursor.readings) == 1:
            return self.reader
        return epoch_reader(
            self.spec.survey.train,
            cursor.readings,
            self.steps,
            self.rank,
            self.spec.config.seed,
            cursor.epoch,
            self.blocks,
            self.spec.survey.image_dim,
        )

    def _step(self, batch: Rows, global_batch: int) -> StepResult:
        cursor, optim = self.cursor, self.spec.config.optim
        progress = self.steps_done / self.total_steps
        result = self.learner.run(
            batch.features_BD,
            batch.tags,
            epoch=cursor.epoch,
            step=cursor.step,
            progress=progress,
            global_batch=global_batch,
        )
        cursor.step += 1
        self.metrics.step(result, global_batch)
        if self.metrics.due():
            rate = optim.lr * optim.rate(progress)
            self.metrics.line(cursor.epoch, self.steps_done, rate, self.world)
        return result

    def _end_epoch(self) -> None:
        """All steps of an epoch are taken: validate, and save a checkpoint where one is due."""
        cursor = self.cursor
        cursor.epoch, cursor.step, cursor.readings = cursor.epoch + 1, 0, [self.layout]
        if self.validation is not None:
            self._validate(self.validation)
        elif self.checkpoint_due or cursor.epoch == self.spec.config.epochs:
            self._save()

    def _validate(self, rows: WatchedRows) -> None:
        """Score the held-out rows. The best epoch so far is always saved."""
        cursor = self.cursor
        found = rows.look()
        self.metrics.looked("validation", found, self.steps_done)
        if found["F1"] > cursor.best_f1:
            self.found = found
            cursor.best_f1, cursor.best_epoch = found["F1"], cursor.epoch - 1
            cursor.stale_epochs = 0
            self._save(cursor.best_f1)
        else:
            cursor.stale_epochs += 1
            if self.checkpoint_due:
                self._save()
        self.io.validated(cursor.epoch, found)

    def _save(self, score: float | None = None) -> None:
        """Save a checkpoint.

        Args:
            score: F1 of the best epoch so far. Other checkpoints of a run with validation are below all of
                these: Ray Train keeps the last one and the best two. Without validation the last is best.
        """
        if score is None:
            score = -1.0 if self.spec.survey.validation else float(self.steps_done)
        self.cursor.first_loss = self.metrics.course.settle()
        place = {"epoch": self.cursor.epoch, "step": self.cursor.step, "done": self.steps_done}
        metrics = {"score": score, **place}
        folder = scratch_folder()
        try:
            checkpoint.save(folder, self.learner, self.cursor, self.spec.fingerprint, metrics)
            self.io.save(folder, metrics)
        except BaseException:  # a full disk fills no further, also where the process goes on
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if self.rank == 0:
            with suppress(OSError):  # progress and event files: they are pushed again next time
                self.run_folder.push()
        self.checkpoint_due = False

    def _log(self, line: str) -> None:
        if self.rank == 0:
            self.io.log(line)
