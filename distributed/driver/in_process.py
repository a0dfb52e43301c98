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
from distributed.training.build import build_learner
from distributed.training.trainer import train
from distributed.training.warm_start import warm_start


def launch(
    _enter: Any, settings: dict[str, Any], *, threads: int = 1, say: Log = print, **_: Any
) -> None:
    """In the place of ``distributed.driver.launch.launch``; one rank, on the CPU."""
    config, data = settings["config"], settings["data"]
    torch.set_num_threads(threads or 1)
    learner = build_learner(config, data, torch.device("cpu"))
    inherited = None
    if "parent" in settings:
        fresh = settings["origin"]["new_images"]
        inherited = warm_start(learner, settings["parent"], data, fresh)

    def drop(folder: Path, metrics: dict[str, Any]) -> None:
        shutil.rmtree(folder)

    @contextmanager
    def recall(metrics: dict[str, Any]) -> Iterator[str]:
        raise AssertionError("no checkpoint is kept: train without validation rows")
        yield ""

    train(
        config,
        data,
        settings["features"],
        learner,
        inline_blocks(config.data.columns, data.names),
        settings["fingerprint"],
        None,
        drop,
        recall,
        lambda line: (say(line), None)[1],
        origin=settings.get("origin"),
        inherited=inherited,
    )
