"""Starting Ray Train's workers and following them: the same for every method that trains in a loop."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable
from typing import Any

import ray
import ray.train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distributed.driver.coordinator import CoordinatorCallback, RunCoordinator, RunStatus
from distributed.driver.worker_entry import enter
from distributed.runtime.capacity import WorkerResources, capacity, fits, shortage, wait_for_workers
from distributed.runtime.progress import Log
from distributed.runtime.ray_session import MALLOC, local_ray, start_ray
from distributed.runtime.signals import Stopped, StopRequest
from distributed.runtime.worker_range import Workers
from distributed.storage.folder import Folder, storage
from distributed.training.run_spec import RunSpec
from drel_core.errors import InputError

_IDLE = 10.0  # seconds without workers after which it is said what they wait for
Launcher = Callable[[RunSpec, Log], None]
"""Trains as a spec says and leaves the bundle in ``config.out``: ``launch``, or one that tests hand in."""


def launch(spec: RunSpec, say: Log, enter: Callable[[dict[str, Any]], None] = enter) -> None:
    """Train as the spec says on workers of Ray Train, resuming from the last checkpoint in ``config.out``.

    Lost workers and nodes are lived through: the run goes on from its last checkpoint, with other
    workers when ``config.workers`` is a range.

    Args:
        enter: what every worker runs; gets the spec (pickled), whether it has a GPU, the run's name and
            whether Ray Data's reads have CPUs of their own.

    Raises:
        InputError: the cluster has not enough for the least workers, or a worker found the input wrong.
        Stopped: the job was asked to stop; a checkpoint is written.
        RuntimeError: the run failed again and again at the same place.
    """
    config = spec.config
    workers, cluster = config.workers, config.cluster
    start_ray(workers.least)
    with StopRequest() as asked:
        cuda = _on_gpus(workers, config.device)
        bundle: WorkerResources = {"CPU": 1, "GPU": 1} if cuda else {"CPU": 1}
        most = workers.most
        if local_ray():
            most = max(workers.least, min(most, os.cpu_count() or 1))
        else:
            wait_for_workers(bundle, workers.least, cluster.start_timeout, say, asked.check)
        run = os.urandom(3).hex()
        # On the driver's node, so that it is lost only with the driver.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        desk: Any = (
            ray.remote(num_cpus=0)(RunCoordinator)
            .options(name=f"drel-desk-{run}", scheduling_strategy=here)
            .remote(cluster.failures, config.checkpoint.every)
        )
        filesystem, place = storage(Folder.of(config.out))
        trainer = TorchTrainer(
            enter,
            train_loop_config={
                "spec": pickle.dumps(spec),
                "cuda": cuda,
                "run": run,
                "own_cpus": local_ray(),
            },
            torch_config=TorchConfig(backend="nccl" if cuda else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=(workers.least, most) if workers.least < most else most,  # type: ignore[arg-type]  # v1 types
                use_gpu=cuda,
                elastic_resize_monitor_interval_s=cluster.resize_every,  # type: ignore[call-arg]
            ),
            run_config=RunConfig(
                name="checkpoints",
                storage_path=place,
                storage_filesystem=filesystem,
                checkpoint_config=CheckpointConfig(
                    num_to_keep=2, checkpoint_score_attribute="score", checkpoint_score_order="max"
                ),
                # The desk decides when it is enough.
                failure_config=FailureConfig(max_failures=-1),
                callbacks=[CoordinatorCallback(desk)],  # type: ignore[list-item]
                worker_runtime_env={"env_vars": MALLOC},  # type: ignore[call-arg]
            ),
        )
        fit = _Fit(trainer)
        fit.start()
        news = _follow(desk, fit, asked, bundle, workers, say)
    ray.kill(desk)
    if news.refused is not None:
        raise InputError(news.refused)
    if news.given_up is not None:
        raise RuntimeError(news.given_up)
    if fit.error is not None:
        raise fit.error
    if news.stopped is not None:
        raise Stopped(asked.signum)


def _on_gpus(workers: Workers, device: str) -> bool:
    """Whether each worker takes a GPU.

    Raises:
        InputError: it has to, but the cluster has not enough and cannot grow to it.
    """
    have = capacity()
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
    desk: Any, fit: _Fit, asked: StopRequest, bundle: WorkerResources, workers: Workers, say: Log
) -> RunStatus:
    """Show what the desk has to tell until the run ends; hand on the wish to stop."""
    shown, said, handed_on = 0, "", False
    while True:
        fit.join(0.3)
        ended = not fit.is_alive()
        news: RunStatus = ray.get(desk.news.remote(shown))
        for line in news.lines:
            say(line)
        shown += len(news.lines)
        if ended:
            return news
        if asked.signum and not handed_on:
            if not news.running:
                raise Stopped(asked.signum)
            ray.get(desk.stop.remote())
            handed_on = True
        if news.running:
            said = ""
        elif news.idle > _IDLE and not local_ray():
            have = capacity()
            missing = workers.least - fits(bundle, have.total)
            line = shortage(bundle, missing, have) if missing > 0 else said
            if line != said:
                say(line)
                said = line


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
