"""Training as one worker does it, in the calling process and without Ray: for tests and benchmarks, where
starting Ray would take longer than the training."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from distributed.data.blocks import inline_blocks
from distributed.runtime.progress import Log
from distributed.storage.scratch import scratch_folder
from distributed.training.build import build_learner
from distributed.training.model_trainer import ModelTrainer
from distributed.training.run_spec import RunSpec


class InProcessIO:
    """Keeps the checkpoint with the highest score in a folder of its own; a run cannot be resumed from it.

    Args:
        log: takes the lines of progress.
        folder: for the checkpoint.
    """

    def __init__(self, log: Log, folder: Path) -> None:
        self.log, self.kept = log, folder / "best"
        self.score, self.epoch = float("-inf"), 0

    def save(self, folder: Path, metrics: dict[str, Any]) -> None:
        if metrics["score"] <= self.score:
            shutil.rmtree(folder)
            return
        shutil.rmtree(self.kept, ignore_errors=True)
        shutil.move(folder, self.kept)
        self.score, self.epoch = metrics["score"], metrics["epoch"]

    def validated(self, epoch: int, metrics: dict[str, Any]) -> None:
        """Nobody waits for them."""

    @contextmanager
    def best(self, epoch: int) -> Iterator[Path]:
        assert epoch == self.epoch, f"the best checkpoint is of epoch {self.epoch}, not {epoch}"
        yield self.kept


def launch(spec: RunSpec, log: Log) -> None:
    """A ``Launcher`` of one rank on the CPU, which always begins at the start."""
    torch.set_num_threads(spec.config.threads or 1)
    learner = build_learner(spec, torch.device("cpu"))
    blocks = inline_blocks(spec.config.data.columns, spec.survey.index)
    folder = scratch_folder()
    try:
        ModelTrainer(spec, learner, blocks, InProcessIO(log, folder)).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
