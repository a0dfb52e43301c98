"""Where Ray Train enters each worker: read the settings, build, restore, train, report.

Imports happen inside ``enter`` and the settings come pickled, because Ray Train's controller loads
this module and its arguments as well and needs none of what they import: a run starts sooner.
"""

from __future__ import annotations

import pickle
from typing import Any

PROGRESS = "progress.log"


def enter(arguments: dict[str, bytes]) -> None:
    from contextlib import nullcontext
    from pathlib import Path

    import ray.train
    import ray.train.torch
    import torch

    from distributed.config import TrainConfig
    from distributed.pipeline import inline_blocks
    from distributed.store_survey import StoreSurvey
    from distributed.train_loop import build_learner, train
    from distributed.unit_tasks import INLINE_BYTES

    settings: dict[str, Any] = pickle.loads(arguments["settings"])
    config: TrainConfig = settings["config"]
    data: StoreSurvey = settings["data"]
    world = ray.train.get_context().get_world_size()
    torch.set_num_threads(settings["threads"])
    device = ray.train.torch.get_device() if settings["cuda"] else torch.device("cpu")
    if data.train_rows * data.image_dim * data.item_bytes <= INLINE_BYTES:
        blocks = inline_blocks(config.data.columns, data.names)
    else:
        from distributed.ray_blocks import ray_blocks

        blocks = ray_blocks(config.data.columns, data.names, data.image_dim, data.item_bytes)
    learner = build_learner(config, data, device)
    if "parent" in settings:
        from distributed.growth import grow
        from distributed.step import Stepper

        assert isinstance(learner, Stepper)
        grow(learner, settings["parent"])
    kept = Path(config.out) / "checkpoints"

    def report(folder: Path, metrics: dict[str, Any]) -> Path:
        # The name holds the world size: a report into an existing folder would mix with its files.
        name = (
            f"epoch-{metrics['epoch']:05d}-step-{metrics['step']:08d}-of-{world}-{settings['run']}"
        )
        ray.train.report(
            metrics,
            checkpoint=ray.train.Checkpoint.from_directory(str(folder)),
            checkpoint_dir_name=name,
            delete_local_checkpoint_after_upload=True,
        )
        return kept / name

    def say(line: str) -> None:
        print(line, flush=True)
        with open(Path(config.out) / PROGRESS, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    found = ray.train.get_checkpoint()
    mark = settings["fingerprint"]
    with found.as_directory() if found is not None else nullcontext(None) as at:
        restore = None if at is None else Path(at)
        train(
            config, data, settings["features"], learner, blocks, mark, restore, report, say,
            origin=settings.get("origin"),
        )  # fmt: skip
