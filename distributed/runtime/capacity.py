"""What a cluster has and can grow to, and waiting until workers fit, reporting what is missing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray

from distributed.runtime.progress import Log
from distributed.runtime.ray_internals import autoscaler_limit, autoscaler_status
from drel_core.errors import InputError

WorkerResources = dict[str, float]
"""What one worker needs, as Ray counts it: {"CPU": 1} or {"CPU": 1, "GPU": 1}."""
_REPEAT_SECONDS = 60.0  # after which the same line is logged again


@dataclass(frozen=True)
class Capacity:
    """Sums over the cluster's nodes; whether it adds nodes by itself (None: not known), and up to what
    sums, where the platform says so."""

    total: Mapping[str, float]
    free: Mapping[str, float]
    grows: bool | None = None
    limit: Mapping[str, float] | None = None


def capacity() -> Capacity:
    """Of the cluster that this process is part of, now."""
    limit = autoscaler_limit()
    grows = True if limit else grows_by(autoscaler_status())
    return Capacity(ray.cluster_resources(), ray.available_resources(), grows, limit)


def grows_by(status: bytes | None) -> bool | None:
    """Whether the autoscaler that wrote this status can start nodes.

    Ray runs one everywhere; without node types to start, its types are the nodes that there are
    ("node_<id>"). The second version of the autoscaler writes no status: not known.
    """
    if not status:
        return None
    try:
        report = json.loads(status).get("autoscaler_report") or {}
        types = [*report.get("active_nodes", {}), *(report.get("idle_nodes") or {})]
        return not all(name.startswith("node_") for name in types) if types else None
    except (ValueError, AttributeError, TypeError):  # a status of another form
        return None


def fits(resources: WorkerResources, have: Mapping[str, float]) -> int:
    """How many workers the sums have room for."""
    return min(int(have.get(name, 0) // amount) for name, amount in resources.items())


def format_resources(resources: WorkerResources) -> str:
    """``1 CPU``, ``1 CPU and 1 GPU``."""
    return " and ".join(f"{_number(amount)} {name}" for name, amount in resources.items())


def shortage(resources: WorkerResources, missing: int, have: Capacity) -> str:
    """One line: how many workers wait for what, and what there is."""
    there = ", ".join(
        f"{_number(have.free.get(name, 0))} of {_number(have.total.get(name, 0))} {name}s free"
        for name in resources
    )
    if have.limit is not None:
        most = ", ".join(f"{_number(have.limit.get(name, 0))} {name}s" for name in resources)
        grow = f"its autoscaler may start nodes up to {most}"
    elif have.grows:
        grow = "its autoscaler is asked for nodes"
    elif have.grows is None:
        grow = "nodes come if it has an autoscaler"
    else:
        grow = "it has no autoscaler, so nodes must be added by hand"
    return (
        f"waiting for {missing} more worker{'s' * (missing > 1)} of {format_resources(resources)}: "
        f"the cluster has {there}; {grow}"
    )


def check_feasible(resources: WorkerResources, workers: int, have: Capacity) -> None:
    """Raises:
    InputError: the autoscaler's limits are below what is asked for.
    """
    if have.limit is None:
        return
    for name, amount in resources.items():
        most = max(have.limit.get(name, 0), have.total.get(name, 0))
        if most < amount * workers:
            raise InputError(
                f"--workers {workers} need {_number(amount * workers)} {name}s, but the cluster can grow to "
                f"{_number(most)}; ask for fewer --workers or raise the autoscaler's limits"
            )


def wait_for_workers(
    resources: WorkerResources, workers: int, timeout: float, log: Log, check: Callable[[], None]
) -> None:
    """Return when the cluster has room for the workers; until then the autoscaler is asked for it.

    A placement group asks: the cluster adds nodes for what it has no room for.

    Args:
        check: called every second; what it raises ends the wait.

    Raises:
        InputError: not within ``timeout`` seconds, or never.
    """
    check_feasible(resources, workers, capacity())
    group: Any = ray.util.placement_group([resources] * workers)
    try:
        started, last, logged_at = time.monotonic(), "", 0.0
        wait = 2.0
        while not group.wait(wait):
            wait = 1.0
            have, now = capacity(), time.monotonic()
            check_feasible(resources, workers, have)
            line = shortage(resources, max(1, workers - fits(resources, have.free)), have)
            check()
            if now - started > timeout:
                raise InputError(
                    f"{line}; gave up after {timeout:.0f} s (--cluster.start_timeout); ask for fewer "
                    "--workers, or for a range such as 1:4"
                )
            if line != last or now - logged_at > _REPEAT_SECONDS:
                log(f"{line}; giving up after {timeout:.0f} s")
                last, logged_at = line, now
    finally:
        ray.util.remove_placement_group(group)


def _number(amount: float) -> str:
    return f"{amount:g}"
