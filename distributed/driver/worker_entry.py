"""Where Ray Train enters each worker: read the run's spec, build, restore, train, report.

Imports happen inside ``enter`` and the spec comes pickled, because Ray Train's controller loads
this module and its arguments as well and needs none of what they import: a run starts sooner.
"""

from __future__ import annotations

import os
import pickle
from typing import Any

PROGRESS = "progress.log"


def enter(arguments: dict[str, Any]) -> None:
    """One attempt of one worker. What an attempt cannot mend ends the run through the desk."""
    import ray

    from drel_core.errors import InputError

    desk = ray.get_actor(f"drel-desk-{arguments['run']}")
    if not ray.get(desk.may_begin.remote()):
        return
    try:
        _train(arguments, desk)
    except InputError as error:
        ray.get(desk.refuse.remote(str(error)))
        raise


def _train(arguments: dict[str, Any], desk: Any) -> None:
    from contextlib import AbstractContextManager, nullcontext
    from pathlib import Path

    import ray.train
    import ray.train.torch
    import torch

    from distributed.data.blocks import block_source
    from distributed.storage.folder import Folder
    from distributed.storage.local_cache import RunFolder
    from distributed.training.build import start_learner
    from distributed.training.heartbeat import Heartbeat
    from distributed.training.run_spec import RunSpec
    from distributed.training.trainer import train

    spec: RunSpec = pickle.loads(arguments["spec"])
    config, data = spec.config, spec.survey
    context = ray.train.get_context()
    world = context.get_world_size()
    cores = os.cpu_count() or 1
    torch.set_num_threads(config.threads or max(1, cores // context.get_local_world_size()))
    device = ray.train.torch.get_device() if arguments["cuda"] else torch.device("cpu")
    blocks = block_source(data, config.data.columns, arguments["own_cpus"])
    learner = start_learner(spec, device)
    scratch = RunFolder(Folder.of(config.out))
    if ray.train.get_context().get_world_rank() == 0:
        scratch.take_up(PROGRESS)
    # A local folder takes a checkpoint faster than another thread is started.
    mode = ray.train.CheckpointUploadMode
    upload = mode.ASYNC if scratch.out.remote else mode.SYNC

    def report(folder: Path, metrics: dict[str, Any]) -> None:
        # The name holds the world size: a report into an existing folder would mix with its files.
        name = (
            f"epoch-{metrics['epoch']:05d}-step-{metrics['step']:08d}-of-{world}-{arguments['run']}"
        )
        ray.train.report(
            metrics,
            checkpoint=ray.train.Checkpoint.from_directory(str(folder)),
            checkpoint_dir_name=name,
            checkpoint_upload_mode=upload,
            delete_local_checkpoint_after_upload=True,
        )

    def recall(metrics: dict[str, Any]) -> AbstractContextManager[str]:
        known = ray.train.get_all_reported_checkpoints(
            consistency_mode=ray.train.CheckpointConsistencyMode.COMMITTED
        )
        # The last one: an epoch that was cut off and run again was reported twice.
        found = [one.checkpoint for one in known if metrics.items() <= one.metrics.items()][-1]
        whole: AbstractContextManager[str] = found.as_directory()
        return whole

    def say(line: str) -> None:
        desk.say.remote(line)
        with open(scratch.folder / PROGRESS, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    told_of: set[int | None] = set()

    def notice() -> bool:
        if not watched:
            return False
        leaving = ray.train.get_preemption_info()
        if leaving is None or leaving.deadline_ms in told_of:
            return False
        told_of.add(leaving.deadline_ms)
        return True

    watched = os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER") != "0"
    heartbeat = Heartbeat(
        begin=lambda done: ray.get(desk.begin.remote(world, done)),
        ask=lambda done, until: ray.get(desk.beat.remote(done, until)),
        notice=notice,
        device=device,
    )
    found = ray.train.get_checkpoint()
    with found.as_directory() if found is not None else nullcontext(None) as at:
        restore = None if at is None else Path(at)
        figures = train(spec, learner, blocks, restore, report, recall, say, heartbeat=heartbeat)
    if "stopped" in figures and context.get_world_rank() == 0:
        ray.get(desk.stopped_at.remote(figures["stopped"]))
