"""Ray as this project starts or joins it."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from distributed.storage.s3 import shared_environment
from drel_core.errors import InputError, MachineBusy

RAY_STARTS = 15.0
"""Seconds until a Ray of this machine and its workers run, on two cores; 12 to 19 were seen."""
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
    """Join the cluster that RAY_ADDRESS names, or start one on this machine.

    Raises:
        InputError: the cluster cannot be joined.
        MachineBusy: Ray takes too long to start here.
    """
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


# Ray's node gives up where its own agent takes longer than 15 s to start. The next try finds files in memory,
# and the machine perhaps less busy.
_LOCAL_STARTS = 3
_JOIN_SECONDS = 20.0  # to join a cluster that answers
_SLICE = 0.2


def _reach(address: str) -> None:
    """Try the port: Ray itself would try for minutes, and let no signal through.

    Raises:
        InputError: nothing listens there.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():  # "auto", or a form that Ray will name
        return
    for attempt in range(3):
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
            return
        except (OSError, OverflowError) as error:
            if attempt == 2:
                why = getattr(error, "strerror", "") or error
                raise InputError(
                    f"RAY_ADDRESS={address}: nothing answers there ({why}); "
                    "start a head there (ray start --head), mend the address, or unset RAY_ADDRESS for a Ray "
                    "on this machine"
                ) from None
            time.sleep(1)


def _in_time(join: Callable[[], object]) -> None:
    """Join in another thread, so that signals reach this one.

    Raises:
        TimeoutError: it takes too long.
    """
    failed: list[BaseException] = []

    def run() -> None:
        try:
            join()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    until = time.monotonic() + _JOIN_SECONDS
    while thread.is_alive():
        thread.join(_SLICE)
        if time.monotonic() > until:
            raise TimeoutError
    if failed:
        raise failed[0]


def _token_hint() -> str:
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return "; if the cluster asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
    return "; check the token (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token): it must be the head's"


def _init_ray(workers: int, quiet: dict[str, Any]) -> None:
    if not local_ray():
        environment = None
        if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
            environment = {
                "working_dir": str(ROOT),
                "excludes": [".venv", ".git", "examples"],
                "env_vars": shared_environment(),
            }
        address = os.environ["RAY_ADDRESS"]
        _reach(address)
        try:
            _in_time(lambda: ray.init(runtime_env=environment, **quiet))
        except TimeoutError:
            raise InputError(
                f"RAY_ADDRESS={address}: something answers there, but no cluster could be joined within "
                f"{_JOIN_SECONDS:.0f} s; give the address of a head's GCS (HOST:6379){_token_hint()}"
            ) from None
        except (ConnectionError, ray.exceptions.AuthenticationError) as error:
            raise InputError(
                f"RAY_ADDRESS={address}: no cluster can be joined there "
                f"({' '.join(str(error).split())[:200]}){_token_hint()}"
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
    for attempt in range(_LOCAL_STARTS):
        try:
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
            return
        except Exception as error:  # of no type of its own
            if "timed out during startup" not in str(error):
                raise
            # What it has started goes on beside the next one, idle, and ends with this process.
            if attempt + 1 == _LOCAL_STARTS:
                raise MachineBusy(
                    f"Ray did not start on this machine, in {_LOCAL_STARTS} tries of the 30 s that it gives "
                    f"itself: other programs keep the processors busy (load {os.getloadavg()[0]:.0f} on "
                    f"{os.cpu_count()} cores). Give the same command again when less runs"
                ) from None
