"""Where a worker of Ray Train reports to: checkpoints to Ray Train, the rest to the run's coordinator."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train

from distributed.storage.folder import Folder
from distributed.storage.local_cache import RunFolder

PROGRESS = "progress.log"


class RayTrainIO:
    """What a ``ModelTrainer`` and its ``Heartbeat`` report to.

    Args:
        coordinator: handle of the ``RunCoordinator``.
        out: the run's output; lines of progress are kept there as well.
        run: tells the checkpoints of one launch from those of another.
    """

    def __init__(self, coordinator: Any, out: Folder, run: str) -> None:
        context = ray.train.get_context()
        self.coordinator, self.run, self.world = coordinator, run, context.get_world_size()
        self.run_folder = RunFolder(out)
        if context.get_world_rank() == 0:
            self.run_folder.take_up(PROGRESS)
        # A local folder takes a checkpoint faster than another thread is started.
        mode = ray.train.CheckpointUploadMode
        self.upload = mode.ASYNC if out.remote else mode.SYNC
        self.notices = os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER") != "0"
        self.noticed: set[int | None] = set()

    def log(self, line: str) -> None:
        self.coordinator.log.remote(line)
        with open(self.run_folder.folder / PROGRESS, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def save(self, folder: Path, metrics: dict[str, Any]) -> None:
        if self.upload is ray.train.CheckpointUploadMode.ASYNC:
            # One at a time: where S3 is slower than the steps, what is on its way would grow, and would be
            # lost with the driver. So at most the steps of two checkpoints are.
            ray.train.get_all_reported_checkpoints(
                consistency_mode=ray.train.CheckpointConsistencyMode.COMMITTED
            )
        # The name holds the world size: a report into an existing folder would mix with its files.
        place = f"epoch-{metrics['epoch']:05d}-step-{metrics['step']:08d}"
        ray.train.report(
            metrics,
            checkpoint=ray.train.Checkpoint.from_directory(str(folder)),
            checkpoint_dir_name=f"{place}-of-{self.world}-{self.run}",
            checkpoint_upload_mode=self.upload,
            delete_local_checkpoint_after_upload=True,
        )

    def validated(self, epoch: int, metrics: dict[str, Any]) -> None:
        """Ray Train needs no metrics beside those of checkpoints."""

    @contextmanager
    def best(self, epoch: int) -> Iterator[Path]:
        known = ray.train.get_all_reported_checkpoints(
            consistency_mode=ray.train.CheckpointConsistencyMode.COMMITTED
        )
        # The last one: an epoch that was cut off and run again was reported twice.
        place = {"epoch": epoch, "step": 0}.items()
        found = [one.checkpoint for one in known if place <= one.metrics.items()][-1]
        with found.as_directory() as folder:
            yield Path(folder)

    def begin(self, done: int) -> None:
        """The first step of this attempt is about to be taken, after ``done`` steps of the whole run."""
        ray.get(self.coordinator.begin.remote(self.world, done))

    def beat(self, done: int, until_next: int) -> int:
        """Tell the steps done and those until the next beat; gives the ``LoopAction``."""
        action: int = ray.get(self.coordinator.beat.remote(done, until_next))
        return action

    def preempted(self) -> bool:
        """Whether a node is about to go; yes once for each notice."""
        leaving = ray.train.get_preemption_info() if self.notices else None
        if leaving is None or leaving.deadline_ms in self.noticed:
            return False
        self.noticed.add(leaving.deadline_ms)
        return True
