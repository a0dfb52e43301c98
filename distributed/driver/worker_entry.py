"""Where Ray Train enters each worker: read the run's spec, build, restore, train.

Imports happen inside the functions and the spec comes pickled, because Ray Train's controller loads this
module and its arguments as well and needs none of what they import: a run starts sooner.
"""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed.training.run_spec import RunSpec


def enter(arguments: dict[str, Any]) -> None:
    """One attempt of one worker. What no attempt can mend ends the run through the coordinator.

    Args:
        arguments: as ``launch`` gives them.
    """
    import ray

    from distributed.driver.coordinator import actor_name
    from drel_core.errors import Diverged, InputError, disk_fault

    coordinator: Any = ray.get_actor(actor_name(arguments["run"]))
    if not ray.get(coordinator.may_begin.remote()):
        return
    spec: RunSpec = pickle.loads(arguments["spec"])
    try:
        _train(spec, arguments, coordinator)
    except (InputError, Diverged) as error:
        ray.get(coordinator.refuse.remote(str(error), isinstance(error, Diverged)))
        raise
    except BaseException as error:
        if (fault := disk_fault(error)) is not None:  # the next attempt would fill it as well
            ray.get(coordinator.refuse.remote(_of_disk(fault, spec.config.out)))
        raise


def _of_disk(fault: OSError, out: str) -> str:
    import socket

    from distributed.storage.scratch import fullest

    place = fault.filename or fullest(out)
    return (
        f"{place} on {socket.gethostname()}: {fault.strerror}; make room there, and the same command goes on "
        "from the last checkpoint"
    )


def _train(spec: RunSpec, arguments: dict[str, Any], coordinator: Any) -> None:
    from pathlib import Path

    import ray.train.torch
    import torch

    from distributed.data.blocks import block_source
    from distributed.driver.ray_train_io import RayTrainIO
    from distributed.storage.folder import Folder
    from distributed.training.build import build_learner
    from distributed.training.heartbeat import Heartbeat
    from distributed.training.model_trainer import ModelTrainer

    config, context = spec.config, ray.train.get_context()
    cores = os.cpu_count() or 1
    torch.set_num_threads(config.threads or max(1, cores // context.get_local_world_size()))
    device = ray.train.torch.get_device() if arguments["cuda"] else torch.device("cpu")
    io = RayTrainIO(coordinator, Folder.of(config.out), arguments["run"])
    trainer = ModelTrainer(
        spec,
        build_learner(spec, device),
        block_source(spec.survey, config.data.columns, arguments["own_cpus"]),
        io,
        Heartbeat(begin=io.begin, ask=io.beat, notice=io.preempted, device=device),
    )
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            trainer.restore(Path(folder))
    if not trainer.run() and context.get_world_rank() == 0:
        ray.get(coordinator.stopped_at.remote(trainer.steps_done))
