"""Starting Ray Train's workers and following them: the same for every method that trains in a loop."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import ray
import ray.train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from distributed.folder import Folder, storage
from distributed.scratch import Scratch
from distributed.unit_tasks import MALLOC, local_ray, start_ray
from distributed.worker import PROGRESS
from drel_core.errors import InputError

Say = Callable[[str], object]


def launch(
    enter: Callable[[dict[str, bytes]], None],
    settings: dict[str, Any],
    *,
    out: str,
    workers: int,
    threads: int,
    device: Literal["auto", "cpu", "cuda"],
    say: Say,
) -> None:
    """Run ``enter`` on every worker, resuming from the last checkpoint below ``out``.

    Args:
        enter: gets {"settings": pickled}; to the settings are added threads, cuda and a run's mark.
        threads: of each worker; 0 shares the cores of a node.

    Raises:
        InputError: not enough GPUs, or a worker found the input wrong.
    """
    start_ray(workers)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    cuda = device == "cuda" or (device == "auto" and gpus >= workers)
    if cuda and gpus < workers:
        raise InputError(
            f"device cuda with {workers} workers, but the cluster has {gpus} GPUs; "
            "use fewer --workers or --device cpu"
        )
    per_node = -(-workers // max(1, len(ray.nodes())))
    settings = {
        **settings,
        "threads": threads or max(1, (os.cpu_count() or 1) // per_node),
        "cuda": cuda,
        "run": os.urandom(3).hex(),
    }
    filesystem, place = storage(Folder.of(out))
    scratch = Scratch(Folder.of(out))
    scratch.take_up(PROGRESS)
    trainer = TorchTrainer(
        enter,
        train_loop_config={"settings": pickle.dumps(settings)},
        torch_config=TorchConfig(backend="nccl" if cuda else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=cuda),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=place,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(
                num_to_keep=2, checkpoint_score_attribute="score", checkpoint_score_order="max"
            ),
            failure_config=FailureConfig(max_failures=3),
            worker_runtime_env={"env_vars": MALLOC},  # type: ignore[call-arg]  # v1 types
        ),
    )
    try:
        with _Follower(scratch.folder / PROGRESS, say):
            trainer.fit()
    except ray.train.TrainingFailedError as error:
        cause = _input_error(error)
        if cause is not None:
            raise InputError(cause) from None
        raise


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


class _Follower:
    """Shows the lines that rank 0 adds to the progress file while the driver waits.

    With a Ray of our own its log stream is off (it repeats what Ray's own helpers print). In a
    cluster the log stream carries the lines, because the file may be on another machine.
    """

    def __init__(self, path: Path, say: Say) -> None:
        self.path, self.say = path, say
        self.at = path.stat().st_size if path.exists() else 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> None:
        if local_ray():
            self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        if self.thread.is_alive():
            self.thread.join()

    def _follow(self) -> None:
        while True:
            last = self.stop.wait(0.3)
            if self.path.exists():
                with open(self.path, encoding="utf-8") as file:
                    file.seek(self.at)
                    lines = file.read()
                    self.at = file.tell()
                for line in lines.splitlines():
                    self.say(line)
            if last:
                return
