"""What a cluster has and can grow to; waiting for it with a word of what is missing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.experimental.internal_kv import _internal_kv_get

from drel_core.errors import InputError

Bundle = dict[str, float]
"""What one worker needs, as Ray counts it: {"CPU": 1} or {"CPU": 1, "GPU": 1}."""
_AGAIN = 60.0  # seconds after which the same line is said again


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
    # What Ray Train's own check before a start reads; Ray has no public name for it.
    limit = ray._private.state.state.get_max_resources_from_cluster_config() or None
    grows = True if limit else grows_by(_internal_kv_get(DEBUG_AUTOSCALING_STATUS))
    return Capacity(ray.cluster_resources(), ray.available_resources(), grows, limit)


def grows_by(status: bytes | None) -> bool | None:
    """Whether the autoscaler that wrote this status can start nodes.

    Ray runs one everywhere; without node types to start, its types are the nodes that there are
    ("node_<id>"). The second version of the autoscaler writes no status: not known.
    """
    if not status:
        return None
    report = json.loads(status).get("autoscaler_report") or {}
    types = [*report.get("active_nodes", {}), *(report.get("idle_nodes") or {})]
    return not all(name.startswith("node_") for name in types) if types else None


def fits(bundle: Bundle, have: Mapping[str, float]) -> int:
    """How many bundles the sums have room for."""
    return min(int(have.get(name, 0) // amount) for name, amount in bundle.items())


def told(bundle: Bundle) -> str:
    """``1 CPU``, ``1 CPU and 1 GPU``."""
    return " and ".join(f"{_number(amount)} {name}" for name, amount in bundle.items())


def shortage(bundle: Bundle, missing: int, have: Capacity) -> str:
    """One line: how many workers wait for what, and what there is."""
    there = ", ".join(
        f"{_number(have.free.get(name, 0))} of {_number(have.total.get(name, 0))} {name}s free"
        for name in bundle
    )
    if have.limit is not None:
        most = ", ".join(f"{_number(have.limit.get(name, 0))} {name}s" for name in bundle)
        grow = f"its autoscaler may start nodes up to {most}"
    elif have.grows:
        grow = "its autoscaler is asked for nodes"
    elif have.grows is None:
        grow = "nodes come if it has an autoscaler"
    else:
        grow = "it has no autoscaler, so nodes must be added by hand"
    return (
        f"waiting for {missing} more worker{'s' * (missing > 1)} of {told(bundle)}: "
        f"the cluster has {there}; {grow}"
    )


def check_feasible(bundle: Bundle, workers: int, have: Capacity) -> None:
    """Raises:
    InputError: the autoscaler's limits are below what is asked for.
    """
    if have.limit is None:
        return
    for name, amount in bundle.items():
        most = max(have.limit.get(name, 0), have.total.get(name, 0))
        if most < amount * workers:
            raise InputError(
                f"--workers {workers} need {_number(amount * workers)} {name}s, but the cluster can grow to "
                f"{_number(most)}; ask for fewer --workers or raise the autoscaler's limits"
            )


def wait_for_workers(
    bundle: Bundle,
    workers: int,
    timeout: float,
    say: Callable[[str], object],
    check: Callable[[], None],
) -> None:
    """Return when the cluster has room for the workers; until then the autoscaler is asked for it.

    A placement group asks: the cluster adds nodes for what it has no room for.

    Args:
        check: called every second; what it raises ends the wait.

    Raises:
        InputError: not within ``timeout`` seconds, or never.
    """
    check_feasible(bundle, workers, capacity())
    group: Any = ray.util.placement_group([bundle] * workers)
    try:
        started, last, said = time.monotonic(), "", 0.0
        wait = 2.0
        while not group.wait(wait):
            wait = 1.0
            have, now = capacity(), time.monotonic()
            check_feasible(bundle, workers, have)
            line = shortage(bundle, max(1, workers - fits(bundle, have.free)), have)
            check()
            if now - started > timeout:
                raise InputError(
                    f"{line}; gave up after {timeout:.0f} s (--cluster.start_timeout); ask for fewer "
                    "--workers, or for a range such as 1:4"
                )
            if line != last or now - said > _AGAIN:
                say(f"{line}; giving up after {timeout:.0f} s")
                last, said = line, now
    finally:
        ray.util.remove_placement_group(group)


def _number(amount: float) -> str:
    return f"{amount:g}"
