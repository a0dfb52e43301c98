"""Starting Ray Train's workers and following them: the same for every method that trains in a loop."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
import ray.train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distributed.driver import checkpoint_list
from distributed.driver.coordinator import (
    CoordinatorCallback,
    RunCoordinator,
    RunStatus,
    actor_name,
)
from distributed.driver.worker_entry import enter
from distributed.runtime.capacity import (
    Capacity,
    WorkerResources,
    capacity,
    fits,
    shortage,
    wait_for_workers,
)
from distributed.runtime.progress import EVERY, QUIET, Log, counted, duration, saying
from distributed.runtime.ray_session import MALLOC, local_ray, start_ray
from distributed.runtime.signals import Stopped, StopRequest
from distributed.runtime.worker_range import Workers
from distributed.storage.folder import Folder
from distributed.storage.s3 import keep_s3
from distributed.training.config import TrainConfig
from distributed.training.run_spec import RunSpec
from drel_core.errors import Diverged, InputError

_CHECKPOINTS = "checkpoints"
_MORE_ATTEMPTS = 2  # S3 may be gone four times as long
_IDLE = 10.0  # seconds without workers after which a line says what they wait for
Enter = Callable[[dict[str, Any]], None]
Launcher = Callable[[RunSpec, Log], None]
"""Trains as a spec says and leaves the bundle in ``config.out``: ``launch``, or one that tests hand in."""


def launch(spec: RunSpec, log: Log, enter: Enter = enter) -> None:
    """Train as the spec says on workers of Ray Train, resuming from the last checkpoint in ``config.out``.

    The run outlives lost workers and nodes: it goes on from its last checkpoint, with another number of
    workers when ``config.workers`` is a range.

    Args:
        enter: what every worker runs; gets the spec (pickled), whether it has a GPU, the run's name and
            whether Ray Data's reads have CPUs of their own.

    Raises:
        InputError: the cluster has not enough for the least workers, or a worker found the input wrong.
        Diverged: the training ended in NaN.
        Stopped: the job was asked to stop; a checkpoint is written.
        RuntimeError: the run failed again and again at the same place.
    """
    config = spec.config
    workers = config.workers
    checkpoint_list.mend(_checkpoints(config), log)
    log(f"starting {counted(most_workers(workers), 'worker')}")
    with saying(log, "starting Ray"):
        start_ray(workers.least)
    with StopRequest() as stop:
        cuda = on_gpus(workers, config.device, capacity())
        resources: WorkerResources = {"CPU": 1, "GPU": 1} if cuda else {"CPU": 1}
        if not local_ray():
            wait_for_workers(
                resources, workers.least, config.cluster.start_timeout, log, stop.check
            )
        run = os.urandom(3).hex()
        coordinator = _start_coordinator(run, config)
        arguments = {"spec": pickle.dumps(spec), "cuda": cuda, "run": run, "own_cpus": local_ray()}
        callback = CoordinatorCallback(coordinator, _checkpoints(config))
        fit = _Fit(_make_trainer(config, enter, arguments, callback))
        fit.start()
        status = _follow(coordinator, fit, stop, resources, workers, log)
    ray.kill(coordinator)
    if status.refused is not None:
        raise Diverged(status.refused) if status.diverged else InputError(status.refused)
    if status.given_up is not None:
        raise RuntimeError(status.given_up)
    if fit.error is not None:
        raise fit.error
    if status.stopped is not None:
        raise Stopped(stop.signum)


def _checkpoints(config: TrainConfig) -> Folder:
    return Folder.of(config.out) / _CHECKPOINTS


def _start_coordinator(run: str, config: TrainConfig) -> Any:
    # On the driver's node, so that it is lost only with the driver.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(num_cpus=0)(RunCoordinator)
    return actor.options(name=actor_name(run), scheduling_strategy=here).remote(
        config.cluster.failures, config.checkpoint.every
    )


def _make_trainer(
    config: TrainConfig, enter: Enter, arguments: dict[str, Any], callback: CoordinatorCallback
) -> TorchTrainer:
    """Ray Train's side of a run: how many workers, with what, and which checkpoints are kept where."""
    least, most = config.workers.least, most_workers(config.workers)
    cuda: bool = arguments["cuda"]
    filesystem, place = ray_train_storage(Folder.of(config.out))
    return TorchTrainer(
        enter,
        train_loop_config=arguments,
        torch_config=TorchConfig(backend="nccl" if cuda else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=(least, most) if least < most else most,  # type: ignore[arg-type]  # v1 types
            use_gpu=cuda,
            elastic_resize_monitor_interval_s=config.cluster.resize_every,  # type: ignore[call-arg]
        ),
        run_config=RunConfig(
            name=_CHECKPOINTS,
            storage_path=place,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(
                num_to_keep=2, checkpoint_score_attribute="score", checkpoint_score_order="max"
            ),
            # The coordinator decides when it is enough.
            failure_config=FailureConfig(max_failures=-1),
            callbacks=[callback],  # type: ignore[list-item]
            worker_runtime_env={"env_vars": MALLOC},  # type: ignore[call-arg]
        ),
    )


def ray_train_storage(folder: Folder) -> tuple[Any, str]:
    """A folder as Ray Train wants it: a filesystem of ours with a path in it, or None with a local path."""
    if not folder.remote:
        return None, folder.address
    # What the controller cannot write ends the run, where a worker that cannot read begins again.
    return keep_s3(folder.address, _MORE_ATTEMPTS)


def most_workers(workers: Workers) -> int:
    """The largest group that is asked for: on this machine no more than it has cores."""
    if not local_ray():
        return workers.most
    return max(workers.least, min(workers.most, os.cpu_count() or 1))


def on_gpus(workers: Workers, device: str, have: Capacity) -> bool:
    """Whether each worker takes a GPU.

    Raises:
        InputError: it has to, but the cluster has not enough and cannot grow to it.
    """
    most = max(have.total.get("GPU", 0), (have.limit or {}).get("GPU", 0))
    if device == "cuda" and most < workers.least:
        raise InputError(
            f"device cuda with {workers.least} workers, but the cluster has {int(most)} GPUs; "
            "use fewer --workers or --device cpu"
        )
    return device == "cuda" or (device == "auto" and most >= workers.least)


class _Fit(threading.Thread):
    """Ray Train's driver side, beside the main thread, which has the signals (Ray Train would end the
    run without a checkpoint on Ctrl-C)."""

    def __init__(self, trainer: TorchTrainer) -> None:
        super().__init__(daemon=True)
        self.trainer = trainer
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.trainer.fit()
        except BaseException as error:
            cause = _input_error(error)
            self.error = error if cause is None else InputError(cause)


def _follow(
    coordinator: Any,
    fit: _Fit,
    stop: StopRequest,
    resources: WorkerResources,
    workers: Workers,
    log: Log,
) -> RunStatus:
    """Show the coordinator's lines until the run ends, and hand on a request to stop."""
    shown, waiting, handed_on = 0, "", False
    started = time.monotonic()
    due = started + QUIET
    while True:
        fit.join(0.3)
        ended = not fit.is_alive()
        status: RunStatus = ray.get(coordinator.status.remote(shown))
        for line in status.lines:
            log(line)
        shown += len(status.lines)
        if not (shown or status.running) and time.monotonic() > due:
            log(f"workers are starting, {duration(time.monotonic() - started)} so far")
            due += 2 * EVERY
        if ended:
            return status
        if stop.signum and not handed_on:
            if not status.running:
                log("stopped before this attempt took a step; what was saved before stays")
                raise Stopped(stop.signum)
            ray.get(coordinator.stop.remote())
            handed_on = True
        if status.running:
            waiting = ""
        elif status.idle > _IDLE and not local_ray():
            have = capacity()
            missing = workers.least - fits(resources, have.total)
            line = shortage(resources, missing, have) if missing > 0 else waiting
            if line != waiting:
                log(line)
                waiting = line


def _input_error(error: BaseException) -> str | None:
    """The message of an InputError that a worker raised, if that is what ended the run."""
    failures = getattr(error, "worker_failures", {}) or {}
    for failure in [error, *failures.values()]:
        at: BaseException | None = failure
        while at is not None:
            if isinstance(at, InputError):
                return str(at)
            at = at.__cause__ or getattr(at, "cause", None)
    text = str(error)
    mark = "InputError: "
    return text.split(mark, 1)[1].splitlines()[0] if mark in text else None
