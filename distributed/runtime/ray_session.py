"""Ray as this project starts or joins it."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import ray

from distributed.storage.s3 import shared_environment
from drel_core.errors import InputError

ROOT = Path(__file__).resolve().parents[2]

# A step takes and frees the same large buffers again and again. glibc would give them back to the
# system each time and have it zero them anew: 2 to 5% of a CPU training step, and half the
# time of a small convolutional network (docs/log.md).
# One arena, because those of other threads than the first keep nothing above 64 MiB.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_ARENA_MAX": "1",
}


def local_ray() -> bool:
    """Whether this process starts a Ray of its own, rather than join the one RAY_ADDRESS names."""
    return not os.environ.get("RAY_ADDRESS")


def start_ray(workers: int) -> None:
    """Join the cluster that RAY_ADDRESS names, or start one on this machine."""
    if ray.is_initialized():
        return
    # Ray Train would send each line a second time through its logger.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    # A node is found lost sooner than by default (2 s), and a stopped job's checkpoint is noted before
    # `ray job stop` loses patience (3 s).
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
    # How long Ray Train waits for a replacement node before it resizes the worker group (default 60 s).
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")
    # Lines of progress come through the run's coordinator; the rest is in Ray's log files.
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    # Ray's own SIGTERM handler would end this process before a checkpoint is written.
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _init_ray(workers, quiet)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _init_ray(workers: int, quiet: dict[str, Any]) -> None:
    if not local_ray():
        environment = None
        if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
            environment = {
                "working_dir": str(ROOT),
                "excludes": [".venv", ".git", "examples"],
                "env_vars": shared_environment(),
            }
        try:
            ray.init(runtime_env=environment, **quiet)
        except ConnectionError as error:
            raise InputError(
                f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}: no cluster can be joined there "
                f"({' '.join(str(error).split())[:200]})"
            ) from None
        except (ValueError, RuntimeError) as error:
            if "maximum size" not in str(error):
                raise
            raise InputError(
                f"{ROOT} is too large to send to the cluster; name what its workers do not need in "
                ".rayignore, such as data, models and virtual environments"
            ) from None
        return
    # On two cores Ray's own idle processes cost a training step 5 to 10%: nobody preempts this
    # machine, and processes that read the store may go when they have nothing to do for a while.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    os.environ.setdefault("RAY_num_workers_soft_limit", "0")
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "8000")
    # One logical CPU above the workers, so that Ray Data's reads always find a place.
    cpus = max(os.cpu_count() or 1, workers) + 1
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
