"""Training as one worker does it, in the calling process and without Ray: for tests and benchmarks, where
starting Ray would take longer than the training. Checkpoints are not kept."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from distributed.data.blocks import inline_blocks
from distributed.runtime.progress import Log
from distributed.training.build import start_learner
from distributed.training.run_spec import RunSpec
from distributed.training.trainer import train


def launch(spec: RunSpec, say: Log) -> None:
    """In the place of ``distributed.driver.launch.launch``; one rank, on the CPU."""
    config = spec.config
    torch.set_num_threads(config.threads or 1)
    learner = start_learner(spec, torch.device("cpu"))

    def drop(folder: Path, metrics: dict[str, Any]) -> None:
        shutil.rmtree(folder)

    @contextmanager
    def recall(metrics: dict[str, Any]) -> Iterator[str]:
        raise AssertionError("no checkpoint is kept: train without validation rows")
        yield ""

    train(
        spec,
        learner,
        inline_blocks(config.data.columns, spec.survey.names),
        None,
        drop,
        recall,
        lambda line: (say(line), None)[1],
    )
